"""Latency of ranking requests: the service, and the floor of the same reads and one forward pass.

    python benchmarks/serving.py --repo FOLDER [--candidates 500] [--seconds 20] [--rate 50] [--swaps N] [--out FILE]

The service runs in a process of its own on a free port of the loopback address. ``closed`` sends one request after another;
``fixed`` sends at a fixed rate over keep-alive connections, and counts a request from the moment it was due, so that a slow
answer delays nobody's clock (no coordinated omission). The floor is measured in this process: the packed rows of the candidates
and of the user as bytes, and one forward pass of the same batch. Processor seconds per request are those of the service, so
that other load on the machine matters less. ``--swaps`` promotes the repository's rankers in turn while two clients send
requests, and counts requests without an answer (lost) and answers whose scores are not those of the ranker that they name
(mixed). It works on a copy of the repository.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pyarrow.parquet as pq

CONNECTIONS = 4


def start(repo: Path, folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The service, once it is ready, and its URL."""
    log = (folder / "stderr").open("w")
    command = [sys.executable, "-u", "-m", "sidkit", "serve", "--repo", str(repo), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[2].rstrip(";")
    while True:
        try:
            if call(connected(url), "GET", "/v2/health/ready")[0] == 200:
                return process, url
        except OSError:
            pass
        assert process.poll() is None, (folder / "stderr").read_text()
        time.sleep(0.1)


def connected(url: str) -> http.client.HTTPConnection:
    place = urlsplit(url)
    return http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)


