"""Distinct numbers and pairs, compared with Python's sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidkit.core.distinct import distinct_rows, pair_keys, places_among

ROWS = st.integers(1, 200)


@given(ROWS, st.data())
def test_row_numbers_have_their_place_among_the_distinct_ones(rows: int, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(-1, rows - 1), max_size=60))
    numbers = np.array(index, dtype=np.int64)
    distinct = distinct_rows(numbers, rows)
    assert distinct.tolist() == sorted(set(index) - {-1})
    places = places_among(distinct, numbers, rows).tolist()
    assert places == [-1 if each < 0 else distinct.tolist().index(each) for each in index]


@given(st.lists(st.tuples(st.integers(0, 2**31), st.integers(-(2**60), 2**60)), max_size=40))
def test_keys_of_pairs_are_equal_and_ordered_as_the_pairs(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    keys, known = pair_keys(first, second)
    assert [keys.tolist().index(key) for key in keys.tolist()] == [pairs.index(pair) for pair in pairs]
    assert [pairs[at] for at in np.argsort(keys, kind="stable")] == sorted(pairs)
    of_first, place = np.divmod(keys, max(len(known), 1))
    assert list(zip(of_first.tolist(), known[place].tolist(), strict=True)) == pairs
