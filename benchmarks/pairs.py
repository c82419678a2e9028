"""Time and memory of mining pairs from a log of ten million clicks.

    python benchmarks/pairs.py --work FOLDER [--events 10000000] [--threads 2] [--memory 1500MB]

FOLDER holds the log and DuckDB's spill files; an existing log is reused. Every event is a click (the worst case, because only
clicks are mined). Users have three preferred groups of items, popularity within a group is skewed, and a tenth of the clicks
goes to globally popular items. Mining runs in its own process, whose peak resident memory is reported. Results go to
``benchmarks/results/pairs.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import peak_mb

from semantic_ids.pairs.mining import PairSpec, mine_pairs
from sidkit.core.clock import DAY_US, MICROS
from sidkit.core.config import EngineSettings
from sidkit.core.engine import GROUP_ROWS

RESULTS = Path(__file__).parent / "results" / "pairs.json"
START_US = 1_577_836_800 * MICROS
DAYS, DELAY_US, DIM = 90, 60 * MICROS, 64


def write_log(folder: Path, events: int, seed: int = 0) -> None:
    """Write ``log.parquet`` and ``vectors.npy``: 25 clicks per user and 100 per item on average."""
    users, items = max(events // 25, 100), max(events // 100, 100)
    groups = max(items // 200, 2)
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, items)
    by_group = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[by_group], np.arange(groups + 1))
    activity = rng.gamma(1.0, 1.0, users)
    user = rng.choice(users, events, p=activity / activity.sum())
    taste = rng.integers(0, groups, (users, 3))[user, rng.integers(0, 3, events)]
    nth = ((starts[1:] - starts[:-1])[taste] * rng.random(events) ** 3).astype(np.int64)
    item = by_group[np.minimum(starts[taste] + nth, items - 1)]
    everywhere = rng.random(events) < 0.1
    item[everywhere] = (items * rng.random(everywhere.sum()) ** 4).astype(np.int64)
    moment = np.sort(rng.integers(0, DAYS * DAY_US, events)) + START_US
    names = {kind: pa.array([f"{kind}{at}" for at in range(count)]) for kind, count in (("u", users), ("i", items))}
    table = pa.table(
        {
            "user_id": names["u"].take(pa.array(user)),
            "item_id": names["i"].take(pa.array(item)),
            "timestamp": pa.array(moment).cast(pa.timestamp("us", tz="UTC")),
            "label": pa.array(np.ones(events, np.int8)),
        }
    )
    centres = rng.normal(size=(groups, DIM))
    np.save(folder / "vectors.npy", (centres[group] + rng.normal(size=(items, DIM))).astype(np.float32))
    pq.write_table(table, folder / "log.parquet", compression="zstd", row_group_size=GROUP_ROWS)


def measure(work: Path, sources: tuple[str, ...], engine: dict[str, Any], told: Any) -> None:
    vectors = np.load(work / "vectors.npy")
    ids = [f"i{at}" for at in range(len(vectors))]
    before = peak_mb()
    started = time.perf_counter()
    pairs = mine_pairs(
        [work / "log.parquet"],
        ids,
        vectors,
        START_US + DAYS * DAY_US,
        PairSpec.model_validate({"sources": sources}),
        delay_us=DELAY_US,
        engine=EngineSettings(**engine),
        spill=work / "spill",
    )
    told.put(
        {
            "sources": list(sources),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_rss_mb": round(peak_mb()),
            "rss_before_mb": round(before),
            "pairs": len(pairs),
            "targets": len(np.unique(pairs.target)),
            "clicks": int(pairs.clicks.sum()),
            "items": len(ids),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="1500MB")
    given = parser.parse_args()
    folder = given.work / f"pairs-{given.events}"
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    if not (folder / "log.parquet").exists():
        # In a process of its own: making the log takes more memory than mining it.
        maker = context.Process(target=write_log, args=(folder, given.events))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"making the log ended with exit code {maker.exitcode}")
    engine = {"threads": given.threads, "memory_limit": given.memory}
    runs = []
    for sources in (("user_to_item", "swing"), ("user_to_item",), ("swing",)):
        told = context.SimpleQueue()
        child = context.Process(target=measure, args=(folder, sources, engine, told))
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit(f"mining from {sources} ended with exit code {child.exitcode}")
        runs.append(told.get())
        print(runs[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"events": given.events, "engine": engine, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
