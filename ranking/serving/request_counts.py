"""Counts and rates of one request, all windows at a time: those of :mod:`ranking.data.numeric_features` and
:mod:`ranking.data.code_counts`, whose rows have one user and one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ranking.data.code_schema import ITEM_RATE
from ranking.data.numeric_features import smoothed_rate
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import Bools, Doubles, Floats, Ints
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    user_code_stats_alias,
)
from sidkit.core.feature_settings import WINDOWS
from sidkit.stores.online.reader import PackedView, number_matrix

if TYPE_CHECKING:
    from ranking.serving.prefix_counts import PrefixCounts, PrefixRows
    from sidkit.stores.online.sqlite_file import Reading

COUNTED = ("exposures", "clicks")
_CONVERSIONS = "conversions"


@dataclass(frozen=True)
class Counts:
    """Trailing counts of the rows of a view, ``float64 [rows, windows]`` each; NaN where unknown."""

    exposures: Doubles
    clicks: Doubles
    conversions: Doubles | None = None

    @classmethod
    def features(cls, windows: Sequence[str], *, conversions: bool) -> list[str]:
        """The columns of :meth:`of`, in order."""
        return [f"{event}_{window}" for event in (*COUNTED, *([_CONVERSIONS] * conversions)) for window in windows]

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


class CodeCountsReader:
    """Counts and rates of the prefixes of candidates' codes.

    Parameters
    ----------
    counts : PrefixCounts
        Reads the counts.
    schema : FeatureSchema
        The features to compute.
    """

    def __init__(self, counts: PrefixCounts, schema: FeatureSchema) -> None:
        self.counts, self._depths = counts, counts.depths
        names = [*self._names(), *(f"{ITEM_RATE}_{window}" for window in CODE_WINDOWS)]
        wanted = {each.name: at for at, each in enumerate(schema.numbers)}
        self._from = np.array([at for at, name in enumerate(names) if name in wanted], dtype=np.int64)
        self._to = np.array([wanted[name] for name in names if name in wanted], dtype=np.int64)

    def fill(
        self,
        numbers: Floats,
        read: PrefixRows,
        of_items: Counts,
        of_user: Counts,
        rate: float,
    ) -> None:
        """Write the features of a request's rows into the numbers of the schema, ``float32 [rows, numbers]``.

        Parameters
        ----------
        numbers : float32 [rows, numbers]
            Columns of the features of codes are written.
        read : PrefixRows
            The counts of the prefixes of the rows.
        of_items, of_user : Counts
            ``item_stats`` of the rows, and ``user_stats`` of the user, in all windows.
        rate : float
            The share of positives among the training rows.
        """
        of_row, count = read.of_row, len(read.of_all[0].clicks)
        blocks: list[Doubles] = []
        parents: Doubles = np.full((count, len(CODE_WINDOWS)), rate)
        for counts in read.of_all:
            parents = counts.rate(parents)
            assert counts.conversions is not None
            blocks += [*map(Counts.filled, (counts.exposures, counts.clicks)), parents]
            blocks.append(Counts.filled(counts.conversions))
        own = of_user.select([WINDOWS.index(window) for window in USER_CODE_WINDOWS]).rate(rate)
        own = np.broadcast_to(own, (count, len(USER_CODE_WINDOWS)))
        for counts in read.of_user:
            own = counts.rate(own)
            blocks += [*map(Counts.filled, (counts.exposures, counts.clicks)), own]
        of_prefixes = np.concatenate(blocks, axis=1)
        places = [WINDOWS.index(window) for window in CODE_WINDOWS]
        item_rate = of_items.select(places).rate(parents[of_row])
        wide = of_prefixes.shape[1]
        inner = self._from < wide
        numbers[:, self._to[inner]] = of_prefixes[:, self._from[inner]][of_row]
        numbers[:, self._to[~inner]] = item_rate[:, self._from[~inner] - wide]

    def _names(self) -> list[str]:
        """Names of the columns per prefix, in the order of the blocks of :meth:`fill`."""
        names = []
        for depth in self._depths:
            for event in (*COUNTED, "rate", _CONVERSIONS):
                names += [f"{code_stats_alias(depth)}__{event}_{window}" for window in CODE_WINDOWS]
        for depth in self._depths:
            for event in (*COUNTED, "rate"):
                names += [f"{user_code_stats_alias(depth)}__{event}_{window}" for window in USER_CODE_WINDOWS]
        return names
