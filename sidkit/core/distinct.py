"""Distinct numbers and pairs of numbers, without sorting where their range is known."""

from __future__ import annotations

import numpy as np

from sidkit.core.arrays import Ints


def distinct_rows(index: Ints, rows: int) -> Ints:
    """The distinct row numbers of a table of ``rows`` rows, ascending, ``int64``; -1, which is no row, is left out."""
    if len(index) < rows // 8:
        distinct = np.unique(index)
        return distinct[1:] if len(distinct) and distinct[0] < 0 else distinct
    seen = np.zeros(rows, dtype=bool)
    seen[index[index >= 0]] = True
    return np.flatnonzero(seen)


def places_among(distinct: Ints, index: Ints, rows: int) -> Ints:
    """The place of each row number in the distinct ones of :func:`distinct_rows`, or -1, ``int64`` as ``index``."""
    if len(index) < rows // 8:
        place: Ints = np.where(index < 0, -1, np.searchsorted(distinct, index))
        return place
    places = np.full(rows + 1, -1, dtype=np.int64)
    places[distinct] = np.arange(len(distinct))
    return places[index]


def pair_keys(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """A number per pair, ``int64``, equal for equal pairs and in the order of the pairs, and the distinct second numbers.

    ``np.divmod(keys, len(distinct))`` gives the first numbers, which must not be negative, and the places of the second ones.
    Numbers sort many times faster than the rows of a matrix of two columns.
    """
    distinct, place = np.unique(second, return_inverse=True)
    keys: Ints = first.astype(np.int64) * max(len(distinct), 1) + place.ravel()
    return keys, distinct
