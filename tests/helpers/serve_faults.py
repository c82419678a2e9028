"""``make serve-faults``: workers that are killed, a full disk and malformed requests, at length.

Requests come from schemathesis, which reads the service's own description, and from mutations of what it made. A status of 5xx
fails the run unless the fault that was made explains it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

from helpers.asgi_service import InProcess, in_process
from helpers.http_service import Service, running
from sidkit.serve.openapi import openapi

ITEMS = [f"i{number}" for number in range(40)]
PER_CASE = 20
"""Requests per case of schemathesis: itself, and mutations of it."""
_HEADERS = (
    {}, {"content-type": "text/plain"}, {"x-request-id": "\x00" * 80}, {"authorization": "Bearer \xff"},
    {"content-length": "-1"}, {"content-length": "9" * 30}, {"accept": "*/*;q=x"}, {"x-request-id": "ok-1"},
)  # fmt: skip
_SPLICES = (
    b"\x00",
    b"\xff\xfe",
    b'"\\ud800"',
    b"[" * 2_000,
    b"1e999",
    b"-0",
    b"NaN",
    b"9" * 400,
    b"{}",
    b"null",
    b'"u1"',
    b",",
)


class Load:
    """Clients that send requests one after another until they are stopped."""

    def __init__(self, service: Service, clients: int) -> None:
        self.statuses: Counter[str] = Counter()
        self._service = service
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                answer = self._service.rank(user_id="u1", item_ids=ITEMS)
                self.statuses[str(answer.status)] += 1
            except (OSError, ValueError) as error:  # the connection of a worker that was killed
                self.statuses[type(error).__name__] += 1
            except Exception as error:  # noqa: BLE001
                self.statuses[f"broken {type(error).__name__}"] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def workers_of(service: Service) -> list[int]:
    """Processes that answer."""
    pid = service.process.pid
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for each in children if b"spawn_main" in _command(each)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def killed_workers(repo: Path, kills: int, clients: int = 2) -> dict[str, Any]:
    """SIGKILL one of two workers again and again, under load; each is replaced before the next kill."""
    draw, replaced = random.Random(0), []
    with running(repo, "--workers", 2) as service:
        loaded = lambda number: lambda one: one.log.read_text().count("serving ranker") >= number  # noqa: E731
        service.wait_until(loaded(2))
        with Load(service, clients) as load:
            for kill in range(kills):
                before = time.monotonic()
                os.kill(draw.choice(workers_of(service)), signal.SIGKILL)
                service.wait_until(loaded(3 + kill))
                replaced.append(round(time.monotonic() - before, 2))
        found = dict(load.statuses)
        stopped = service.stop()
    cut = sum(count for status, count in found.items() if not status.isdigit())
    return {
        "kills": kills, "clients": clients, "answers": found, "cut connections": cut, "exit code": stopped,
        "seconds until replaced": {"median": sorted(replaced)[len(replaced) // 2], "longest": max(replaced)},
        "right": {each for each in found if each.isdigit()} == {"200"} and cut <= kills * clients and stopped == 0,
    }  # fmt: skip


def full_disk(repo: Path, requests: int) -> dict[str, Any]:
    """No file of the service can grow, as on a full disk: its log, the online store's index, caches."""
    statuses: Counter[str] = Counter()
    with running(repo) as service:
        fixed = {"user_id": "u1", "item_ids": ITEMS, "at": "2040-01-01T00:00:00Z"}  # ages grow with the clock
        expected = service.rank(**fixed).json["items"]
        _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        same = True
        for number in range(requests):
            replayed = number % 10 == 0
            answer = service.rank(**fixed) if replayed else service.rank(user_id="u1", item_ids=ITEMS)
            statuses[str(answer.status)] += 1
            same = same and answer.status == 200 and (not replayed or answer.json["items"] == expected)
            if number % 100 == 50:
                service.process.send_signal(signal.SIGHUP)  # look for another model
        statuses[f"ready {service.call('GET', '/v2/health/ready').status}"] += 1
        stopped = service.stop()
    right = same and set(statuses) == {"200", "ready 200"} and stopped == 0
    return {"requests": requests, "answers": dict(statuses), "same scores": same, "right": right}


def malformed(service: InProcess, requests: int, seed: int = 0, each: int = 25) -> dict[str, Any]:
    """Requests that schemathesis makes of the description, and mutations of them."""
    statuses: Counter[str] = Counter()
    wrong: list[Any] = []
    began = time.monotonic()
    ask = _asker(service, statuses, wrong)
    draw = random.Random(seed)
    cases = 0
    while statuses.total() < requests and not wrong:
        for method, path, query, body in schema_cases(seed + cases, each):
            cases += 1
            ask(method, path, query, body, {})
            for _ in range(PER_CASE - 1):
                ask(*_mutated(draw, method, path, query, body))
            if statuses.total() >= requests or wrong:
                break
    healthy = service.rank(user_id="u1", item_ids=ITEMS).status == 200
    return {
        "requests": statuses.total(), "of schemathesis": cases, "answers": dict(sorted(statuses.items())), "wrong": wrong[:5],
        "seconds": round(time.monotonic() - began), "right": not wrong and healthy and statuses.total() >= requests,
    }  # fmt: skip


def in_rounds(service: InProcess, requests: int, size: int = 10_000) -> dict[str, Any]:
    """Malformed requests in rounds of other seeds, with a line of progress after each."""
    total: dict[str, Any] = {
        "requests": 0,
        "of schemathesis": 0,
        "answers": {},
        "wrong": [],
        "seconds": 0,
        "right": True,
    }
    while total["requests"] < requests and total["right"]:
        found = malformed(service, min(size, requests - total["requests"]), seed=1_000_000 + total["requests"])
        answers = Counter(total["answers"]) + Counter(found["answers"])
        total |= {name: total[name] + found[name] for name in ("requests", "of schemathesis", "wrong", "seconds")}
        total |= {"answers": dict(sorted(answers.items())), "right": found["right"]}
        print(json.dumps(total), flush=True)  # noqa: T201
    return total


