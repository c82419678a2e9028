"""The order of feature rows beside a plain sort of tuples, on one and on several threads."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_asof_laws import Question, questions
from test_binary_search import searched

import sidkit.stores.offline.binary_search
import sidkit.stores.offline.row_order
from sidkit.stores.offline.binary_search import SearchIndex
from sidkit.stores.offline.row_order import by_key_and_time

many = settings(max_examples=4000 if os.environ.get("SIDKIT_PROOF") else 200, deadline=None)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 3) | st.sampled_from([65_535, 65_536, 65_537, 3 * 65_536, 2**33]),
        st.integers(0, 4) | st.sampled_from([-(2**62), 2**61]),
        st.integers(-1, 2),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows suffice for several threads and blocks."""
    monkeypatch.setattr(sidkit.stores.offline.row_order, "_FEW_ROWS", 2)
    monkeypatch.setattr(sidkit.stores.offline.binary_search, "_BLOCK", 3)


@many
@given(rows=ROWS, in_order_of_time=st.booleans(), with_created=st.booleans(), threads=st.integers(1, 4))
def test_the_order_is_that_of_sorted_tuples(
    rows: list[tuple[int, int, int]], in_order_of_time: bool, with_created: bool, threads: int
) -> None:
    if in_order_of_time:
        rows = sorted(rows, key=lambda row: row[1])
    code, moment, created = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    order = by_key_and_time(code, moment, (lambda: created) if with_created else None, threads)
    keys = [(row[0], row[1], row[2] if with_created else 0, number) for number, row in enumerate(rows)]
    assert order.tolist() == [number for *_, number in sorted(keys)]


@many
@given(question=questions(times_may_be_null=True), in_order_of_time=st.booleans())
def test_several_threads_see_what_brute_force_says(question: Question, in_order_of_time: bool) -> None:
    if in_order_of_time:
        question.rows.sort(key=lambda row: row.event_us or 0)
    assert searched(question, threads=3) == question.answer()


@pytest.mark.parametrize(
    ("keys", "times", "read"),
    [
        ([1, 2, 1, 2], [1, 2, 2, 3], False),
        ([1, 1, 2, 2], [1, 2, 3, 3], True),
        ([1, 1, 2, 2], [3, 2, 1, 0], False),
        ([1, 1, 2, 2], [3, 3, 1, 0], True),
    ],
)
def test_created_times_are_read_only_where_they_decide(keys: list[int], times: list[int], read: bool) -> None:
    calls: list[None] = []

    def created() -> pa.Array:
        calls.append(None)
        return pa.array([9, 8, 9, 8], pa.int64())

    index = SearchIndex.build([pa.array(keys, pa.int64())], pa.array(times, pa.int64()), created)
    assert bool(calls) == read
    newest = index.find([pa.array([1, 2], pa.int64())], pa.array([9, 9], pa.int64()))
    ranks = list(zip(keys, times, [9, 8, 9, 8], range(4), strict=True))
    assert newest.tolist() == [max(rank for rank in ranks if rank[0] == key)[-1] for key in (1, 2)]
