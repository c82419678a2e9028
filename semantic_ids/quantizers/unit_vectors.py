"""Vectors of length 1, their sums, and linear maps fitted to them; in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidkit.core.arrays import Doubles, Floats

_RIDGE = 1e-6


def of_length_one(rows: Doubles) -> Floats:
    """Rows of length 1, ``float32 [rows, dim]``, rounded once; zeros remain zeros."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = (rows / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def unit_sum(unit: Sequence[Floats]) -> Floats:
    """The sum of vectors ``float32 [rows, dim]`` each, of length 1; a single one as it is."""
    if len(unit) == 1:
        return unit[0]
    return of_length_one(np.sum([each.astype(np.float64) for each in unit], axis=0))


def with_constant(rows: Doubles, value: float) -> Doubles:
    """``float64 [rows, dim + 1]``: a further column of a constant."""
    return np.hstack([rows, np.full((len(rows), 1), value)])


def least_squares(given: Doubles, wanted: Doubles) -> Doubles:
    """The linear map ``float64 [columns, dim]`` from ``given`` [rows, columns] to ``wanted`` [rows, dim], with a ridge."""
    inner = given.T @ given
    inner += np.eye(len(inner)) * max(_RIDGE * float(np.trace(inner)) / len(inner), 1e-20)
    return np.asarray(np.linalg.solve(inner, given.T @ wanted), dtype=np.float64)
