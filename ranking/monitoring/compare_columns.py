"""Compare two columns of a frame cell by cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sidkit.core.arrays import Bools, Doubles, one_chunk


@dataclass(frozen=True)
class Compared:
    """Two columns, cell by cell.

    Attributes
    ----------
    differ : bool [rows]
        Whether the cells differ.
    size : float64 [rows]
        The absolute difference of numbers, and the largest one of two vectors; NaN for other values, and where one is
        missing.
    """

    differ: Bools
    size: Doubles

    @property
    def largest(self) -> float | None:
        """The largest difference of numbers among the cells that differ; None without any."""
        sizes = self.size[self.differ & np.isfinite(self.size)]
        return float(sizes.max()) if len(sizes) else None


def compare(one: pa.ChunkedArray, other: pa.ChunkedArray, tolerance: float) -> Compared:
    """Compare two columns of the same length.

    Parameters
    ----------
    one, other : pyarrow.ChunkedArray
        Numbers, text, or lists. Missing values are equal to each other.
    tolerance : float
        Numbers agree if they differ by at most this share of the larger one of 1 and the second number.
    """
    left, right = one_chunk(one), one_chunk(other)
    if _is_number(left.type) and _is_number(right.type):
        return _numbers(_doubles(left), _doubles(right), tolerance)
    if _is_vector(left.type) and _is_vector(right.type):
        return _vectors(left, right, tolerance)
    if left.type == right.type and pa.types.is_string(left.type):
        same = np.array(left.to_pylist(), dtype=object) == np.array(right.to_pylist(), dtype=object)
    else:
        same = np.array([a == b for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True)], dtype=np.bool_)
    return Compared(~same.astype(np.bool_), np.full(len(left), np.nan))


def missing(column: pa.ChunkedArray) -> Bools:
    """Whether each cell is missing: null, NaN or an empty list, ``bool [rows]``."""
    values = one_chunk(column)
    absent: Bools = ~values.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_list(values.type):
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        absent = absent | (lengths == 0)
    elif pa.types.is_floating(values.type):
        absent = absent | np.isnan(_doubles(values))
    return absent


def _numbers(left: Doubles, right: Doubles, tolerance: float) -> Compared:
    size = np.abs(left - right)
    close = size <= tolerance * np.maximum(np.abs(right), 1.0)
    both_missing = np.isnan(left) & np.isnan(right)
    return Compared(~(close | both_missing), size)


def _vectors(left: pa.ListArray, right: pa.ListArray, tolerance: float) -> Compared:
    lengths = [each.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False) for each in (left, right)]
    same_length = lengths[0] == lengths[1]
    size = np.full(len(left), np.nan)
    differ = ~same_length
    places = np.flatnonzero(same_length & (lengths[0] > 0))
    if len(places):
        index = pa.array(places)
        one, other = (_doubles(each.take(index).flatten()) for each in (left, right))
        cells = _numbers(one, other, tolerance)
        starts = np.concatenate([[0], np.cumsum(lengths[0][places])[:-1]]).astype(np.int64)
        differ[places] = np.logical_or.reduceat(cells.differ, starts)
        size[places] = np.maximum.reduceat(np.nan_to_num(cells.size), starts)
    return Compared(differ, size)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


def _doubles(values: pa.Array) -> Doubles:
    numbers: Doubles = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers
