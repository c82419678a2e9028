"""Trailing counts of the rows of a view of the packed store, all windows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ranking.data.numeric_features import smoothed_rate
from sidkit.core.arrays import Bools, Doubles, Ints
from sidkit.stores.online.reader import PackedView, number_matrix

if TYPE_CHECKING:
    from sidkit.stores.online.transactions import Reading

COUNTED = ("exposures", "clicks")
CONVERSIONS = "conversions"


@dataclass(frozen=True)
class Counts:
    """Trailing counts of the rows of a view, ``float64 [rows, windows]`` each; NaN where unknown."""

    exposures: Doubles
    clicks: Doubles
    conversions: Doubles | None = None

    @classmethod
    def features(cls, windows: Sequence[str], *, conversions: bool) -> list[str]:
        """The columns of :meth:`of`, in order."""
        return [f"{event}_{window}" for event in (*COUNTED, *([CONVERSIONS] * conversions)) for window in windows]

    @classmethod
    def of(cls, matrix: Doubles, windows: int) -> Counts:
        """From the columns :meth:`features` of a view."""
        parts = [matrix[:, at : at + windows] for at in range(0, matrix.shape[1], windows)]
        return cls(*parts)

    def take(self, rows: Ints) -> Counts:
        """Select rows by index."""
        conversions = None if self.conversions is None else self.conversions[rows]
        return Counts(self.exposures[rows], self.clicks[rows], conversions)

    def select(self, windows: Sequence[int]) -> Counts:
        """Select windows by index."""
        conversions = None if self.conversions is None else self.conversions[:, windows]
        return Counts(self.exposures[:, windows], self.clicks[:, windows], conversions)

    def rate(self, towards: float | Doubles) -> Doubles:
        """Smoothed rates ``float64 [rows, windows]``; see :func:`ranking.data.numeric_features.smoothed_rate`."""
        return smoothed_rate(self.exposures, self.clicks, towards)

    @staticmethod
    def filled(counts: Doubles) -> Doubles:
        """Counts with 0 where they are unknown."""
        return np.where(np.isnan(counts), 0.0, counts)


@dataclass(frozen=True)
class CountedView:
    """Counts of one view of the packed store, read by serialized keys.

    Attributes
    ----------
    view : PackedView
    windows : tuple of str
    conversions : bool
        Whether it counts conversions too.
    """

    view: PackedView
    windows: tuple[str, ...]
    conversions: bool

    @cached_property
    def features(self) -> list[str]:
        """The columns that are read."""
        return Counts.features(self.windows, conversions=self.conversions)

    def read(self, reading: Reading, keys: Sequence[bytes], at_us: int) -> tuple[Counts, Bools]:
        """The counts of keys as of a time, and whether each has a row, ``bool [keys]``."""
        since_us = None if self.view.ttl_us is None else at_us - self.view.ttl_us
        [rows] = reading.rows_of([(self.view.stored, since_us)], keys)
        present = np.fromiter((row is not None for row in rows), np.bool_, len(rows))
        return Counts.of(number_matrix(reading, self.view, self.features, rows), len(self.windows)), present