def _asker(service: InProcess, statuses: Counter[str], wrong: list[Any]) -> Callable[..., None]:
    def ask(method: str, path: str, query: str, body: bytes, headers: dict[str, str]) -> None:
        answer = service.call(method, path, body, headers, query.encode("utf-8", "replace"))
        statuses[str(answer.status)] += 1
        problem = answer.headers.get("content-type") == "application/problem+json"
        if answer.status >= 500 or (answer.status >= 400) != problem or (problem and "expected " not in answer.text):
            wrong.append([method, path, query, body.decode("latin-1")[:500], headers, answer.status, answer.text[:500]])

    return ask


def schema_cases(seed: int, each: int = 25) -> Iterator[tuple[str, str, str, bytes]]:
    """Method, path, query and body of requests that the description allows, and of others that it does not."""
    import schemathesis
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_dict(openapi())
    for result in schema.get_all_operations():
        operation = result.ok()
        has_input = "{" in operation.path or operation.method == "post"
        modes = [GenerationMode.POSITIVE]
        if operation.method == "post" or operation.path.endswith("/similar"):  # elsewhere nothing can be wrong
            modes.append(GenerationMode.NEGATIVE)
        for mode in modes:
            found = _drawn(operation.as_strategy(generation_mode=mode), each if has_input else 1, seed)
            for case in found:
                query = urlencode(dict(case.query or {}), doseq=True)
                yield case.method, unquote(case.formatted_path), query, _encoded(case.body)


def _drawn(strategy: Any, examples: int, seed: int) -> list[Any]:
    """Examples of a strategy."""
    import hypothesis

    found: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body).encode()
    except (TypeError, ValueError):
        return b"" if type(body).__name__ == "NotSet" else str(body).encode("utf-8", "replace")


def _mutated(
    draw: random.Random, method: str, path: str, query: str, body: bytes
) -> tuple[str, str, str, bytes, dict[str, str]]:
    kind = draw.randrange(6)
    if kind == 0 and body:  # a part goes, or another takes its place
        at, size = draw.randrange(len(body)), draw.choice([0, 1, 3, 20])
        body = body[:at] + draw.choice(_SPLICES) + body[at + size :]
    elif kind == 1:  # names that exist, so that what follows is reached
        path = draw.choice(
            ["/v1/rank", "/v1/codes", "/v2/models/ranker/infer", "/v1/items/i1/similar", "/v2/models/ranker"]
        )
        method = "POST" if body and "similar" not in path and path != "/v2/models/ranker" else "GET"
    elif kind == 2:
        body = json.dumps(_rank_body(draw)).encode()
        path, method = "/v1/rank", "POST"
    elif kind == 3:
        method = draw.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "X"])
    elif kind == 4:
        path = draw.choice(
            [path + "/", path.replace("/", "//"), "/../" + path, path + "\x00", path.upper(), "/" + "a" * 5_000]
        )
    else:
        query = draw.choice(
            ["k=0", "k=99999", "k=%FF", "at=yesterday", "at=2030-01-01", "at=9999-12-31T23:59:59Z", "&&=", query]
        )
    return method, path, query, body, dict(draw.choice(_HEADERS))


def _rank_body(draw: random.Random) -> Any:
    """A body of ``/v1/rank`` whose members are each right or wrong."""
    odd = [
        None,
        True,
        -1,
        0,
        1e308,
        "",
        "u1",
        "\x00",
        "i1",
        [],
        ["i1"],
        ["i1"] * 3,
        {},
        {"by": "popular"},
        [None],
        "9" * 2_000,
    ]
    retrieve = [
        {"by": "similar", "item_id": draw.choice(["i1", "nothing"]), "limit": draw.choice([1, 50, 0])},
        {"by": "prefix", "codes": draw.choice([[0], [1, 2], [0] * 9, []])},
        {
            "by": "popular",
            "window": draw.choice(["7d", "all", "2d"]),
            "where": {"price": draw.choice([1, "x", {"min": 0}, {}])},
        },
    ]
    members = {
        "user_id": "u1", "item_ids": ["i1", "nothing"], "retrieve": draw.choice(retrieve), "k": 3,
        "explain": draw.random() < 0.2,
        "at": draw.choice(["2030-01-01T00:00:00Z", "2001-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "x"]),
        "context": draw.choice([{}, {"a": 1}, {"device": ["x"]}]),
    }  # fmt: skip
    chosen = draw.sample(sorted(members), draw.randrange(1, 4))
    body = {"user_id": "u1", **{name: members[name] for name in chosen}}
    if draw.random() < 0.4:
        body[draw.choice(sorted(members))] = draw.choice(odd)
    return body


def main() -> int:
    """Run all, and write the results; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", type=Path, help="A repository with a serving ranker; default: a small one is made.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo = options.repo or _made(Path(folder) / "repo")
        found = {"killed workers": killed_workers(repo, options.kills), "full disk": full_disk(repo, 1_000)}
        with in_process(repo) as service:
            found["malformed requests"] = in_rounds(service, options.requests)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201
    return 0 if all(each["right"] for each in found.values()) else 1


def _made(path: Path) -> Path:
    from helpers.builders import FAST_PRESET, run_fast_job

    return run_fast_job(path, FAST_PRESET).repo.path


if __name__ == "__main__":
    sys.exit(main())
