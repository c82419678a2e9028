"""Sources partitioned by day beside one file per table: processor time and rows read of a retrieval, and what a build writes.

    python benchmarks/day_partitions.py [--rows 3000000] [--days 100] [--work .work/day_partitions]

A table of one feature is written in both layouts, and 5,000 rows ask for it: in the first tenth of the days, in the last tenth
with a TTL of one day, and in all days. Then the table loses its newest row. Times are processor seconds of one thread; each is
the median of three calls, with no file verified before. Results go to ``benchmarks/results/day_partitions.json``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core import integrity
from sidkit.core.config import EngineSettings
from sidkit.core.engine import GROUP_ROWS
from sidkit.core.files import write_json
from sidkit.core.integrity import hashes_of, write_sealed
from sidkit.core.repo import SETTINGS_FILE, Repo, init_repo
from sidkit.stores.quiet_import import quiet_feast
from sidkit.tables.day_partitions import write_days

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "day_partitions.json"
START_US, DAY_US = 1_704_067_200_000_000, 86_400_000_000
KEYS, ASKED, ROUNDS = 50_000, 5_000, 3


def written(repo: Repo, table: pa.Table) -> Path:
    """Write the table and its manifest."""
    path = repo.tables / "numbers.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=GROUP_ROWS)
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})
    return path


def retrieved(repo: Repo, path: Path, first_us: int, last_us: int, ttl: timedelta) -> tuple[dict[str, Any], Any]:
    """Processor seconds, rows of the opened files, and the features."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    from sidkit.stores.offline.day_files import moments_within
    from sidkit.stores.offline.point_in_time import PointInTime
    from sidkit.stores.offline.view_plans import plan_view

    view = FeatureView(
        name="v",
        entities=[Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)],
        ttl=ttl,
        schema=[Field(name="f", dtype=Float64)],
        source=FileSource(
            name="s", path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created_timestamp"
        ),
    )
    view.entity_columns = [Field(name="k", dtype=Int64)]
    rng = np.random.default_rng(1)
    at, keys = pa.array(rng.integers(first_us, last_us, ASKED)), pa.array(rng.integers(0, KEYS, ASKED))
    seconds = []
    for _ in range(ROUNDS):
        integrity._known.clear()
        begin = time.process_time()
        plan = plan_view(view, ["v:f"], False, repo.path, moments_within(at))
        features = PointInTime([plan], EngineSettings(threads=1)).columns({"k": keys}, at)
        seconds.append(time.process_time() - begin)
    assert plan.files is not None
    return {"cpu_s": round(statistics.median(seconds), 3), "rows": plan.files.rows}, features


def bytes_under(folder: Path) -> int:
    """Size of all files in a folder, manifests included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "day_partitions")
    given = parser.parse_args()
    quiet_feast()
    shutil.rmtree(given.work, ignore_errors=True)
    repo = init_repo(given.work)
    settings = repo.path / SETTINGS_FILE
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\npartitions = "day"'))
    repo = Repo.open(repo.path)
    rng, end_us = np.random.default_rng(0), START_US + given.days * DAY_US
    at = pa.array(np.sort(rng.integers(START_US, end_us, given.rows)), pa.timestamp("us", "UTC"))
    columns = {"k": rng.integers(0, KEYS, given.rows), "f": rng.random(given.rows)}
    table = pa.table({**columns, "event_timestamp": at, "created_timestamp": at})
    path = written(repo, table)
    begin = time.process_time()
    report = write_days(repo)["numbers"]
    result: dict[str, Any] = {
        "rows": given.rows,
        "days": given.days,
        "first_write": {"cpu_s": round(time.process_time() - begin, 2), "days": report.written},
        "bytes": {"one file": bytes_under(repo.tables), "by day": bytes_under(repo.sources)},
    }
    tenth = (end_us - START_US) // 10
    for name, first_us, last_us, ttl in (
        ("first tenth", START_US, START_US + tenth, timedelta(0)),
        ("last tenth, TTL of a day", end_us - tenth, end_us, timedelta(days=1)),
        ("all days", START_US, end_us, timedelta(0)),
    ):
        one_file, features = retrieved(repo, path, first_us, last_us, ttl)
        by_day, same = retrieved(repo, repo.sources / "numbers", first_us, last_us, ttl)
        assert all(features[column].equals(same[column]) for column in features)
        result[name] = {"one file": one_file, "by day": by_day}
    written(repo, table.slice(0, given.rows - 1))
    begin = time.process_time()
    report = write_days(repo)["numbers"]
    result["one row fewer"] = {"cpu_s": round(time.process_time() - begin, 2), "days": report.written}
    write_json(RESULTS, result)
    shutil.rmtree(given.work)


if __name__ == "__main__":
    main()
