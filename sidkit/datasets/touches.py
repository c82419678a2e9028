"""Earlier positives per user as known at any time, and which of them the served history contains."""

from __future__ import annotations

import numpy as np

from sidkit.core.arrays import Ints

NEVER, OLDER, RECENT = 0, 1, 2
"""The user never had the item; had it, but it is no longer in the history; it is in the history."""


class Touches:
    """Earlier positives of users, as known at any time.

    Parameters
    ----------
    user, item : int64 [events]
        Dense indices.
    moment_us : int64 [events]
        Times, microseconds UTC, ascending.
    items : int
        Number of items.
    delay_us : int
        Delay after which a positive is known.
    history_length : int
        Length of the served history, newest first; positives of the same time are ordered by item.
    """

    def __init__(
        self, user: Ints, item: Ints, moment_us: Ints, *, items: int, delay_us: int, history_length: int
    ) -> None:
        self._items, self._length = items, history_length
        self._count = len(user)
        # A history that ends inside a basket contains the basket's first items, which count as the newest.
        order = np.lexsort((-item, moment_us, user))
        self._item, self._known_us = item[order], moment_us[order] + delay_us
        self._start = np.searchsorted(user[order], np.arange(user.max(initial=-1) + 2))
        pair = user[order] * items + self._item
        place = np.lexsort((np.arange(len(pair)), pair))
        self._pairs, first, number = np.unique(pair[place], return_index=True, return_inverse=True)
        self._since = self._known_us[place[first]]
        self._visits = number * (self._count + 1) + place
        # Per user, items by their first positive: the items known at a time are a prefix.
        owner = self._pairs // max(items, 1)
        order = np.lexsort((self._pairs, self._since, owner))
        self._had, self._had_since = (self._pairs % max(items, 1))[order], self._since[order]
        self._had_start = np.searchsorted(owner, np.arange(user.max(initial=-1) + 2))

    def kind(self, user: Ints, item: Ints, moment_us: Ints) -> Ints:
        """``NEVER``, ``OLDER`` or ``RECENT`` for each row."""
        if not self._count:
            return np.zeros(len(user), dtype=np.int64)
        pair = user * self._items + item
        place = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        had = (self._pairs[place] == pair) & (self._since[place] <= moment_us)
        kind = np.where(had, OLDER, NEVER)
        rows = np.flatnonzero(had)
        newest = self._start[user[rows]] + self.known(user[rows], moment_us[rows])
        visit = np.searchsorted(self._visits, place[rows] * (self._count + 1) + newest) - 1
        latest = self._visits[visit] - place[rows] * (self._count + 1)
        kind[rows[latest >= newest - self._length]] = RECENT
        return kind

    def known(self, user: Ints, moment_us: Ints) -> Ints:
        """Number of known positives of each user."""
        return _count_before(self._known_us, self._start[user], self._start[user + 1], moment_us)

    def recent(self, user: Ints, moment_us: Ints) -> tuple[Ints, Ints, Ints]:
        """An array of items, and the start and length of each user's history in it."""
        known = self.known(user, moment_us)
        length = np.minimum(known, self._length)
        return self._item, self._start[user] + known - length, length

    def had(self, user: Ints, moment_us: Ints) -> tuple[Ints, Ints, Ints]:
        """An array of items, and the start and number of each user's distinct items in it."""
        start = self._had_start[user]
        return self._had, start, _count_before(self._had_since, start, self._had_start[user + 1], moment_us)


def _count_before(times: Ints, start: Ints, end: Ints, moment: Ints) -> Ints:
    """Per row, how many of ``times[start:end]`` (sorted) are at or before ``moment``: a vectorised bisection."""
    low, high = start.copy(), end.copy()
    while (low < high).any():
        middle = (low + high) // 2
        before = (low < high) & (times[np.minimum(middle, len(times) - 1)] <= moment)
        low = np.where(before, middle + 1, low)
        high = np.where(before | (low >= high), high, middle)
    return low - start
