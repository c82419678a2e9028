"""Pairs given as row numbers."""

from __future__ import annotations

import numpy as np
import pytest

from semantic_ids import ItemPairs
from semantic_ids.pairs.given import item_pairs
from sidkit.core.errors import FitError


def test_row_numbers_become_pairs_weighted_by_how_often_they_are_listed() -> None:
    pairs = item_pairs([[2, 0], [0, 1], [2, 0]], 4)
    assert pairs is not None
    assert list(zip(pairs.trigger.tolist(), pairs.target.tolist(), pairs.weight.tolist(), strict=True)) == [
        (0, 1, 1.0),
        (2, 0, 2.0),
    ]
    assert pairs.clicks.tolist() == [3, 1, 2, 0]
    assert item_pairs(pairs, 4) is pairs
    assert item_pairs(None, 4) is None


def test_no_rows_are_no_pairs() -> None:
    pairs = item_pairs(np.zeros((0, 2), dtype=np.int64), 3)
    assert isinstance(pairs, ItemPairs) and len(pairs) == 0


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([0, 1], r"shape \(pairs, 2\).*got int64 of shape \(2,\)"),
        ([[0, 1, 2]], r"got int64 of shape \(1, 3\)"),
        ([[0.0, 1.0]], "got float64"),
        ([["a", "b"]], "got <U1"),
        ([[0, 1], [2]], "rows of different lengths"),
        ([[0, 4]], "row numbers of pairs from 0 to 3, got 0 to 4"),
        ([[-1, 2]], "got -1 to 2"),
        ([[1, 2], [3, 3]], r"two different items, got \[3, 3\]"),
    ],
)
def test_pairs_that_name_no_two_rows_are_refused(pairs: object, problem: str) -> None:
    with pytest.raises(FitError, match=problem):
        item_pairs(pairs, 4)  # type: ignore[arg-type]
