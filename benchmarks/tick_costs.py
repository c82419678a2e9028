"""What a tick costs by the size of the log, and the bytes that an impression and a row of the online store take.

    python benchmarks/tick_costs.py [--impressions 100000 1000000] [--items 20000] [--ticks 5] [--work .work/tick_costs]

Writes an invented log per size, builds and materializes its tables, pushes a click of another user before each tick, and ticks
one minute later than before. ``push_cpu_s`` and ``tick_cpu_s`` are medians of processor seconds after a first tick;
``tick_rows`` are the rows that a tick wrote. Bytes are those of the files: the log, the feature tables, and the online store
without codes. Results go to ``benchmarks/results/tick_costs.json``; sizes that are not asked for stay as they were measured.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded

import argparse
import json
import shutil
import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attribute_costs import write_source
from processes import in_a_process, peak_mb

from sidkit.core.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tick_costs.json"
WIDTH = 64
BATCH = 1000
"""Events of users and items of their own that are pushed at once, last."""


def size_of(*paths: Path) -> int:
    """Bytes of files, or of all files in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def costs(path: Path, ticks: int) -> dict[str, Any]:
    """Build, materialize and tick."""
    import sidkit
    from ranking.pipeline.prepare import end_of_log
    from semantic_ids.ticks import Ticker
    from sidkit.tables import build_tables, ingest

    project = sidkit.open(path)
    repo = project.repo
    with repo.locked():
        ingest(repo)
        build_tables(repo, end_of_log(repo))
    project.apply()
    keys = project.materialize()
    online = size_of(*repo.data.glob("online.sqlite*"))
    built = {"log_bytes": size_of(repo.log), "table_bytes": size_of(repo.tables), "online_bytes": online}
    now = datetime.fromtimestamp(end_of_log(repo) / 1e6, UTC)
    pushes, took, rows = [], [], []
    ticker, delay = Ticker(repo), timedelta(seconds=repo.settings.time.availability_delay_seconds)
    for number in range(ticks + 1):
        now += timedelta(minutes=1)
        click = {"user_id": f"u{number}", "item_id": f"i{number + 1}", "timestamp": now, "label": 1}
        began = time.process_time()
        project.push_events([click])
        pushed = time.process_time()
        at = now + delay + timedelta(seconds=1)
        report = ticker.tick(round(at.timestamp() * 1e6))
        took.append(time.process_time() - pushed)
        pushes.append(pushed - began)
        rows.append(sum(report.written.values()))
    many = [{"user_id": f"u{n}", "item_id": f"i{n + 1}", "timestamp": now, "label": 0} for n in range(BATCH)]
    began = time.process_time()
    project.push_events(many)
    batch = time.process_time()
    ticker.tick(round((now + timedelta(minutes=1) + delay).timestamp() * 1e6))
    return {
        **built,
        "batch": {
            "events": BATCH,
            "push_cpu_s": round(batch - began, 4),
            "tick_cpu_s": round(time.process_time() - batch, 4),
        },
        "online_rows": sum(keys.values()),
        "push_cpu_s": round(statistics.median(pushes[1:]), 4),
        "tick_cpu_s": round(statistics.median(took[1:]), 4),
        "tick_rows": statistics.median(rows[1:]),
        "peak_mb": peak_mb(),
    }


def main() -> None:
    """Measure and write the results."""
    from sidkit.datasets.data_repo import create_repo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--ticks", type=int, default=5)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "tick_costs")
    asked = parser.parse_args()
    measured = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for impressions in asked.impressions:
        folder = asked.work / str(impressions)
        shutil.rmtree(folder, ignore_errors=True)
        write_source(folder / "source", impressions, asked.items, False, WIDTH)
        repo = create_repo(folder / "repo", str(folder / "source"))
        cell = in_a_process(costs, repo.path, asked.ticks)
        measured[str(impressions)] = {"items": asked.items, **cell, "load": round(os.getloadavg()[1], 1)}
        print(impressions, measured[str(impressions)], flush=True)
        write_json(RESULTS, measured)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
