"""Click rates of items, estimated from the clicks known at a time."""

from __future__ import annotations

import numpy as np

from sidkit.core.arrays import Doubles, Ints
from sidkit.core.clock import DAY_US
from sidkit.datasets.served_counts import WINDOW_DAYS

_PRIOR_CLICKS = 1.0
"""Weight of the prior, in clicks."""
_LEAST_DAYS = 1 / 24
_AGES = np.concatenate([[0.0], 2.0 ** (np.arange(88) / 4) / 96])
"""Edges of the age groups in days: a quarter of an hour, then quarter octaves, up to about 35,000 days."""


class ClickRates:
    """Click rates of items, in clicks per day.

    Items are clicked more at some ages than at others: news fade quickly, classics do not. So an item's clicks in a window
    are compared with those of an average item at the same ages, and the ratio is applied to the item's current age.

    Parameters
    ----------
    created_us : int64 [items]
        Creation time of each item, microseconds UTC.
    item, moment_us : int64 [clicks]
        Item and time of each click, ascending in time.
    delay_us : int
        Delay after which a click is known.
    """

    def __init__(self, created_us: Ints, item: Ints, moment_us: Ints, delay_us: int) -> None:
        self._created_us, self._moment_us, self._delay_us = created_us, moment_us, delay_us
        self._origin = int(created_us.min(initial=0))
        created = np.sort((created_us - self._origin) / DAY_US)
        self._created, self._created_before = created, np.concatenate([[0.0], np.cumsum(created)])
        # Nothing is known about the time before the log.
        self._begin = (int(moment_us[0]) - self._origin) / DAY_US if len(moment_us) else 0.0
        group = self._group(np.maximum(moment_us - created_us[item], 0) / DAY_US)
        self._clicks = np.sort(group * (len(moment_us) + 1) + np.arange(len(moment_us)))
        self._before = np.searchsorted(self._clicks, np.arange(len(_AGES)) * (len(moment_us) + 1))

    def at(self, item: Ints, moment_us: Ints, clicks: Ints) -> Doubles:
        """Click rates of items at given times, ``float64 [rows]``.

        The ratio of each window is shrunk towards that of the next longer one, and the longest towards one. The result is
        the geometric mean over the windows.

        Parameters
        ----------
        item, moment_us : int64 [rows]
        clicks : int64 [rows, windows + 1]
            Counts from :meth:`sidkit.datasets.served_counts.ServedCounts.at`.
        """
        moments, place = np.unique(moment_us, return_inverse=True)
        profile = self._profiles(moments)
        expected = np.concatenate([np.zeros((len(moments), 1)), np.cumsum(profile * np.diff(_AGES), axis=1)], axis=1)

        def up_to(age: Doubles) -> Doubles:
            group = self._group(age)
            cumulative: Doubles = expected[place, group] + profile[place, group] * (age - _AGES[group])
            return cumulative

        age = np.maximum(moment_us - self._created_us[item], 0) / DAY_US
        known_since = np.maximum(
            age - ((moment_us - self._origin) / DAY_US - self._begin), 0
        )  # the age when the log began
        now = up_to(age)
        ratio, logs = np.ones(len(item)), np.zeros(len(item))
        for window, days in reversed(list(enumerate((*WINDOW_DAYS, np.inf)))):
            usual = now - up_to(np.minimum(np.maximum(age - days, known_since), age))
            ratio = (clicks[:, window] + _PRIOR_CLICKS) / (usual + _PRIOR_CLICKS / ratio)
            logs += np.log(ratio)
        rate: Doubles = profile[place, self._group(age)] * np.exp(logs / clicks.shape[1])
        return rate

    def _group(self, age_days: Doubles) -> Ints:
        """Index of the age group of each age."""
        group: Ints = np.clip(np.searchsorted(_AGES, age_days, side="right") - 1, 0, len(_AGES) - 2)
        return group

    def _profiles(self, moment_us: Ints) -> Doubles:
        """Clicks per day of an average item, by age group, as known at given times: ``float64 [moments, groups]``."""
        known = np.searchsorted(self._moment_us, moment_us - self._delay_us, side="right")
        group = np.arange(len(_AGES) - 1)
        reached = np.searchsorted(self._clicks, group * (len(self._moment_us) + 1) + known[:, None])
        clicks = reached - self._before[:-1]
        at = (moment_us - self._origin) / DAY_US
        lived = self._lived(at[:, None] - _AGES) - self._lived(np.minimum(self._begin, at)[:, None] - _AGES)
        days = np.maximum(lived[:, :-1] - lived[:, 1:], 0)
        overall = (known + 1) / np.maximum(days.sum(axis=1), _LEAST_DAYS)
        rates: Doubles = (clicks + _PRIOR_CLICKS) / (days + _PRIOR_CLICKS / overall[:, None])
        return rates

    def _lived(self, at: Doubles) -> Doubles:
        """Total number of days that all items together existed up to given times."""
        born = np.searchsorted(self._created, at, side="right")
        days: Doubles = born * at - self._created_before[born]
        return days
