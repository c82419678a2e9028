"""Click counts of items as served at any time, computed from the positives of a log.

They equal the counts of ``item_stats``: windows end at multiples of the cadence, and a window is available one availability
delay after its end. Queries are vectorised over (item, time) pairs; memory grows with the log, not with the queries.
"""

from __future__ import annotations

import numpy as np

from sidkit.core.arrays import Ints
from sidkit.core.clock import DAY_US

WINDOW_DAYS = (1, 7, 30)
"""Lengths of the trailing windows; the last column of :meth:`ServedCounts.at` counts from the start of the log."""


class ServedCounts:
    """Trailing click counts per item.

    Parameters
    ----------
    item : int64 [events]
        Dense item indices.
    moment_us : int64 [events]
        Time of each click, microseconds UTC.
    delay_us, cadence_us : int
        The availability delay, and the interval between window ends.
    """

    def __init__(self, item: Ints, moment_us: Ints, delay_us: int, cadence_us: int) -> None:
        self._delay_us, self._cadence_us = delay_us, cadence_us
        order = np.lexsort((moment_us, item))
        item, moment_us = item[order], moment_us[order]
        # A click is counted by the windows that end from `enter` on and before `leave`, in multiples of the cadence.
        self._first = int(moment_us.min(initial=0)) // cadence_us - 1
        last = -(-(int(moment_us.max(initial=0)) + max(WINDOW_DAYS) * DAY_US) // cadence_us)
        self._span = last - self._first + 2
        self._enter, *self._leave = (
            item * self._span + self._ends(moment_us + days * DAY_US) for days in (0, *WINDOW_DAYS)
        )
        self._before = np.searchsorted(item, np.arange(item.max(initial=-1) + 2))

    def at(self, item: Ints, moment_us: Ints) -> Ints:
        """Counts ``int64 [rows, windows + 1]`` of items as served at given times."""
        end = (moment_us - self._delay_us) // self._cadence_us - self._first
        query = item * self._span + np.clip(end, 0, self._span - 1)
        order = np.argsort(query)  # searching for ascending values is many times faster
        ascending = query[order]
        entered, *left = (np.searchsorted(moves, ascending, side="right") for moves in (self._enter, *self._leave))
        before = self._before[np.minimum(item, len(self._before) - 1)][order]
        counts = np.empty((len(item), len(left) + 1), dtype=np.int64)
        counts[order] = np.stack([*(entered - each for each in left), entered - before], axis=1)
        return counts

    def _ends(self, moment_us: Ints) -> Ints:
        return -(-moment_us // self._cadence_us) - self._first
