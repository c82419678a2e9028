"""How well a single count or the item age predicts the label on logs with sampled negatives: a check of the sampler.

    python benchmarks/negatives.py --work FOLDER [--uci ../shared/data/uci_online_retail] [--before FOLDER_OF_OLD_PACKAGE]

Each log is ingested into a new repo under FOLDER and its negatives are sampled; counts and age are then computed from the log
by a search in the sorted clicks, for all rows, as of each row's time. The metric is the share of pairs (a positive and a
sampled negative of the same request) in which the positive has the larger value, ties counting half; .5 means no information.
``--before`` is a checkout whose sampler is measured too, in its own process. Results: ``benchmarks/results/negatives.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from processes import peak_mb

HERE = Path(__file__).parent
FEATURES = ("clicks_1d", "clicks_7d", "clicks_30d", "clicks_all", "age")
DAY = 86_400_000_000


def drawn(source: Path, work: Path) -> dict[str, Any]:
    """Ingest a log and sample its negatives with the package imported by this process."""
    from sidkit.contract import inspect_source, open_source
    from sidkit.tables import ingest
    from sidkit.tables.labelled_rows import build_labelled_rows

    try:
        from sidkit.core.repo import init_repo
    except ModuleNotFoundError:  # a checkout from before this package
        from sidkit.repo import init_repo

    facts = inspect_source(open_source(str(source)))
    repo = init_repo(
        work,
        source_url=str(source),
        modalities=facts.modalities,
        feedback=facts.feedback,
        conversions=facts.conversions,
    )
    ingest(repo)
    began, cpu = time.monotonic(), time.process_time()
    report = build_labelled_rows(repo)
    told = {name: getattr(report, name) for name in ("rows", "sampled", "far", "other_touch") if hasattr(report, name)}
    return {
        **told,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": round(peak_mb()),
    }


def alone(work: Path) -> dict[str, Any]:
    """Within-request AUC of each count and of the age, on all labelled rows."""
    from ranking.audit.single_features import auc_within

    parts = [str(path) for path in (work / "data" / "log" / "interactions").glob("*.parquet")]
    items = [str(path) for path in (work / "data" / "log").glob("items-*.parquet")]
    with duckdb.connect() as opened:
        opened.execute(
            "CREATE TABLE known AS SELECT item_id, epoch_us(created_at) AS created, row_number() OVER () - 1 AS item "
            "FROM read_parquet($1)",
            [items],
        )
        rows = opened.execute(
            "SELECT dense_rank() OVER (ORDER BY request_id) - 1 AS request, item, label, epoch_us(event_timestamp) AS at_us, "
            "created FROM read_parquet($1) INNER JOIN known USING (item_id)",
            [str(work / "data" / "rows.parquet")],
        ).fetchnumpy()
        events = opened.execute(
            "SELECT item, epoch_us(timestamp) AS ts FROM read_parquet($1) INNER JOIN known USING (item_id) ORDER BY ALL",
            [parts],
        ).fetchnumpy()
    # One sorted array answers all windows: the item in the high digits, the time in the low ones.
    first = int(events["ts"].min()) - 31 * DAY
    span = int(rows["at_us"].max()) - first + DAY
    assert span * (int(rows["item"].max()) + 1) < 2**63, "too many items for this log's length"
    clicks = events["item"] * span + (events["ts"] - first)
    ending = (rows["at_us"] - 60_000_000) // 60_000_000 * 60_000_000
    until = rows["item"] * span + (ending - first)
    seen = np.searchsorted(clicks, until, side="right")
    starts = {f"clicks_{days}d": until - days * DAY for days in (1, 7, 30)} | {"clicks_all": rows["item"] * span}
    values = {name: seen - np.searchsorted(clicks, start, side="right") for name, start in starts.items()}
    values["age"] = rows["at_us"] - rows["created"]
    label, group = rows["label"].astype(np.int8), rows["request"].astype(np.int64)
    measured = {name: auc_within(label, values[name].astype(np.float64), group) for name in FEATURES}
    cold = values["clicks_all"] < 10
    return {
        "auc": {name: round(value, 4) for name, (value, _) in measured.items()},
        "under_10_clicks": {
            "positives": round(float(cold[label == 1].mean()), 3),
            "negatives": round(float(cold[label == 0].mean()), 3),
        },
        "requests": int(group.max()) + 1,
        "measured_rows": len(label),
        "pairs": measured["age"][1],
    }


def in_process(package: Path, source: Path, work: Path) -> dict[str, Any]:
    """Sample negatives in a separate process, with the package of a checkout."""
    asked = [sys.executable, str(HERE / "negatives.py"), "--draw", str(source), "--work", str(work)]
    done = subprocess.run(
        asked, env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--uci", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        print(json.dumps(drawn(options.draw, options.work)))
        return
    from sidkit.datasets.news import write_news

    options.work.mkdir(parents=True)
    sources = {}
    for name, removed in (("news", True), ("news, items without an end", False)):
        sources[name] = options.work / name.replace(", ", "-").replace(" ", "-")
        write_news(sources[name], removed_at=removed)
    if options.uci:
        sources["uci_online_retail"] = options.uci
    packages = {"after": HERE.parent, **({"before": options.before} if options.before else {})}
    results = []
    for name, source in sources.items():
        for when, package in packages.items():
            work = options.work / f"repo-{when}-{source.name}"
            told = {"log": name, "when": when, **in_process(package, source.resolve(), work), **alone(work)}
            results.append(told)
            print(json.dumps(told), flush=True)
            out = {"command": "benchmarks/negatives.py", "results": results}
            (HERE / "results" / "negatives.json").write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
