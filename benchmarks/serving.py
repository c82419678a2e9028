"""Latency of ranking requests: the service, and the floor of the same reads and one forward pass.

    python benchmarks/serving.py --repo FOLDER [--candidates 500] [--seconds 20] [--rate 50] [--out FILE]

The service runs in a process of its own on a free port of the loopback address. ``closed`` sends one request after another;
``fixed`` sends at a fixed rate over keep-alive connections, and counts a request from the moment it was due, so that a slow
answer delays nobody's clock (no coordinated omission). The floor is measured in this process: the packed rows of the candidates
and of the user as bytes, and one forward pass of the same batch. Processor seconds per request are those of the service, so
that other load on the machine matters less.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
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


def start(repo: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The service, once it is ready, and its URL."""
    log = (folder / "stderr").open("w")
    command = [sys.executable, "-u", "-m", "sidkit", "serve", "--repo", str(repo), "--port", "0"]
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
    options = parser.parse_args()
    bodies = bodies_of(options.repo, options.candidates)
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
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
