"""How often an item is clicked, estimated from what was known at a moment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sidkit.clock import DAY_US
from sidkit.datasets.served_counts import WINDOW_DAYS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PRIOR_CLICKS = 1.0
"""Weight of the longer window's rate in the shorter one's, in clicks."""
_LEAST_DAYS = 1 / 24


class ClickRates:
    """Click rates of items, in clicks per day.

    Parameters
    ----------
    created_us : int64 [items]
        When each item came into being, microseconds UTC.
    moment_us : int64 [clicks]
        When clicks happened, rising.
    delay_us : int
        A click is known so much later.
    """

    def __init__(self, created_us: Ints, moment_us: Ints, delay_us: int) -> None:
        self._moment_us, self._delay_us = moment_us, delay_us
        # Of the time before the log nothing is known.
        self._since_us = np.maximum(created_us, moment_us[0]) if len(moment_us) else created_us
        self._rising = np.sort(self._since_us)
        self._origin = int(self._rising[0]) if len(self._rising) else 0
        self._days_before = np.r_[0.0, np.cumsum((self._rising - self._origin) / DAY_US)]

    def at(self, item: Ints, moment_us: Ints, clicks: Ints) -> Floats:
        """The rates of some items at some moments, ``float64 [rows]``.

        The rate of each window is drawn towards that of the next longer one, and the longest towards that of all items: a
        window with few clicks says little. The result is the geometric mean over the windows.

        Parameters
        ----------
        item, moment_us : int64 [rows]
        clicks : int64 [rows, windows + 1]
            As :meth:`sidkit.datasets.served_counts.ServedCounts.at` gives them.
        """
        age = np.maximum(moment_us - self._since_us[item], 0) / DAY_US
        rate = self._of_all(moment_us)
        logs = np.zeros(len(item))
        for window, days in reversed(list(enumerate((*WINDOW_DAYS, np.inf)))):
            rate = (clicks[:, window] + _PRIOR_CLICKS) / (np.minimum(age, days) + _PRIOR_CLICKS / rate)
            logs += np.log(rate)
        return np.asarray(np.exp(logs / clicks.shape[1]))

    def _of_all(self, moment_us: Ints) -> Floats:
        born = np.searchsorted(self._rising, moment_us, side="right")
        days = born * ((moment_us - self._origin) / DAY_US) - self._days_before[born]
        known = np.searchsorted(self._moment_us, moment_us - self._delay_us, side="right")
        return np.asarray((known + 1) / np.maximum(days, _LEAST_DAYS))
