"""The laws of the as-of join, on random tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.pit_oracle import BASE_US, FeatureRow, seen
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection
from sidkit.stores.offline.duckdb_join import look_up
from sidkit.stores.offline.plan import ViewPlan, ViewRows, entity_rows

TIMES = 20 if os.environ.get("SIDKIT_PROOF") else 1
"""How many times as many cases ``make proof`` draws."""
KEY_KINDS: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
    "name": (pa.string(), ("a", "a", "", None)),
    "number": (pa.int64(), (2**53, 2**53, 2**53 + 1, None)),
}


@dataclass(frozen=True)
class Question:
    """A feature table, entity rows, and how to join them."""

    keys: tuple[str, ...]
    rows: list[FeatureRow]
    asked: list[tuple[tuple[Any, ...], int | None]]
    ttl_us: int | None
    created: bool
    by_created: bool

    def answer(self) -> list[int | None]:
        """The oracle's: for each entity row the number of the feature row."""
        cut = self.created and self.by_created
        rows = self.rows if self.created else [FeatureRow(row.keys, row.event_us) for row in self.rows]
        return [seen(rows, keys, at, ttl_us=self.ttl_us, by_created=cut) for keys, at in self.asked]


@st.composite
def questions(draw: st.DrawFn, times_may_be_null: bool = False) -> Question:
    """Few keys and few moments, so that most rows meet."""
    names = draw(st.sampled_from([("name",), ("number",), ("name", "number"), ()]))
    keys = st.tuples(*(st.sampled_from(KEY_KINDS[name][1]) for name in names))
    at = st.sampled_from([BASE_US + tick for tick in (0, 1, 2, 3, 5, 7, 8, 12, 40, 41)])
    null_or_at = st.sampled_from([True, True, True, False]).flatmap(lambda there: at if there else st.none())
    rows = draw(st.lists(st.builds(FeatureRow, keys, null_or_at, null_or_at), min_size=4, max_size=16))
    asked = draw(st.lists(st.tuples(keys, null_or_at if times_may_be_null else at), min_size=4, max_size=12))
    ttl_us = draw(st.sampled_from([None, None, 1, 7, 40]))
    return Question(names, rows, asked, ttl_us, draw(st.booleans()), draw(st.booleans()))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with connection(EngineSettings(), tmp_path_factory.mktemp("spill")) as opened:
        yield opened


def ask(opened: duckdb.DuckDBPyConnection, question: Question) -> ViewRows:
    """The feature ``row`` is the number of the feature row; ``copies`` is a list."""
    count = len(question.rows)
    at = pa.array([row.event_us for row in question.rows], pa.int64()).cast(pa.timestamp("us", "UTC"))
    created = pa.array([row.created_us for row in question.rows], pa.int64()).cast(pa.timestamp("us", "UTC"))
    table = {"__id": pa.array(range(count), pa.int64()), "at": at, "created": created}
    rows = {}
    for number, name in enumerate(question.keys):
        kind = KEY_KINDS[name][0]
        table[name] = pa.array([row.keys[number] for row in question.rows], kind)
        rows[name] = pa.array([keys[number] for keys, _ in question.asked], kind)
    table["row"] = table["__id"]
    table["copies"] = pa.array([[number] * (number % 3) for number in range(count)], pa.list_(pa.int64()))
    plan = ViewPlan(
        name="view",
        source=lambda: "SELECT * FROM feature_rows",
        keys=tuple((name, name) for name in question.keys),
        timestamp="at",
        created="created" if question.created else None,
        features=(("row", "row"), ("copies", "copies")),
        ttl_us=question.ttl_us,
    )
    moments = pa.array([at for _, at in question.asked], pa.int64())
    opened.register("feature_rows", pa.table(table))
    try:
        return look_up(opened, plan, entity_rows(rows, moments), filter_by_created=question.by_created)
    finally:
        opened.unregister("feature_rows")


@settings(max_examples=100 * TIMES, deadline=None)
@given(question=questions())
def test_a_row_sees_what_brute_force_says(opened: duckdb.DuckDBPyConnection, question: Question) -> None:
    assert ask(opened, question).plain()["row"].to_pylist() == question.answer()


@settings(max_examples=30 * TIMES, deadline=None)
@given(question=questions(times_may_be_null=True))
def test_a_row_without_a_time_sees_nothing(opened: duckdb.DuckDBPyConnection, question: Question) -> None:
    assert ask(opened, question).plain()["row"].to_pylist() == question.answer()


@settings(max_examples=30 * TIMES, deadline=None)
@given(question=questions())
def test_views_hold_each_seen_row_once_and_plain_spreads_them(
    opened: duckdb.DuckDBPyConnection, question: Question
) -> None:
    view = ask(opened, question)
    distinct = view.table["row"].to_pylist()
    assert len(set(distinct)) == len(distinct)
    assert set(distinct) == {number for number in question.answer() if number is not None}
    assert set(view.index[view.index >= 0]) == set(range(len(distinct)))
    spread = view.plain()
    assert spread["row"].to_pylist() == [None if at < 0 else distinct[at] for at in view.index]
    assert spread["copies"].to_pylist() == [
        None if at < 0 else [distinct[at]] * (distinct[at] % 3) for at in view.index
    ]
    assert spread.schema.types == view.table.schema.types


@settings(max_examples=30 * TIMES, deadline=None)
@given(question=questions(), order=st.randoms(use_true_random=False))
def test_what_a_row_sees_depends_on_no_other_row(
    opened: duckdb.DuckDBPyConnection, question: Question, order: Any
) -> None:
    picks = [order.randrange(len(question.asked)) for _ in question.asked][: len(question.asked) * 2 // 3]
    some_of_them = Question(**{**vars(question), "asked": [question.asked[pick] for pick in picks]})
    everything = ask(opened, question).plain()["row"].to_pylist()
    assert ask(opened, some_of_them).plain()["row"].to_pylist() == [everything[pick] for pick in picks]


@settings(max_examples=30 * TIMES, deadline=None)
@given(question=questions(), late=st.integers(0, 3))
def test_rows_of_the_future_change_nothing(opened: duckdb.DuckDBPyConnection, question: Question, late: int) -> None:
    end = max((at for _, at in question.asked if at is not None), default=BASE_US)
    keys = {row.keys for row in question.rows} | {keys for keys, _ in question.asked}
    future = [FeatureRow(key, end + 1 + late, BASE_US) for key in keys]
    if question.by_created and question.created:
        # A backfill: an old event that was written after everybody asked.
        future += [FeatureRow(key, end - late, end + 1 + late) for key in keys]
    more = Question(**{**vars(question), "rows": [*question.rows, *future]})
    assert ask(opened, more).plain()["row"].to_pylist() == ask(opened, question).plain()["row"].to_pylist()
