"""The indices of distinct histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ranking.data.history_table import HistoryTableBuilder
from sidkit.stores.offline.plan import ViewRows

LISTS = (["a", "b"], ["b"], [], ["c", "a", "b"])


class NumberedItems:
    """An item table whose items have one version each."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def add(self, item_ids: Any, views: Any) -> Any:
        return np.array([self.number.setdefault(item, len(self.number) + 1) for item in item_ids], dtype=np.int64)


def view_of(lists: list[int], index: list[int]) -> ViewRows:
    """A history view that holds some of :data:`LISTS`, one of them per row, or none (-1)."""
    table = pa.table(
        {
            "user_history__item_ids": pa.array([LISTS[each] for each in lists], pa.list_(pa.string())),
            "user_history__timestamps_us": pa.array([[7] * len(LISTS[each]) for each in lists], pa.list_(pa.int64())),
        }
    )
    return ViewRows("user_history", np.array(index, dtype=np.int64), table)


@given(
    st.lists(st.tuples(st.integers(-1, len(LISTS) - 1), st.integers(10, 12)), max_size=12),
    st.permutations(range(len(LISTS))),
)
def test_indices_do_not_depend_on_the_order_of_the_lists_or_on_repeated_lists(
    rows: list[tuple[int, int]], order: list[int]
) -> None:
    at_us = np.array([at for _, at in rows], dtype=np.int64)
    chosen = [each for each, _ in rows]
    known = [each for each in chosen if each >= 0]
    places = iter(range(len(known)))
    views = [
        view_of(list(order), [order.index(each) if each >= 0 else -1 for each in chosen]),  # each list once, as DuckDB
        view_of(known, [next(places) if each >= 0 else -1 for each in chosen]),  # one list per row, as Spark
    ]
    found = []
    for view in views:
        builder = HistoryTableBuilder(NumberedItems(), lambda ids, at: {}, 3)  # type: ignore[arg-type]
        found.append((builder.add(view, at_us), *builder.arrays()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    numbers, items, _ = found[0]
    lengths = (items[numbers] > 0).sum(axis=1)
    assert lengths.tolist() == [len(LISTS[each]) if each >= 0 else 0 for each in chosen]
