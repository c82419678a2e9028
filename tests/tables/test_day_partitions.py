"""Sources partitioned by day: the same cells as the table in one file, whatever is asked, and only touched days written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.builders import fresh_repo
from helpers.places import ROOT
from helpers.source_builders import view_of
from sidkit.core import integrity
from sidkit.core.clock import MICROS
from sidkit.core.config import EngineSettings
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import remove
from sidkit.core.integrity import hashes_of, write_sealed
from sidkit.core.repo import Repo
from sidkit.stores.offline.day_files import Within, files_within, moments_within
from sidkit.stores.offline.point_in_time import PointInTime
from sidkit.tables.day_partitions import write_days

DAY_US = 86_400 * MICROS
START = datetime(2024, 2, 27, tzinfo=UTC)
START_US = int(START.timestamp()) * MICROS
BY_DAY = {"[engine]": '[engine]\npartitions = "day"'}


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return fresh_repo(tmp_path / "repo", "nowhere", toml=BY_DAY)


def write(repo: Repo, rows: list[tuple[int, int, Any]], name: str = "numbers") -> Path:
    """A sealed table of (key, microseconds after the start, value), sorted by time as builds do."""
    rows = sorted(rows, key=lambda row: (row[1], row[0]))
    at = pa.array([START_US + row[1] for row in rows], pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "k": pa.array([row[0] for row in rows], pa.int64()),
            "f": pa.array([row[2] for row in rows], pa.float64()),
            "listed": pa.array([[row[2], None] for row in rows], pa.list_(pa.float64())),
            "event_timestamp": at,
            "created_timestamp": at,
        }
    )
    path = repo.tables / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    pq.write_table(table, path)
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})
    return path


def stamps(repo: Repo) -> dict[str, int]:
    return {str(path.relative_to(repo.sources)): path.stat().st_ino for path in repo.sources.rglob("*.parquet")}


def joined(repo: Repo, path: Path, keys: list[int], at_us: list[int], held: int | None, ttl: timedelta | None) -> Any:
    from feast.types import Array, Float64

    from sidkit.stores.offline.view_plans import plan_view

    view, _ = view_of(path, {"k": "INT64"}, {"f": Float64, "listed": Array(Float64)}, created="created_timestamp")
    view.ttl = ttl or timedelta(0)
    moments = pa.array(at_us, pa.int64())
    plan = plan_view(view, ["v:f", "v:listed"], False, repo.path, moments_within(moments))
    rows = PointInTime([plan], EngineSettings(threads=1), held_bytes=held)
    return {
        name: column.to_pylist() for name, column in rows.columns({"k": pa.array(keys, pa.int64())}, moments).items()
    }


ROW = st.tuples(st.integers(0, 3), st.integers(-2 * DAY_US, 5 * DAY_US), st.sampled_from([None, 0.0, 1.5, -7.25]))
ON_EDGES = st.tuples(st.integers(0, 3), st.integers(-2, 5).map(lambda day: day * DAY_US), st.just(9.0))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.one_of(ROW, ON_EDGES), max_size=30, unique_by=lambda row: (row[0], row[1])),
    later=st.lists(ROW, max_size=5),
    asked=st.lists(st.tuples(st.integers(0, 4), st.integers(-4 * DAY_US, 8 * DAY_US)), min_size=1, max_size=12),
    held=st.sampled_from([None, 0]),
    ttl=st.sampled_from([None, timedelta(hours=3), timedelta(days=2)]),
)
def test_a_retrieval_has_the_cells_of_the_table_in_one_file(
    repo: Repo, rows: list[Any], later: list[Any], asked: list[Any], held: int | None, ttl: timedelta | None
) -> None:
    remove(repo.sources)
    known = {(key, at) for key, at, _ in rows}
    for each in (rows, [*rows, *(row for row in {(r[0], r[1]): r for r in later}.values() if row[:2] not in known)]):
        path = write(repo, each)
        write_days(repo)
        keys, at_us = [key for key, _ in asked], [START_US + at for _, at in asked]
        expected = joined(repo, path, keys, at_us, held, ttl)
        assert joined(repo, repo.sources / "numbers", keys, at_us, held, ttl) == expected
        found = pa.concat_tables(
            pq.ParquetFile(file).read() for file in files_within(repo.sources / "numbers", Within())
        )
        assert found.equals(pq.read_table(path).cast(found.schema))


def test_only_days_whose_rows_changed_are_written_again(repo: Repo) -> None:
    rows = [(key, day * DAY_US + key, 1.0) for day in range(4) for key in range(3)]
    write(repo, rows)
    assert write_days(repo)["numbers"].written == 4
    before = stamps(repo)
    assert sorted(before) == [f"numbers/event_date=2024-02-{day}/part-0.parquet" for day in (27, 28, 29)] + [
        "numbers/event_date=2024-03-01/part-0.parquet"
    ]
    assert write_days(repo) == {}
    write(repo, [*rows, (7, DAY_US + 7, 2.0), (8, 9 * DAY_US, 2.0)])  # a late row, and a new day
    report = write_days(repo)["numbers"]
    assert (report.written, report.unchanged, report.removed) == (2, 3, 0)
    changed = {name for name, inode in stamps(repo).items() if before.get(name) != inode}
    assert changed == {f"numbers/event_date={day}/part-0.parquet" for day in ("2024-02-28", "2024-03-07")}
    write(repo, rows[:3])
    assert write_days(repo)["numbers"].removed == 4
    assert list(stamps(repo)) == ["numbers/event_date=2024-02-27/part-0.parquet"]


def test_a_retrieval_opens_the_days_that_its_rows_can_see(repo: Repo) -> None:
    write(repo, [(0, day * DAY_US, float(day)) for day in range(10)])
    write_days(repo)
    folder = repo.sources / "numbers"
    names = [path.parent.name for path in files_within(folder, Within(None, START_US + 2 * DAY_US))]
    assert names == ["event_date=2024-02-27", "event_date=2024-02-28", "event_date=2024-02-29"]
    seen = files_within(folder, Within(START_US + 3 * DAY_US, START_US + 4 * DAY_US - 1))
    assert [path.parent.name for path in seen] == ["event_date=2024-03-01"]
    (folder / "event_date=2024-03-05" / "part-0.parquet").write_bytes(b"damaged")
    files_within(folder, Within(None, START_US))  # a day that is not needed is not read
    with pytest.raises(ArtifactCorruptError, match="does not match its SHA-256"):
        files_within(folder, Within())


def test_days_older_than_their_table_are_refused_until_they_are_written(repo: Repo) -> None:
    write(repo, [(0, 0, 1.0)])
    write_days(repo)
    path = write(repo, [(0, 0, 2.0)])
    with pytest.raises(
        ArtifactCorruptError, match=r"its days do not have the rows of numbers.parquet.*sidkit tables build"
    ):
        joined(repo, repo.sources / "numbers", [0], [START_US], None, None)
    write_days(repo)  # which the build does
    assert joined(repo, repo.sources / "numbers", [0], [START_US], None, None) == joined(
        repo, path, [0], [START_US], None, None
    )


def test_a_damaged_day_is_written_again(repo: Repo) -> None:
    write(repo, [(0, 0, 1.0), (0, DAY_US, 2.0)])
    write_days(repo)
    damaged = repo.sources / "numbers" / "event_date=2024-02-28" / "part-0.parquet"
    damaged.write_bytes(b"damaged")
    assert write_days(repo)["numbers"].written == 1
    assert pq.read_table(damaged).column("f").to_pylist() == [2.0]


def test_the_manifest_of_the_days_is_read_as_often_for_many_days_as_for_few(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.types import Float64

    from sidkit.stores.doctor import examine

    read: list[Path] = []
    whole = integrity.read_json
    monkeypatch.setattr(integrity, "read_json", lambda path: (read.append(path), whole(path))[1])
    seen = []
    for days in (2, 12):
        write(repo, [(0, day * DAY_US, 1.0) for day in range(days)])
        write_days(repo)
        view, keys = view_of(repo.sources / "numbers", {"k": "INT64"}, {"f": Float64})
        read.clear()
        assert not any(found.code == "nullable-64-bit" for found in examine([view], keys, "", repo.path))
        seen.append(len(read))
    assert 0 < seen[0] == seen[1]
    damaged = repo.sources / "numbers" / "event_date=2024-02-28" / "part-0.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactCorruptError, match="does not match its SHA-256"):
        integrity.checked_files(sorted((repo.sources / "numbers").glob("*/part-0.parquet")))


def test_a_removed_table_loses_its_days(repo: Repo) -> None:
    path = write(repo, [(0, 0, 1.0)])
    write_days(repo)
    remove(path.with_suffix(".json"))
    remove(path)
    write_days(repo)
    assert list(repo.sources.iterdir()) == []


@pytest.mark.parametrize("step", range(5))
def test_a_write_killed_at_any_step_is_refused_and_finished_by_the_next(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A kill is an exception that nothing catches, at the renames: what is on disk then is what a kill leaves."""
    write(repo, [(0, day * DAY_US, 1.0) for day in range(3)])
    write_days(repo)
    path = write(repo, [(0, day * DAY_US, 2.0) for day in range(2)])
    done = 0
    original = Path.replace

    class Killed(BaseException):
        pass

    def replace(self: Path, target: Any) -> Any:
        nonlocal done
        if done == step:
            raise Killed
        done += 1
        return original(self, target)

    with monkeypatch.context() as killing:
        killing.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            write_days(repo)
    with pytest.raises(ArtifactCorruptError, match="its days do not have the rows"):
        files_within(repo.sources / "numbers", Within())
    write_days(repo)
    assert joined(repo, repo.sources / "numbers", [0], [START_US + 5 * DAY_US], None, None) == joined(
        repo, path, [0], [START_US + 5 * DAY_US], None, None
    )
    assert len(stamps(repo)) == 2


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 4, 2]])
def test_rows_keep_their_order_within_a_day_whatever_that_of_the_table(repo: Repo, order: list[int]) -> None:
    path = write(repo, [(key, (key % 3) * DAY_US + key, float(key)) for key in range(6)])
    table = pq.read_table(path).take(order)
    pq.write_table(table, path, row_group_size=2)
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})
    write_days(repo)
    days = pa.array([at.date().isoformat() for at in table.column("event_timestamp").to_pylist()])
    assert len(stamps(repo)) == 3
    for day in days.unique().to_pylist():
        found = pq.ParquetFile(repo.sources / "numbers" / f"event_date={day}" / "part-0.parquet").read()
        assert found.equals(table.filter(pa.compute.equal(days, day)))


def test_spark_and_arrow_read_the_folder_too(repo: Repo) -> None:
    write(repo, [(key, day * DAY_US, 1.0) for day in range(3) for key in range(2)])
    write_days(repo)
    found = pd.read_parquet(repo.sources / "numbers")
    assert len(found) == 6
    assert sorted(set(found["event_date"])) == ["2024-02-27", "2024-02-28", "2024-02-29"]


def test_the_figures_of_the_guide_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "day_partitions.json").read_text())
    page = (ROOT / "docs" / "how-to" / "partition-by-day.md").read_text()
    for name in ("first tenth", "last tenth, TTL of a day", "all days"):
        one_file, by_day = measured[name]["one file"], measured[name]["by day"]
        assert f"| {one_file['cpu_s']} s | {by_day['cpu_s']} s | {by_day['rows']:,} |" in page
    for name in ("one row fewer", "first_write"):
        assert f"{measured[name]['cpu_s']} s" in page
    held = measured["bytes"]
    assert f"{held['one file'] / 1e6:.0f} MB" in page and f"{held['by day'] / 1e6:.0f} MB more as days" in page
