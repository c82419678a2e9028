"""Suffixes that make codes unique: laws over sequences of arrivals, and the file they are kept in."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sidkit.stores.feast_repo as feast_repo
from helpers.builders import DAY
from helpers.codebook_builders import AS_OF, CUT, ITEMS, SPEC, bring, built_repo, with_codes
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.collisions import SCHEMA, extend_file, read_record, suffix_path, update_suffixes, with_suffixes
from sidkit.core.errors import ArtifactCorruptError, FitError, LifeCycleError

Row = tuple[str, int, tuple[int, ...] | None]
rows = st.tuples(
    st.sampled_from("abcdefgh"),
    st.integers(0, 5),
    st.none() | st.tuples(st.integers(0, 1), st.integers(0, 1)),
)
batches = st.lists(st.lists(rows, max_size=8), min_size=1, max_size=4)
relaxed = settings(deadline=None, max_examples=15)


def arrival(listed: list[Row]) -> pa.Table:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    told = [
        {"item_id": item, "event_timestamp": start + timedelta(days=day), "codes": list(codes) if codes else None}
        for item, day, codes in listed
    ]
    return pa.Table.from_pylist(told, pa.schema([SCHEMA.field(name) for name in SCHEMA.names[:3]]))


def replayed(arrivals: list[list[Row]]) -> list[pa.Table]:
    """The record after each batch."""
    records: list[pa.Table] = []
    for batch in arrivals:
        records.append(with_suffixes(arrival(batch), records[-1] if records else None))
    return records


def counted(arrivals: list[list[Row]]) -> dict[tuple[str, tuple[int, ...]], int]:
    """The same numbers by hand: a dict that is only ever added to."""
    given_out: dict[tuple[str, tuple[int, ...]], int] = {}
    for batch in arrivals:
        for _, item, codes in sorted((day, item, codes) for item, day, codes in batch if codes is not None):
            if (item, codes) not in given_out:
                given_out[item, codes] = sum(other == codes for _, other in given_out)
    return given_out


def named(record: pa.Table) -> dict[tuple[str, tuple[int, ...]], int]:
    return {(row["item_id"], tuple(row["codes"])): row["suffix"] for row in record.to_pylist()}


@relaxed
@given(batches)
def test_numbers_equal_those_given_out_by_hand(arrivals: list[list[Row]]) -> None:
    record = replayed(arrivals)[-1]
    assert named(record) == counted(arrivals)
    assert record.schema == SCHEMA


@relaxed
@given(batches)
def test_codes_and_suffix_are_one_items_and_what_was_given_out_stays(arrivals: list[list[Row]]) -> None:
    records = replayed(arrivals)
    for before, after in itertools.pairwise(records):
        assert after.slice(0, len(before)) == before
    last = records[-1].to_pylist()
    assert len({(*row["codes"], row["suffix"]) for row in last}) == len(last)
    assert len({(row["item_id"], *row["codes"]) for row in last}) == len(last)


@relaxed
@given(batches, st.randoms(use_true_random=False))
def test_the_order_of_rows_their_repetition_and_a_second_run_change_nothing(
    arrivals: list[list[Row]], shuffler: random.Random
) -> None:
    shuffled = [shuffler.sample(batch + batch[:3], len(batch) + len(batch[:3])) for batch in arrivals]
    records = replayed(arrivals)
    assert replayed(shuffled) == records
    for batch in arrivals:
        assert with_suffixes(arrival(batch), records[-1]) == records[-1]


@relaxed
@given(st.lists(rows, max_size=25))
def test_day_by_day_and_all_at_once_give_the_same_numbers(listed: list[Row]) -> None:
    by_day = [[row for row in listed if row[1] == day] for day in range(6)]
    assert replayed(by_day)[-1] == with_suffixes(arrival(listed))


def test_an_item_that_moves_leaves_its_number_behind_for_good() -> None:
    moved: list[list[Row]] = [[("a", 0, (1, 1)), ("b", 0, (1, 1))], [("a", 1, (2, 2))], [("c", 2, (1, 1))]]
    assert named(replayed(moved)[-1]) == {
        ("a", (1, 1)): 0, ("b", (1, 1)): 1, ("a", (2, 2)): 0, ("c", (1, 1)): 2,
    }  # fmt: skip
    back = replayed([*moved, [("a", 3, (1, 1))]])
    assert back[-1] == back[-2]


def test_codes_of_other_widths_and_no_rows_are_taken() -> None:
    none: list[Row] = [("a", 0, None)]
    assert with_suffixes(arrival(none)) == SCHEMA.empty_table()
    int32 = arrival([("a", 0, (1, 1))])
    int32 = int32.set_column(2, "codes", int32["codes"].cast(pa.list_(pa.int32()))).append_column("x", [[1.5]])
    assert named(with_suffixes(int32)) == {("a", (1, 1)): 0}


def test_a_missing_column_is_named() -> None:
    with pytest.raises(
        FitError, match="expected columns item_id, event_timestamp, codes, got item_id, event_timestamp; add codes"
    ):
        with_suffixes(arrival([]).drop_columns(["codes"]))


def test_the_file_holds_the_record_and_is_left_alone_without_news(tmp_path: Path) -> None:
    path = tmp_path / "tables" / "record.parquet"
    first = extend_file(path, arrival([("a", 0, (1, 1)), ("b", 0, (1, 1))]))
    was = path.stat()
    again = extend_file(path, arrival([("b", 0, (1, 1))]))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
    assert read_record(path) == first == again
    more = extend_file(path, arrival([("0", 0, (1, 1))]))
    assert read_record(path) == more
    assert named(more)["0", (1, 1)] == 2
    assert sorted(file.name for file in path.parent.iterdir()) == ["record.json", "record.parquet"]


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.parquet"
    first = extend_file(path, arrival([("a", 0, (1, 1))]))

    def broken(table: pa.Table, where: Path, **options: Any) -> None:
        Path(where).write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(RuntimeError, match="killed"):
        extend_file(path, arrival([("b", 0, (1, 1))]))
    assert read_record(path) == first
    assert sorted(tmp_path.iterdir()) == [path.with_suffix(".json"), path]


@pytest.mark.parametrize("content", [b"", b"no parquet at all", None])
def test_a_file_that_is_no_record_is_never_written_over(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "record.parquet"
    if content is None:
        pq.write_table(pa.table({"item_id": ["a"]}), path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ArtifactCorruptError, match="table of suffixes"):
        extend_file(path, arrival([("a", 0, (1, 1))]))
    assert path.read_bytes() == before


def test_a_codebooks_items_are_numbered_and_the_catalogue_does_not_mind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feast_repo, "apply_repo", lambda _: "")
    monkeypatch.setattr(feast_repo, "materialize", lambda *_: {})
    repo = built_repo(tmp_path)
    lifecycle.fit(repo, "a", SPEC.model_copy(update={"sizes": (2, 2)}), CUT)
    with pytest.raises(LifeCycleError, match="publish it before assigning suffixes"):
        update_suffixes(repo, "a")
    lifecycle.publish(repo, "a")
    first = update_suffixes(repo, "a")
    assert {(item, tuple(codes)) for (item, _), codes in with_codes(repo, "a").items()} == set(named(first))
    assert max(named(first).values()) > 0
    bring(repo, {**ITEMS, "a_new_one": AS_OF}, AS_OF + DAY, edition={"i003": 1, "i004": 2})
    lifecycle.refresh(repo)
    second = update_suffixes(repo, "a")
    assert second.slice(0, len(first)) == first
    assert "a_new_one" in second["item_id"].to_pylist()
    assert len({(*row["codes"], row["suffix"]) for row in second.to_pylist()}) == len(second)
    assert read_record(suffix_path(repo, "a")) == second
    assert [record.name for record in Catalog.open(repo).codebooks()] == ["a"]
