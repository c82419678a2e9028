"""What the parts of one trained model contribute; importable without torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sidkit.core.arrays import Doubles, Ints

PartKind = Literal["attention", "table", "gate", "weights", "adapter", "context", "loss"]
COUNT_BINS = (0, 1, 10, 100)
"""Lower ends of the bins of interactions; items with fewer than 10 are cold."""


@dataclass(frozen=True)
class TableChange:
    """Root mean squares over the rows of an embedding table that training updated; over all rows if it updated none."""

    size: float
    """Of the trained weights."""
    start: float
    """Of the initial weights of the same rows; 0 for a zero-initialised table."""
    change: float
    """Of the differences between the two."""


@dataclass(frozen=True)
class GateByCount:
    """Mean of a gate over the rows whose candidate has from ``least`` to below ``below`` interactions (None: no limit)."""

    least: int
    below: int | None
    rows: int
    mean: float


@dataclass(frozen=True)
class PartLiveness:
    """Measurements of one part of a trained model; those that do not apply to its kind are None or empty."""

    name: str
    kind: PartKind
    role: str
    """Equal for parts of two arms that do the same, such as the id tables of two representations."""
    entropy_over_log_n: float | None = None
    """Of an attention: entropy of the weights / log of the number of valid items, averaged over heads and over the rows with at
    least two valid items; 1 is uniform."""
    size: float | None = None
    """Of a table, as are the next three: see :class:`TableChange`."""
    start: float | None = None
    size_over_start: float | None = None
    """None for a zero-initialised table, as is the next."""
    moved: float | None = None
    """Root mean square of the change / that of the start."""
    auc: float | None = None
    """Validation AUC as trained, on the rows that ``auc_off`` is measured on."""
    auc_off: tuple[float, ...] = ()
    """The same with the part forced off; of a gate, forced to 0 and to 1; of the weights of a blend by counts, with the best
    weights that are equal for all rows; of an adapter, with the frozen
    scores; of the context of a request, with zeros, and with its mean over rows."""
    delta_auc: tuple[float, ...] = ()
    """``auc_off`` minus ``auc``: negative if the part helps."""
    by_count: tuple[GateByCount, ...] = ()
    """Of a gate with a value per row: its mean by the candidate's interactions as of the row, without empty bins."""


def gate_by_count(values: Doubles, counts: Ints) -> tuple[GateByCount, ...]:
    """Mean gate ``values`` float64 [rows] by bins of ``counts`` int64 [rows], interactions as of the rows."""
    means = []
    for least, below in itertools.zip_longest(COUNT_BINS, COUNT_BINS[1:]):
        rows = (counts >= least) & (counts < (below if below is not None else np.inf))
        if rows.any():
            means.append(GateByCount(least, below, int(rows.sum()), float(values[rows].mean())))
    return tuple(means)
