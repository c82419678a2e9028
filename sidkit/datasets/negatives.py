"""Negatives for a log of positives only: drawn as of the positive's own moment, matched so that nothing but taste tells.

For each positive, ``per_positive`` items are drawn that exist at that moment, are no positive of the same request, and
that the user had before exactly if the user had the positive before (where users come back to items, "it is in the
history" would otherwise give the label away). ``stratified`` also matches age and recent activity, as known at the start
of the day; drawing by popularity alone would make dormant and new items never negatives, so that coldness gives the label
away. Where a stratum has too few items the match is loosened: first age and activity go, then "had before".

Draws depend on the positive and the seed alone, so a longer log keeps the negatives of a shorter one while the catalogue
of that time stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sidkit.clock import DAY_US
from sidkit.config import NegativeSettings

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_TRIES = 12  # draws per slot and degree of strictness before the next, looser one
_EXHAUSTED = 10_000  # stands for the number of a draw where every candidate is looked at
_EXHAUST_AT_ONCE = 4_000_000  # candidates looked at in one go
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Positives:
    """The positives of a log in time order.

    ``user``, ``item`` and ``request`` are dense indices, ``moment_us`` microseconds UTC; ``key`` is a 64-bit hash of each
    row that decides its draws.
    """

    user: Ints
    item: Ints
    request: Ints
    moment_us: Ints
    key: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Catalogue:
    """The items of a log: from when to when each exists (microseconds UTC)."""

    created_us: Ints
    removed_us: Ints


def row_keys(*columns: pd.Series) -> npt.NDArray[np.uint64]:
    """A 64-bit hash per row of some columns."""
    return np.asarray(pd.util.hash_pandas_object(pd.concat(columns, axis=1), index=False), dtype=np.uint64)


def draw_negatives(positives: Positives, catalogue: Catalogue, settings: NegativeSettings, delay_us: int) -> Ints:
    """Draw negatives.

    Parameters
    ----------
    positives, catalogue
        The log.
    settings : NegativeSettings
        How many, by which strategy, under which seed.
    delay_us : int
        The availability delay: what the user had, and what was active, is known that much later.

    Returns
    -------
    numpy.ndarray
        ``int64 [positives, per_positive]`` item indices, distinct per row; -1 where no item was left to draw.
    """
    sampler = _Sampler(positives, catalogue, settings, delay_us)
    drawn = np.full((len(positives.user), settings.per_positive), -1, dtype=np.int64)
    for rows, day_us in _days(positives.moment_us):
        drawn[rows] = sampler.draw_day(np.arange(rows.start, rows.stop), day_us)
    return drawn


def _days(moment_us: Ints) -> Iterator[tuple[slice, int]]:
    if not len(moment_us):
        return
    day = moment_us // DAY_US
    starts = np.flatnonzero(np.r_[True, day[1:] != day[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(day)], strict=True):
        yield slice(int(start), int(end)), int(day[start]) * DAY_US


class _Sampler:
    def __init__(self, positives: Positives, catalogue: Catalogue, settings: NegativeSettings, delay_us: int) -> None:
        self._p = positives
        self._items = catalogue
        self._settings = settings
        self._delay_us = delay_us
        self._count = len(catalogue.created_us)
        self._in_request = np.unique(positives.request * self._count + positives.item)
        self._had, self._had_since = self._first_touches()
        self._owner_start = np.searchsorted(self._had, np.arange(positives.user.max(initial=-1) + 2) * self._count)
        # Per user, the items in the order in which they were first had: what a user had by a moment is a prefix of it.
        user_of_had = self._had // self._count
        order = np.lexsort((self._had, self._had_since, user_of_had))
        self._had_items = (self._had % self._count)[order]
        self._had_times = self._had_since[order]
        self.returning = self.had_before(positives.user, positives.item, positives.moment_us)

    def _first_touches(self) -> tuple[Ints, Ints]:
        """Sorted keys (user, item) and the moment from which serving knew of the first touch."""
        keys, first = np.unique(self._p.user * self._count + self._p.item, return_index=True)
        return keys, self._p.moment_us[first] + self._delay_us

    def had_before(self, user: Ints, item: Ints, moment_us: Ints) -> Bools:
        """Whether the user had the item, as known at the moment."""
        return _member_since(self._had, self._had_since, user * self._count + item) <= moment_us

    def draw_day(self, rows: Ints, day_us: int) -> Ints:
        drawn = np.full((len(rows), self._settings.per_positive), -1, dtype=np.int64)
        stratum = self._strata(day_us)
        present = np.flatnonzero((self._items.created_us < day_us + DAY_US) & (self._items.removed_us > day_us))
        groups = _Groups(present, stratum[present])
        anything = _Groups(present, np.zeros(len(present), dtype=np.int64))
        own = stratum[self._p.item[rows]]
        same_touch = True
        for strictness, (pool, wanted) in enumerate(
            ((groups, own), (anything, np.zeros_like(own)), (anything, np.zeros_like(own)))
        ):
            if strictness == 2:
                same_touch = False
            for attempt in range(_TRIES):
                empty_row, empty_slot = np.nonzero(drawn < 0)
                if not len(empty_row):
                    return drawn
                at = rows[empty_row]
                number = _mixed(self._p.key[at], empty_slot, strictness * _TRIES + attempt, self._settings.seed)
                candidate = self._candidates(pool, wanted[empty_row], at, number, from_history=same_touch)
                good = self._allowed(candidate, at, same_touch)
                if strictness == 0:
                    good &= stratum[np.maximum(candidate, 0)] == wanted[empty_row]
                _accept(drawn, empty_row, empty_slot, candidate, good)
            own_stratum = stratum if strictness == 0 else None
            self._exhaust(drawn, rows, pool, wanted, own_stratum, same_touch=same_touch)
        return drawn

    def _exhaust(
        self, drawn: Ints, rows: Ints, pool: _Groups, wanted: Ints, stratum: Ints | None, *, same_touch: bool
    ) -> None:
        """Where luck left slots empty, look at every candidate, so that none is missed."""
        left = np.flatnonzero((drawn < 0).any(axis=1))
        from_history = self.returning[rows[left]] & same_touch
        known, others = left[from_history], left[~from_history]
        user = self._p.user[rows[known]]
        start = self._owner_start[user]
        until = _count_before(self._had_times, start, self._owner_start[user + 1], self._p.moment_us[rows[known]])
        for row, items, begin, length in (
            (known, self._had_items, start, until),
            (others, pool.items, *pool.span(wanted[others])),
        ):
            for part in _parts_of(length, _EXHAUST_AT_ONCE):
                self._fill(drawn, rows, row[part], items, begin[part], length[part], wanted, stratum, same_touch)

    def _fill(
        self,
        drawn: Ints,
        rows: Ints,
        row: Ints,
        items: Ints,
        begin: Ints,
        length: Ints,
        wanted: Ints,
        stratum: Ints | None,
        same_touch: bool,
    ) -> None:
        """Fill the empty slots of some rows from ``items[begin : begin + length]``, in an order of their own."""
        owner = np.repeat(row, length)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
        candidate = items[np.repeat(begin, length) + place]
        good = self._allowed(candidate, rows[owner], same_touch) & ~(drawn[owner] == candidate[:, None]).any(axis=1)
        if stratum is not None:
            good &= stratum[candidate] == wanted[owner]
        owner, candidate = owner[good], candidate[good]
        order = np.lexsort((_mixed(self._p.key[rows[owner]], candidate, _EXHAUSTED, self._settings.seed), owner))
        owner, candidate = owner[order], candidate[order]
        free_row, free_slot = np.nonzero(drawn[row] < 0)
        rank = np.arange(len(free_row)) - np.searchsorted(free_row, free_row)
        first, last = np.searchsorted(owner, row), np.searchsorted(owner, row, side="right")
        filled = rank < (last - first)[free_row]
        drawn[row[free_row[filled]], free_slot[filled]] = candidate[(first[free_row] + rank)[filled]]

    def _candidates(
        self, pool: _Groups, group: Ints, at: Ints, number: npt.NDArray[np.uint64], *, from_history: bool
    ) -> Ints:
        candidate = pool.pick(group, number)
        if not from_history:
            return candidate
        # For an item that the user had before, others that the user had before.
        returning = np.flatnonzero(self.returning[at])
        user = self._p.user[at[returning]]
        start, end = self._owner_start[user], self._owner_start[user + 1]
        known = _count_before(self._had_times, start, end, self._p.moment_us[at[returning]])
        offset = (number[returning] % np.maximum(known, 1).astype(np.uint64)).astype(np.int64)
        candidate[returning] = np.where(
            known > 0, self._had_items[np.minimum(start + offset, len(self._had_items) - 1)], -1
        )
        return candidate

    def _allowed(self, candidate: Ints, at: Ints, same_touch: bool) -> Bools:
        safe = np.maximum(candidate, 0)
        moment = self._p.moment_us[at]
        good = (candidate >= 0) & (self._items.created_us[safe] <= moment) & (self._items.removed_us[safe] > moment)
        good &= ~_member(self._in_request, self._p.request[at] * self._count + safe)
        if same_touch:
            good &= self.had_before(self._p.user[at], safe, moment) == self.returning[at]
        return good

    def _strata(self, day_us: int) -> Ints:
        if self._settings.strategy == "uniform":
            return np.zeros(self._count, dtype=np.int64)
        last = day_us - self._delay_us
        window = slice(*np.searchsorted(self._p.moment_us, [last - 7 * DAY_US, last], side="right"))
        clicks = np.bincount(self._p.item[window], minlength=self._count)
        age_days = np.maximum(day_us - self._items.created_us, 0) // DAY_US
        return _log2_bucket(age_days) * 64 + _log2_bucket(clicks)


class _Groups:
    """Items by group, to draw from."""

    def __init__(self, items: Ints, group: Ints) -> None:
        order = np.argsort(group, kind="stable")
        self.items = items[order]
        self._groups, self._starts = np.unique(group[order], return_index=True)
        self._sizes = np.diff(np.r_[self._starts, len(items)])

    def span(self, group: Ints) -> tuple[Ints, Ints]:
        """Where the items of each group begin in ``items``, and how many they are."""
        if not len(self.items):
            return np.zeros(len(group), dtype=np.int64), np.zeros(len(group), dtype=np.int64)
        place = np.minimum(np.searchsorted(self._groups, group), len(self._groups) - 1)
        return self._starts[place], np.where(self._groups[place] == group, self._sizes[place], 0)

    def pick(self, group: Ints, number: npt.NDArray[np.uint64]) -> Ints:
        """One item of each group by a random number; -1 where the group is empty."""
        if not len(self.items):
            return np.full(len(group), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._groups, group), len(self._groups) - 1)
        offset = (number % self._sizes[place].astype(np.uint64)).astype(np.int64)
        return np.where(self._groups[place] == group, self.items[self._starts[place] + offset], -1)


def _parts_of(lengths: Ints, most: int) -> Iterator[slice]:
    """Slices whose lengths add up to about ``most``."""
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // most, prepend=0)) if len(lengths) else np.zeros(0, np.int64)
    for start, end in zip(np.r_[0, cuts], np.r_[cuts, len(lengths)], strict=True):
        if end > start:
            yield slice(int(start), int(end))


def _accept(drawn: Ints, row: Ints, slot: Ints, candidate: Ints, good: Bools) -> None:
    """Fill slots; of equal candidates for one positive the first slot wins."""
    good = good & ~(drawn[row] == candidate[:, None]).any(axis=1)
    row, slot, candidate = row[good], slot[good], candidate[good]
    order = np.lexsort((slot, candidate, row))
    row, slot, candidate = row[order], slot[order], candidate[order]
    first = np.r_[True, (row[1:] != row[:-1]) | (candidate[1:] != candidate[:-1])] if len(row) else np.array([], bool)
    drawn[row[first], slot[first]] = candidate[first]


def _member(keys: Ints, wanted: Ints) -> Bools:
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return keys[place] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)


def _member_since(keys: Ints, since: Ints, wanted: Ints) -> Ints:
    if not len(keys):
        return np.full(len(wanted), _NEVER)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, since[place], _NEVER)


def _count_before(times: Ints, start: Ints, end: Ints, moment: Ints) -> Ints:
    """Per row, how many of ``times[start:end]`` (sorted) are at or before ``moment``: a vectorised bisection."""
    low, high = start.copy(), end.copy()
    while (low < high).any():
        middle = (low + high) // 2
        before = (low < high) & (times[np.minimum(middle, len(times) - 1)] <= moment)
        low = np.where(before, middle + 1, low)
        high = np.where(before | (low >= high), high, middle)
    return low - start


def _log2_bucket(values: Ints) -> Ints:
    return np.ceil(np.log2(values + 1)).astype(np.int64)


def _mixed(key: npt.NDArray[np.uint64], slot: Ints, attempt: int, seed: int) -> npt.NDArray[np.uint64]:
    """A random number per (positive, slot, attempt, seed): splitmix64."""
    with np.errstate(over="ignore"):
        state = key + np.uint64(0x9E3779B97F4A7C15) * (slot.astype(np.uint64) + np.uint64(1))
        state ^= np.uint64((seed * 0x632BE59BD9B4E019 + attempt * 0xD1B54A32D192ED03) % 2**64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed
