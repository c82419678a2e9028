"""Counts and rates of one request, all windows at a time: those of :mod:`ranking.data.numeric_features` and
:mod:`ranking.data.code_counts`, whose rows have one user and one time.
"""

from __future__ import annotations

import numpy as np

from ranking.data.code_schema import ITEM_RATE
from ranking.data.schema import FeatureSchema
from ranking.serving.counts import CONVERSIONS, COUNTED, Counts
from ranking.serving.prefix_counts import PrefixCounts, PrefixRows
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    user_code_stats_alias,
)
from sidkit.core.feature_settings import WINDOWS


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
            for event in (*COUNTED, "rate", CONVERSIONS):
                names += [f"{code_stats_alias(depth)}__{event}_{window}" for window in CODE_WINDOWS]
        for depth in self._depths:
            for event in (*COUNTED, "rate"):
                names += [f"{user_code_stats_alias(depth)}__{event}_{window}" for window in USER_CODE_WINDOWS]
        return names
