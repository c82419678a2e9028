"""Latency of ranking requests: the service, and the floor of the same reads and one forward pass.

    python benchmarks/serving.py --repo FOLDER [--candidates 500] [--requests 1000] [--seconds 20] [--rate 50] [--out FILE]

The service runs in a process of its own on a free port of the loopback address. ``closed`` sends one request after another;
``fixed`` sends at a fixed rate over keep-alive connections, and counts a request from the moment it was due, so that a slow
answer delays nobody's clock (no coordinated omission). The floor is measured in this process: the packed rows of the candidates
and of the user as bytes, and one forward pass of the same batch; see ``floor``. Processor seconds per request are those of the
service, so that other load on the machine matters less. ``--swaps N`` promotes the repository's rankers in turn while two
clients send requests, and counts requests without an answer (lost) and answers whose scores are not those of the ranker that
they name (mixed). It works on a copy of the repository. ``--flat N`` sends so many requests and compares the memory of the
service. ``--before FOLDER`` sends blocks of the same requests in turn to this service and to that of another version's code.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pyarrow.parquet as pq
from own_service import call, connected, start
from serving_floor import floor

CONNECTIONS = 4


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


def closed(url: str, bodies: list[bytes], requests: int) -> tuple[list[float], int]:
    connection, times, errors = connected(url), [], 0
    for _ in range(requests):
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


def stages(url: str) -> dict[str, tuple[float, float]]:
    """Seconds and number of requests per stage so far, from the service's metrics."""
    text = call(connected(url), "GET", "/metrics")[1].decode()
    found = re.findall(r'sidkit_request_duration_seconds_(sum|count)\{stage="(\w+)"\} (\S+)', text)
    values = {(name, stage): float(value) for name, stage, value in found}
    return {stage: (values["sum", stage], values["count", stage]) for _, stage in values}