def call(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def bodies_of(repo: Path, candidates: int, count: int = 400) -> list[dict[str, Any]]:
    """Requests of random users and candidates."""
    rng = np.random.default_rng(0)
    tables = repo / "data" / "tables"
    items, users = (
        pq.read_table(tables / f"{table}.parquet", columns=[key]).column(key).unique().to_numpy(zero_copy_only=False)
        for table, key in (("item_content", "item_id"), ("user_stats", "user_id"))
    )
    size = min(candidates, len(items))
    return [
        {"user_id": str(rng.choice(users)), "item_ids": rng.choice(items, size, replace=False).tolist(), "k": 20}
        for _ in range(count)
    ]


def closed(url: str, bodies: list[bytes], seconds: float) -> tuple[list[float], int]:
    connection, times, errors, end = connected(url), [], 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        status, _ = call(connection, "POST", "/v1/rank", bodies[len(times) % len(bodies)])
        times.append(time.perf_counter() - began)
        errors += status != 200
    return times, errors


def fixed(url: str, bodies: list[bytes], seconds: float, rate: float) -> tuple[list[float], int]:
    times: list[float] = []
    errors: list[int] = []
    count, began = int(seconds * rate), time.perf_counter() + 0.2

    def send(first: int) -> None:
        connection = connected(url)
        for number in range(first, count, CONNECTIONS):
            due = began + number / rate
            time.sleep(max(due - time.perf_counter(), 0))
            status, _ = call(connection, "POST", "/v1/rank", bodies[number % len(bodies)])
            times.append(time.perf_counter() - due)
            errors.append(status != 200)

    threads = [threading.Thread(target=send, args=(first,)) for first in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, sum(errors)


def floor(repo: Path, bodies: list[dict[str, Any]], rounds: int = 100) -> dict[str, list[float]]:
    """Processor seconds of the bare reads and the bare forward pass, and of the whole scorer, in this process."""
    import torch

    from ranking.serving.scorer import Scorer
    from sidkit.core.clock import present_us
    from sidkit.core.repo import Repo
    from sidkit.stores.online.arrow import text_keys
    from sidkit.stores.online.store import PackedSqliteOnlineStore, view_id

    torch.set_num_threads(1)
    scorer = Scorer(Repo.open(repo))
    store = scorer.store
    online = store._get_provider().online_store
    assert isinstance(online, PackedSqliteOnlineStore)
    file = online.file(store.config)
    sides: dict[str, list[tuple[str, int | None]]] = {}
    for side in ("item", "user"):
        service = store.get_feature_service(f"{scorer.record.service}_{side}")
        names = [projection.name for projection in service.feature_view_projections]
        stored = [view for view in store.list_feature_views() if view.name in names]
        sides[side] = [(view_id(store.config, view), None) for view in stored]
    measured: dict[str, list[float]] = {"read": [], "forward": [], "scorer": []}
    for number in range(rounds + 20):
        body = bodies[number % len(bodies)]
        began = time.thread_time()
        with file.reading() as reading:
            for side, ids in (("item", body["item_ids"]), ("user", [body["user_id"]])):
                keys = text_keys(f"{side}_id", ids)
                assert keys is not None
                reading.rows_of(sides[side], keys)
        read = time.thread_time() - began
        began = time.thread_time()
        request = scorer.read(body["user_id"], body["item_ids"], present_us())
        scorer.score_request(request)
        whole = time.thread_time() - began
        batch = next(iter(scorer.ranker.batches(request.data).batches(len(body["item_ids"]))))
        began = time.thread_time()
        with torch.inference_mode():
            scorer.ranker.model(batch)
        forward = time.thread_time() - began
        if number >= 20:
            for name, value in (("read", read), ("forward", forward), ("scorer", whole)):
                measured[name].append(value)
    return measured


def swap(repo: Path, folder: Path, bodies: list[dict[str, Any]], swaps: int) -> dict[str, Any]:
    """Promotions under load."""
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    copied = Repo.open(shutil.copytree(repo, folder / "repo"))
    catalog = Catalog.open(copied)
    names = [record.name for record in catalog.rankers()]
    process, url = start(copied.path, folder, "--poll", "0.1")
    answers: list[tuple[dict[str, Any], dict[str, Any]]] = []
    lost: list[object] = []
    sent = [0]
    ended = threading.Event()
    watched = psutil.Process(process.pid)

    def load(first: int) -> None:
        connection, rng = connected(url), np.random.default_rng(first)
        for number in itertools.count(first):
            if ended.is_set():
                return
            body = {**bodies[number % len(bodies)], "item_ids": bodies[number % len(bodies)]["item_ids"][:50]}
            sent[0] += 1
            try:
                status, text = call(connection, "POST", "/v1/rank", json.dumps(body).encode())
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
                connection = connected(url)
                continue
            if status != 200:
                lost.append(text)
            elif rng.random() < 0.2:
                answers.append((body, json.loads(text)))

    clients = [threading.Thread(target=load, args=(first,)) for first in range(2)]
    try:
        for client in clients:
            client.start()
        memory, asked, done = [], connected(url), 0
        for name in itertools.islice(itertools.cycle(names), swaps):
            catalog.set_ranker_state(name, "serving")
            process.send_signal(signal.SIGHUP)
            while json.loads(call(asked, "GET", "/v2/health/ready")[1])["ranker"] != name:
                time.sleep(0.005)
            done += 1
            if done in {max(swaps // 10, 1), swaps}:
                memory.append(watched.memory_info().rss)
        ended.set()
        for client in clients:
            client.join()
    finally:
        ended.set()
        process.terminate()
        process.wait()
    compared = answers[:: max(len(answers) // 500, 1)]
    return {
        "swaps": done,
        "requests": sent[0],
        "lost": len(lost),
        "mixed": mixed_in(copied, names, compared),
        "compared": len(compared),
        "rankers_seen": len({answer["ranker"]["name"] for _, answer in answers}),
        "memory_growth": round(memory[-1] / memory[0] - 1, 4),
    }


def mixed_in(repo: Any, names: list[str], answers: list[tuple[dict[str, Any], dict[str, Any]]]) -> int:
    """Answers whose scores are not those of the ranker that they name."""
    from ranking.serving.scorer import Scorer
    from sidkit.core.clock import parse_time

    scorers, mixed = {name: Scorer(repo, name) for name in names}, 0
    for body, answer in answers:
        ids = [each["item_id"] for each in answer["items"]]
        expected = scorers[answer["ranker"]["name"]].score(body["user_id"], ids, parse_time(answer["at"]))
        mixed += not np.allclose([each["score"] for each in answer["items"]], expected, atol=1e-6)
    return mixed


def shown(seconds: list[float]) -> dict[str, float]:
    p50, p90, p99 = (float(np.percentile(seconds, share)) * 1e3 for share in (50, 90, 99))
    return {"p50_ms": round(p50, 3), "p90_ms": round(p90, 3), "p99_ms": round(p99, 3), "requests": len(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="a repository with a serving ranker")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second of the fixed rate")
    parser.add_argument("--out", type=Path, help="file for the results (JSON)")
    parser.add_argument("--swaps", type=int, default=0, help="measure so many promotions under load instead")
    options = parser.parse_args()
    bodies = bodies_of(options.repo, options.candidates)
    if options.swaps:
        with tempfile.TemporaryDirectory() as folder:
            finish({"swap": swap(options.repo, Path(folder), bodies, options.swaps)}, options.out)
        return
    sent = [json.dumps(body).encode() for body in bodies]
    result: dict[str, Any] = {
        "candidates": len(bodies[0]["item_ids"]),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "floor_cpu": {name: shown(values) for name, values in floor(options.repo, bodies).items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(options.repo, Path(folder))
        try:
            watched = psutil.Process(process.pid)
            closed(url, sent, min(options.seconds, 3))  # fills the caches
            before, memory = watched.cpu_times(), watched.memory_info().rss
            times, errors = closed(url, sent, options.seconds)
            after = watched.cpu_times()
            used = (after.user + after.system - before.user - before.system) / len(times)
            result["closed"] = {**shown(times), "errors": errors, "cpu_ms": round(used * 1e3, 3)}
            times, errors = fixed(url, sent, options.seconds, options.rate)
            result["fixed"] = {**shown(times), "errors": errors, "rate": options.rate}
            result["memory"] = {"mb": round(memory / 1e6), "growth": round(watched.memory_info().rss / memory - 1, 4)}
        finally:
            process.terminate()
            process.wait()
    floor_ms = result["floor_cpu"]["read"]["p50_ms"] + result["floor_cpu"]["forward"]["p50_ms"]
    result["cpu_vs_floor"] = round(result["closed"]["cpu_ms"] / floor_ms, 2)
    finish(result, options.out)


def finish(result: dict[str, Any], out: Path | None) -> None:
    """Print and write the results."""
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
