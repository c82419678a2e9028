"""Pairs of items as callers give them: mined pairs, or an array of row numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.errors import FitError

Pairs = ItemPairs | npt.ArrayLike | None
"""What ``fit`` accepts as pairs: mined pairs, or integers ``[pairs, 2]``, the row numbers of trigger and target."""


def item_pairs(pairs: Pairs, items: int) -> ItemPairs | None:
    """Convert row numbers to :class:`~semantic_ids.pairs.mining.ItemPairs`; mined pairs are returned unchanged.

    The weight of a pair is the number of times it is listed, and the clicks of an item are its appearances.

    Parameters
    ----------
    pairs : ItemPairs, array-like or None
        See :data:`Pairs`.
    items : int
        Number of rows that the pairs refer to.

    Raises
    ------
    FitError
        When the array has another shape or type, a row number is out of range, or a pair has the same item twice.
    """
    if pairs is None or isinstance(pairs, ItemPairs):
        return pairs
    array = _row_numbers(pairs)
    if array.size and not 0 <= array.min() <= array.max() < items:
        raise FitError(
            f"expected row numbers of pairs from 0 to {items - 1}, got {array.min()} to {array.max()}; count the rows from 0"
        )
    same = array[array[:, 0] == array[:, 1]]
    if len(same):
        raise FitError(f"expected pairs of two different items, got {same[0].tolist()}; drop the pairs of one item")
    unique, count = np.unique(array, axis=0, return_counts=True)
    clicks = np.bincount(array.ravel(), minlength=items).astype(np.int64)
    trigger, target = np.ascontiguousarray(unique.T)
    return ItemPairs(trigger, target, count.astype(np.float32), clicks, 0)


def _row_numbers(pairs: npt.ArrayLike) -> npt.NDArray[np.int64]:
    expected = "expected pairs as ItemPairs, or as integers of shape (pairs, 2): row numbers of trigger and target"
    try:
        array = np.asarray(pairs)
    except ValueError as error:
        raise FitError(f"{expected}; got rows of different lengths") from error
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise FitError(f"{expected}; got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)
