"""From a click, or a new item, to the online store: latency of ``sidkit serve --tick``, and a comparison with a rebuild.

    python benchmarks/events.py --repo FOLDER [--clicks 100] [--items 1000] [--tick 0.25] [--rate 0] [--out FILE]

It works on a copy of the repository, whose availability delay it reports. A click is sent to ``POST /v1/events`` with the
present time; its latency runs from the moment at which it is available (its time plus the delay) until the user's history in
the online store has it. ``--rate`` sends that many further clicks per second of other users at the same time. New items are
sent to ``POST /v1/items``; their latency runs from the request until ``POST /v1/codes`` returns a code for all of them. At last
the tables are built from scratch as of the last tick, materialized into an empty online store, and compared with what the ticks
left, cell by cell.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow.parquet as pq
from own_service import start

import sidkit
from semantic_ids import lifecycle
from sidkit.stores.feast_repo import materialize, open_store
from sidkit.stores.online.arrow import to_arrow
from sidkit.stores.online.codec import layout_number, unpack
from sidkit.stores.online.store import view_id
from sidkit.tables import read_log
from sidkit.tables.online_state import read_state

ITEM_VIEWS = ("item_content", "item_attributes")
WAIT_SECONDS = 120.0


class Service:
    """``sidkit serve --tick`` in a process of its own."""

    def __init__(self, repo: Path, folder: Path, tick: float) -> None:
        self.log = folder / "stderr"
        options = ("--tick", str(tick), "--max-body", "20000000", "--timeout", "60")
        self.process, self.url = start(repo, folder, *options)

    def call(self, path: str, body: Any) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError as error:
            return 0, str(error)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def present() -> datetime:
    return datetime.now(UTC)


def summary(seconds: list[float]) -> dict[str, Any]:
    values = np.sort(seconds)
    return {
        "count": len(values),
        **{f"p{share}_s": round(float(np.quantile(values, share / 100)), 3) for share in (50, 90, 99)},
        "max_s": round(float(values[-1]), 3),
    }


def clicks(service: Service, project: Any, count: int, delay: float, rate: float) -> dict[str, Any]:
    """Latency of single clicks, and of the requests that bring them; the first one waits for the start of the ticks."""
    rng, store = np.random.default_rng(0), open_store(project.repo)
    tables = project.repo.tables
    items = pq.read_table(tables / "item_content.parquet", columns=["item_id"]).column(0).unique().to_pylist()
    users = pq.read_table(tables / "user_stats.parquet", columns=["user_id"]).column(0).unique().to_pylist()
    watched, others = users[: len(users) // 2], users[len(users) // 2 :]
    stopped = threading.Event()

    def event(user: str, item: str) -> dict[str, Any]:
        return {"user_id": user, "item_id": item, "timestamp": present().isoformat(), "label": 1}

    def further() -> None:
        own = np.random.default_rng(1)
        while not stopped.wait(1.0):
            rows = [event(str(own.choice(others)), str(own.choice(items))) for _ in range(max(1, round(rate)))]
            service.call("/v1/events", {"events": rows})

    thread = threading.Thread(target=further, daemon=True)
    if rate:
        thread.start()
    beyond, requests = [], []
    for _ in range(count + 1):
        user, item = str(rng.choice(watched)), str(rng.choice(items))
        sent = event(user, item)
        at = datetime.fromisoformat(sent["timestamp"])
        began = time.perf_counter()
        status, answer = service.call("/v1/events", {"events": [sent]})
        requests.append(time.perf_counter() - began)
        assert status == 200, answer
        wanted = round(at.timestamp() * 1e6)
        while True:
            times = store.get_online_features(["user_history:timestamps_us"], [{"user_id": user}]).to_dict()[
                "timestamps_us"
            ][0]
            if times and abs(times[0] - wanted) <= 1:
                break
            assert (present() - at).total_seconds() < WAIT_SECONDS, service.log.read_text()[-2000:]
            time.sleep(0.005)
        beyond.append((present() - at).total_seconds() - delay)
        time.sleep(float(rng.random()) * 0.5)
    stopped.set()
    found = {"beyond_delay": summary(beyond[1:]), "request": summary(requests[1:])}
    return {**found, "first_after_start_s": round(beyond[0], 3), "further_clicks_per_second": rate}


def new_items(service: Service, project: Any, count: int, delay: float) -> dict[str, Any]:
    """Time until all new items have codes."""
    rng, modalities = np.random.default_rng(2), list(project.settings.source.modalities)
    content = pq.read_table(project.repo.tables / "item_content.parquet", columns=modalities).slice(0, count)
    created = datetime.fromtimestamp(present().timestamp() - delay - 1, UTC).isoformat()
    rows = []
    for number in range(count):
        vectors = {}
        for name in modalities:
            like = content.column(name)[number % len(content)].as_py()
            if like is not None:
                vectors[name] = [float(value) for value in np.asarray(like) + rng.normal(0, 0.05, len(like))]
        rows.append({"item_id": f"new{number}", "created_at": created, "vectors": vectors})
    began = time.perf_counter()
    status, answer = service.call("/v1/items", {"items": rows})
    accepted = time.perf_counter() - began
    assert status == 200, answer
    assert answer["accepted"] == count, answer
    ids = {"item_ids": [row["item_id"] for row in rows]}
    while True:
        status, answer = service.call("/v1/codes", ids)
        assert status == 200, answer
        if all(each["codes"] for each in answer["items"]):
            break
        assert time.perf_counter() - began < WAIT_SECONDS, service.log.read_text()[-2000:]
        time.sleep(0.02)
    return {"items": count, "accepted_s": round(accepted, 3), "all_have_codes_s": round(time.perf_counter() - began, 3)}


def rows_online(project: Any, views: list[str]) -> dict[str, dict[bytes, Any]]:
    """View -> key -> values of the row and its time."""
    store, found = open_store(project.repo), {}
    with store._get_provider().online_store.file(store.config).reading() as reading:
        for name in views:
            view = view_id(store.config, store.get_feature_view(name))
            keys = list(reading.keys(view))
            layouts, rows = reading.layouts(view), reading.timed_rows(view, keys)
            found[name] = {}
            for key, (row, at) in zip(keys, rows, strict=True):
                layout = layouts[layout_number(row)]
                names = [each for each in layout.names if each != "assigned_at_us"]
                cells = unpack(layout, [row], names)
                found[name][key] = [at, *(to_arrow(cells[each]).to_pylist()[0] for each in names)]
    return found


def compared(project: Any) -> dict[str, Any]:
    """Cells that differ between the online store and one that is filled from a build from scratch."""
    state = read_state(project.repo)
    assert state is not None
    as_of_us = int(state["as_of_us"])
    views = [view.name for view in project.store().list_feature_views()]
    ticked = rows_online(project, views)
    for file in (project.path / "data").glob("online*"):
        file.unlink()
    project.apply()
    began = time.perf_counter()
    with project.repo.locked():
        from sidkit.tables import build_tables

        build_tables(project.repo, as_of_us, rebuild=True)
        lifecycle.refresh(project.repo)
        materialize(project.repo, as_of_us)
    seconds = time.perf_counter() - began
    expected = rows_online(project, views)
    cells = differ = 0
    for name in views:
        for key in expected[name].keys() | ticked[name].keys():
            one, other = expected[name].get(key), ticked[name].get(key)
            width = len(one or other or [])
            cells += width
            differ += width if one is None or other is None else sum(a != b for a, b in zip(one, other, strict=True))
    rows = {name: len(held) for name, held in expected.items()}
    return {"cells": cells, "differ": differ, "rows": rows, "rebuild_s": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--clicks", type=int, default=100)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--tick", type=float, default=0.25)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder) / "repo"
        shutil.copytree(asked.repo, repo)
        project = sidkit.open(repo)
        project.relocate()
        project.apply()
        project.materialize()
        delay = project.settings.time.availability_delay_seconds
        began = time.perf_counter()
        first = project.tick()
        service = Service(repo, Path(folder), asked.tick)
        try:
            found = {
                "log_events": read_log(project.repo).rows,
                "delay_s": delay,
                "tick_s": asked.tick,
                "first_tick": {"seconds": round(time.perf_counter() - began, 2), "rows": sum(first.written.values())},
                "clicks": clicks(service, project, asked.clicks, delay, asked.rate),
                "new_items": new_items(service, project, asked.items, delay),
            }
        finally:
            service.stop()
        found["ticks_and_rebuild"] = compared(project)
    found["machine"] = {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
