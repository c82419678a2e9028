"""Statistics of codes: counts by hand, increments, and what codes that become known for earlier times change."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, MOMENT, START, fresh_repo, moments, write_tables
from sidkit.core.integrity import hashes_of, write_sealed
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_build
from sidkit.tables.code_stats import CodeCounts, count_codes
from sidkit.tables.withdrawn import read_withdrawn

HOUR, DELAY = 3_600_000_000, 60_000_000
WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "all": 10_000 * DAY}
END = START + 55 * DAY
COUNTS = CodeCounts("a", "hash", (1, 2), 3600, 86_400)
NAMES = ("code_stats_a", "user_code_stats_a")

Event = tuple[str, str, int, int, int]  # user, item, time, label, converted
CodeRow = tuple[str, int, list[int] | None, int]  # item, known from, codes, assignment


def write_world(folder: Path, events: Sequence[Event]) -> Path:
    users, items, times, labels, converted = zip(*events, strict=True)
    return write_tables(
        folder,
        {
            "interactions": pa.table(
                {
                    "user_id": users,
                    "item_id": items,
                    "timestamp": moments(times),
                    "label": pa.array(labels, pa.int8()),
                    "converted": pa.array(converted, pa.int8()),
                }
            ),
            "items": pa.table({"item_id": ["i1", "i2", "i3", "i4"], "created_at": moments([START - DAY] * 4)}),
            "item_embeddings": pa.table({"item_id": ["i1"], "text": [[1.0, 0.0]]}),
        },
    )


def write_codes(repo: Repo, rows: Sequence[CodeRow]) -> None:
    """The table of codes as an assignment leaves it: rows are only added."""
    items, known, codes, assigned = zip(*sorted(rows, key=lambda row: (row[1], row[0])), strict=True)
    path = repo.tables / "item_sid_a.parquet"
    table = pa.table(
        {
            "item_id": items,
            "event_timestamp": moments(known),
            "created_timestamp": moments(known),
            "codes": pa.array(codes, pa.list_(pa.int64())),
            "assigned_at_us": pa.array(assigned, pa.int64()),
        }
    )
    pq.write_table(table, path)
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(repo.tables, [path.name])})


def by_hand(events: Sequence[Event], codes: Sequence[CodeRow], *, of_users: bool, until: int = END) -> set[str]:
    """All rows of a table, counted event by event."""
    happened: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
    for user, item, at, label, converted in events:
        readable = [row for row in codes if row[0] == item and row[1] <= at]
        known = max(readable, key=lambda row: row[1])[2] if readable else None
        for depth in (1, 2) if known else ():
            prefix = "a/" + "-".join(map(str, (known or [])[:depth]))
            happened.setdefault((user, prefix) if of_users else (prefix,), []).append((at, label, converted))
    cadence, windows = (DAY, ("30d", "all")) if of_users else (HOUR, tuple(WINDOWS))
    rows = set()
    for key, past in happened.items():
        moved = [0, *(WINDOWS[name] for name in windows if name != "all")]
        ends = {-(-(at + length) // cadence) * cadence for at, *_ in past for length in moved}
        for end in (end for end in ends if end + DELAY <= until):
            row: list[object] = [*key, end + DELAY]
            for name in windows:
                inside = [each for each in past if end - WINDOWS[name] < each[0] <= end]
                row += [len(inside), sum(each[1] for each in inside)]
                row += [] if of_users else [sum(each[2] for each in inside)]
            rows.add(repr(row))
    return rows


def stored(repo: Repo, name: str) -> set[str]:
    table = pq.read_table(repo.tables / f"{name}.parquet")
    assert table["event_timestamp"].equals(table["created_timestamp"])
    at = table.column_names.index("event_timestamp")
    times = table["event_timestamp"].cast(MOMENT).cast(pa.int64())
    plain = table.set_column(at, "event_timestamp", times).drop_columns(["created_timestamp"])
    listed = [repr(list(row.values())) for row in plain.to_pylist()]
    assert len(set(listed)) == len(listed)
    return set(listed)


def assert_counted(repo: Repo, events: Sequence[Event], codes: Sequence[CodeRow], until: int = END) -> None:
    for name in NAMES:
        assert stored(repo, name) == by_hand(events, codes, of_users=name == NAMES[1], until=until), name


def random_events(rng: random.Random) -> list[Event]:
    happened = {
        (rng.choice("uvw"), f"i{rng.randrange(1, 5)}", START + rng.randrange(40 * 24) * HOUR) for _ in range(50)
    }
    return [(*event, label, label * rng.randrange(2)) for event in sorted(happened) for label in (rng.randrange(2),)]


def random_codes(rng: random.Random) -> list[CodeRow]:
    """Three versions of most items; some without codes."""
    choices: list[list[int] | None] = [[0, 1], [0, 2], [1, 1], None]
    times = {(f"i{number}", START + rng.randrange(-2, 35) * DAY + DELAY) for number in range(1, 5) for _ in range(3)}
    return [(item, at, rng.choice(choices), rng.choice([1, 1, 2, 3])) for item, at in sorted(times)]


def counted(folder: Path, events: Sequence[Event], codes: Sequence[CodeRow], until: int = END) -> Repo:
    repo = fresh_repo(folder / "repo", write_world(folder / "source", events), conversions=True)
    ingest(repo)
    build_tables(repo, until)
    write_codes(repo, codes)
    count_codes(repo, COUNTS, read_build(repo))
    return repo


def bring(repo: Repo, events: Sequence[Event], until: int) -> None:
    """Let the log and the tables become those of other events; the statistics follow."""
    write_world(repo.path.parent / "source", events)
    ingest(repo, remove_vanished=True)
    build_tables(repo, until)


@pytest.mark.parametrize("seed", range(6))
def test_increments_with_late_events_corrections_and_codes_are_the_counts_by_hand(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    events, codes = random_events(rng), random_codes(rng)
    early, middle = START + rng.randrange(10, 20) * DAY + DELAY, START + rng.randrange(20, 45) * DAY
    first = [event for event in events if event[2] + DELAY <= early and rng.random() < 0.8]
    corrected = [
        (*event[:3], 1 - event[3], 0) if rng.random() < 0.2 else event for event in events if rng.random() < 0.9
    ]
    known: list[CodeRow] = [row for row in codes if row[3] == 1] or codes[:1]
    repo = counted(tmp_path, first, known, early)
    assert_counted(repo, first, known, early)
    bring(repo, corrected, middle)
    seen = [event for event in corrected if event[2] + DELAY <= middle]
    assert_counted(repo, seen, known, middle)
    for assignment in (2, 3):
        known = [row for row in codes if row[3] <= assignment or row in known]
        write_codes(repo, known)
        count_codes(repo, COUNTS, read_build(repo))
        assert_counted(repo, seen, known, middle)
    write_codes(repo, codes)
    bring(repo, events, END)
    assert_counted(repo, events, codes)
    assert count_codes(repo, COUNTS, read_build(repo)) == {}
    grown = {name: (repo.tables / f"{name}.parquet").read_bytes() for name in NAMES}
    for name in NAMES:
        (repo.tables / f"{name}.json").unlink()
    count_codes(repo, COUNTS, read_build(repo))
    assert {name: (repo.tables / f"{name}.parquet").read_bytes() for name in NAMES} == grown


EVENTS: list[Event] = [("u", "i1", START + day * DAY, day % 2, 0) for day in range(6)]
CODES: list[CodeRow] = [("i1", START - DAY, [3, 5], 1)]


@pytest.mark.parametrize("seed", range(3))
def test_counts_computed_in_parts_are_those_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    asked: list[int] = []

    def four(events: int, _: str) -> int:
        asked.append(events)
        return 4

    monkeypatch.setattr("sidkit.tables.code_table.parts_of", four)
    rng = random.Random(seed)
    events, codes = random_events(rng), random_codes(rng)
    assert_counted(counted(tmp_path, events, codes), events, codes)
    assert asked == [2 * len(events)], (
        "an event counts for a prefix of each depth; of prefixes there are few, counted at once"
    )


def test_counts_that_lack_memory_are_computed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidkit.tables import table_files

    original, relations = table_files._copy, []

    def lacks_memory(opened: Any, name: str, path: Path, relation: str, vectors: Any) -> None:
        if "code_stats" in name:
            relations.append((name, relation.partition("(")[0]))
            if not relations[-1][1]:
                raise duckdb.OutOfMemoryException("Out of Memory Error")
        original(opened, name, path, relation, vectors)

    monkeypatch.setattr(table_files, "_copy", lacks_memory)
    rng = random.Random(5)
    events, codes = random_events(rng), random_codes(rng)
    assert_counted(counted(tmp_path, events, codes), events, codes)
    assert relations == [
        ("code_stats_a", ""), ("code_stats_a", "written"), ("user_code_stats_a", ""), ("user_code_stats_a", "read_parquet"),
    ]  # fmt: skip


def test_new_events_are_counted_by_the_build_and_only_as_new_rows(tmp_path: Path) -> None:
    repo = counted(tmp_path, EVENTS[:3], CODES, START + 3 * DAY)
    write_world(tmp_path / "source", EVENTS)
    ingest(repo)
    report = build_tables(repo, END)
    assert 0 < report.code_rows["code_stats_a"] < len(stored(repo, "code_stats_a"))
    assert_counted(repo, EVENTS, CODES)
    assert build_tables(repo, END).code_rows == {}


def test_rows_of_a_prefix_that_an_item_left_are_withdrawn(tmp_path: Path) -> None:
    repo = counted(tmp_path, EVENTS, CODES)
    recoded: list[CodeRow] = [*CODES, ("i1", START - HOUR, [4, 5], 2)]
    write_codes(repo, recoded)
    count_codes(repo, COUNTS, read_build(repo))
    assert_counted(repo, EVENTS, recoded)
    assert {key for (key,) in read_withdrawn(repo.tables, "code_stats_a").keys} == {"a/3", "a/3-5"}
    assert ("u", "a/3") in read_withdrawn(repo.tables, "user_code_stats_a").keys


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_update_killed_around_its_record_is_repeated_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    repo = counted(tmp_path, EVENTS[:3], CODES, START + 3 * DAY)
    write_world(tmp_path / "source", EVENTS)
    ingest(repo)
    with monkeypatch.context() as killed:
        killed.delattr(f"sidkit.tables.{'code_stats.update_sealed' if when == 'after' else 'code_table.write_table'}")
        with pytest.raises(NameError):
            build_tables(repo, END)
    build_tables(repo, END)
    assert_counted(repo, EVENTS, CODES)


@pytest.mark.parametrize("damaged", ["code_stats_a.parquet", "user_code_stats_a.json"])
def test_a_damaged_table_or_record_is_counted_again(
    tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = counted(tmp_path, EVENTS, CODES)
    (repo.tables / damaged).write_bytes(b"{}")
    count_codes(repo, COUNTS, read_build(repo))
    assert "discarding and rebuilding" in capsys.readouterr().err
    assert_counted(repo, EVENTS, CODES)


@pytest.mark.parametrize("change", [{"codebook_hash": "other"}, {"depths": (1,)}, {"cadence_seconds": 7200}])
def test_other_codes_depths_or_cadences_count_all_anew(tmp_path: Path, change: dict[str, object]) -> None:
    repo = counted(tmp_path, EVENTS, CODES)
    before = len(stored(repo, "code_stats_a"))
    count_codes(repo, replace(COUNTS, **change), read_build(repo))  # type: ignore[arg-type]
    if "codebook_hash" in change:
        assert_counted(repo, EVENTS, CODES)
    elif "depths" in change:
        assert not [row for row in stored(repo, "code_stats_a") if "3-5" in row]
        assert 2 * len(stored(repo, "code_stats_a")) == before
    else:
        ends = pq.read_table(repo.tables / "code_stats_a.parquet")["event_timestamp"].cast(MOMENT).cast(pa.int64())
        assert {(end - DELAY) % (2 * HOUR) for end in ends.to_pylist()} == {0}


def test_counts_that_the_log_does_not_have_are_null(tmp_path: Path) -> None:
    positives = [(*event[:3], 1, 0) for event in EVENTS]
    source = write_world(tmp_path / "source", positives)
    repo = fresh_repo(tmp_path / "repo", source, feedback="positives_only")
    ingest(repo)
    build_tables(repo, END)
    write_codes(repo, CODES)
    count_codes(repo, COUNTS, read_build(repo))
    for name, unknown in (("code_stats_a", ("exposures", "conversions")), ("user_code_stats_a", ("exposures",))):
        table = pq.read_table(repo.tables / f"{name}.parquet")
        assert nulls(table.column_names, unknown) == {
            column for column in table.column_names if table[column].null_count
        }, name


def nulls(columns: Sequence[str], events: Collection[str]) -> set[str]:
    return {column for column in columns if column.split("_")[0] in events}