def swap(repo: Path, folder: Path, bodies: list[dict[str, Any]], swaps: int) -> dict[str, Any]:
    """Promotions under load."""
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    copied = Repo.open(shutil.copytree(repo, folder / "repo"))
    catalog = Catalog.open(copied)
    hashes = {record.name: record.content_hash for record in catalog.rankers()}
    names = list(hashes)
    assert len(names) > 1, "expected a repository with two rankers or more, for promotions in turn"
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
        memory: list[int] = []
        began, used = time.perf_counter(), watched.cpu_times()
        for done in promoted(catalog, hashes, process, url, swaps):
            if done % max(swaps // 20, 1) == 0:
                seconds = time.perf_counter() - began
                print(f"{done:,} swaps, {sent[0]:,} requests, {len(lost)} lost, {seconds:.0f} s", file=sys.stderr)
            if done in {max(swaps // 10, 1), swaps}:
                memory.append(watched.memory_info().rss)
        seconds, after = time.perf_counter() - began, watched.cpu_times()
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
        "seconds": round(seconds, 1),
        "service_cpu_s": round(after.user + after.system - used.user - used.system, 1),
        "requests": sent[0],
        "lost": len(lost),
        "mixed": mixed_in(copied, names, compared),
        "compared": len(compared),
        "rankers_seen": len({answer["ranker"]["name"] for _, answer in answers}),
        "memory_growth": round(memory[-1] / memory[0] - 1, 4),
    }


def promoted(
    catalog: Any, hashes: dict[str, str], process: subprocess.Popen[str], url: str, swaps: int
) -> Iterator[int]:
    """Promote the rankers in turn, each once the one before serves; the number of promotions so far."""
    asked = connected(url)
    for done, name in enumerate(itertools.islice(itertools.cycle(hashes), swaps), start=1):
        catalog.set_ranker_state(name, "serving")
        process.send_signal(signal.SIGHUP)
        while json.loads(call(asked, "GET", "/v2/models/ranker")[1])["versions"] != [hashes[name]]:
            time.sleep(0.01)
        yield done


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


def in_turn(repo: Path, folder: Path, code: Path, bodies: list[bytes], requests: int) -> dict[str, Any]:
    """Processor and wall time of the services of two versions, which answer blocks of the same requests in turn."""
    services = {}
    for name, path in (("before", code), ("after", None)):
        (folder / name).mkdir()
        services[name] = start(repo, folder / name, "--poll", "600", code=path)
    cpu, times = dict.fromkeys(services, 0.0), {name: list[float]() for name in services}
    try:
        for _, url in services.values():
            closed(url, bodies, len(bodies))
        for block in range(0, requests, 50):
            for name, (process, url) in services.items():
                watched = psutil.Process(process.pid)
                before = watched.cpu_times()
                times[name] += closed(url, bodies[block % len(bodies) :] + bodies, 50)[0]
                after = watched.cpu_times()
                cpu[name] += after.user + after.system - before.user - before.system
    finally:
        for process, _ in services.values():
            process.terminate()
            process.wait()
    result = {name: {"cpu_ms": round(cpu[name] / len(times[name]) * 1e3, 3), **shown(times[name])} for name in services}
    return {**result, "cpu_ratio": round(cpu["before"] / cpu["after"], 2)}


def flat(repo: Path, folder: Path, bodies: list[dict[str, Any]], requests: int) -> dict[str, Any]:
    """Resident memory of the service over many requests, with all candidates of its items in turn."""
    process, url = start(repo, folder)
    sent = [json.dumps(body).encode() for body in bodies]
    watched, memory, errors = psutil.Process(process.pid), [], 0
    try:
        closed(url, sent, len(sent))
        for _ in range(10):
            errors += closed(url, sent, requests // 10)[1]
            memory.append(round(watched.memory_info().rss / 1e6, 1))
    finally:
        process.terminate()
        process.wait()
    return {"requests": requests, "errors": errors, "memory_mb": memory, "growth": round(memory[-1] / memory[0] - 1, 4)}


def shown(seconds: list[float]) -> dict[str, float]:
    p50, p90, p99 = (float(np.percentile(seconds, share)) * 1e3 for share in (50, 90, 99))
    return {"p50_ms": round(p50, 3), "p90_ms": round(p90, 3), "p99_ms": round(p99, 3), "requests": len(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="a repository with a serving ranker")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=200, help="requests measured in one process")
    parser.add_argument("--requests", type=int, default=1_000, help="requests of the closed loop")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the fixed rate")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second of the fixed rate")
    parser.add_argument("--out", type=Path, help="file for the results (JSON)")
    parser.add_argument("--swaps", type=int, default=0, help="measure so many promotions under load instead")
    parser.add_argument("--before", type=Path, help="compare with the service of this folder's code instead")
    parser.add_argument("--flat", type=int, default=0, help="measure memory over so many requests instead")
    options = parser.parse_args()
    bodies = bodies_of(options.repo, options.candidates)
    if options.before:
        sent = [json.dumps(body).encode() for body in bodies]
        with tempfile.TemporaryDirectory() as folder:
            compared = in_turn(options.repo, Path(folder), options.before, sent, options.requests)
            finish({"candidates": options.candidates, **compared}, options.out)
        return
    if options.flat:
        with tempfile.TemporaryDirectory() as folder:
            finish({"flat": flat(options.repo, Path(folder), bodies, options.flat)}, options.out)
        return
    if options.swaps:
        with tempfile.TemporaryDirectory() as folder:
            finish({"swap": swap(options.repo, Path(folder), bodies, options.swaps)}, options.out)
        return
    sent = [json.dumps(body).encode() for body in bodies]
    result: dict[str, Any] = {
        "candidates": len(bodies[0]["item_ids"]),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "cpu_in_one_process": {
            name: shown(values) for name, values in floor(options.repo, bodies, options.rounds).items()
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        # A look for promotions every few seconds would count more on a slower machine.
        process, url = start(options.repo, Path(folder), "--poll", "600")
        try:
            watched = psutil.Process(process.pid)
            closed(url, sent, len(sent))  # fills the caches
            before, memory, staged = watched.cpu_times(), watched.memory_info().rss, stages(url)
            times, errors = closed(url, sent, options.requests)
            after = watched.cpu_times()
            used = (after.user + after.system - before.user - before.system) / len(times)
            result["closed"] = {**shown(times), "errors": errors, "cpu_ms": round(used * 1e3, 3)}
            result["stages_ms"] = {
                stage: round((seconds - staged[stage][0]) / (count - staged[stage][1]) * 1e3, 3)
                for stage, (seconds, count) in stages(url).items()
            }
            times, errors = fixed(url, sent, options.seconds, options.rate)
            result["fixed"] = {**shown(times), "errors": errors, "rate": options.rate}
            result["memory"] = {"mb": round(memory / 1e6), "growth": round(watched.memory_info().rss / memory - 1, 4)}
        finally:
            process.terminate()
            process.wait()
    result["load_after"] = round(os.getloadavg()[0], 1)
    measured = {name: values["p50_ms"] for name, values in result["cpu_in_one_process"].items()}
    floors = {
        "reads_and_forward": measured["read"] + measured["forward"],
        "all_reads_and_forward": measured["read_all"] + measured["forward"],
        "reads_and_shared_forward": measured["read"] + measured["forward_shared"],
        "all_reads_and_shared_forward": measured["read_all"] + measured["forward_shared"],
    }
    of = {
        "scorer": measured["scorer"],
        "service": result["closed"]["cpu_ms"],
        "scorer_before": measured["scorer_before"],
    }
    result["cpu_vs_floor"] = {
        name: {what: round(value / floor_ms, 2) for what, value in of.items()} for name, floor_ms in floors.items()
    }
    finish(result, options.out)


def finish(result: dict[str, Any], out: Path | None) -> None:
    """Print and write the results."""
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
