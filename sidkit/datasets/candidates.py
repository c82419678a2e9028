"""Candidate items for negative sampling: a sample that includes items near the positive, or all items.

Catalogues are large and near items are few, so a uniform sample would miss them. Candidates are items created next to the
positive's, items clicked within each window before its time, and uniformly drawn items. The probability that an item is
offered is known, so that sampling weights can correct for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sidkit.core.arrays import Doubles, Hashes, Ints
from sidkit.core.clock import DAY_US
from sidkit.core.hashing import GOLDEN_GAMMA, splitmix64
from sidkit.datasets.served_counts import WINDOW_DAYS
from sidkit.datasets.touches import Touches

_BY_CREATION, _ANYWHERE, _BY_CLICK = 24, 8, 8
_OFFERED = _BY_CREATION + _ANYWHERE + _BY_CLICK * (len(WINDOW_DAYS) + 1)
_ENOUGH_FOR = 8
"""Number of negatives per positive that one set of candidates serves; more negatives get proportionally more."""


@dataclass(frozen=True)
class Positives:
    """The positives of a log in time order.

    ``user``, ``item`` and ``request`` are dense indices, ``moment_us`` microseconds UTC; ``key`` is a 64-bit hash per row
    that seeds its draws.
    """

    user: Ints
    item: Ints
    request: Ints
    moment_us: Ints
    key: Hashes


@dataclass(frozen=True)
class Catalogue:
    """The items of a log: creation and removal times (microseconds UTC), and a 64-bit hash of each id."""

    created_us: Ints
    removed_us: Ints
    key: Hashes


@dataclass(frozen=True)
class Serving:
    """Settings that determine what serving knew at a time: delay, window cadence, history length."""

    delay_us: int
    cadence_us: int
    history_length: int


@dataclass(frozen=True)
class Offers:
    """Candidates ``item`` (int64) with ``owner`` (int64), the index of the requested row each belongs to."""

    owner: Ints
    item: Ints


class Candidates:
    """Draws candidate items for positives.

    Parameters
    ----------
    positives, catalogue, serving
        The log and the serving settings.
    seed : int
        Seed of the sample.
    per_positive : int
        Number of negatives per positive.
    anywhere : bool
        Offer all items with equal probability, whether near or not.
    """

    def __init__(
        self,
        positives: Positives,
        catalogue: Catalogue,
        serving: Serving,
        seed: int,
        *,
        per_positive: int,
        anywhere: bool,
    ) -> None:
        self._p, self._delay_us, self._seed, self._even = positives, serving.delay_us, seed, anywhere
        self._times = -(-per_positive // _ENOUGH_FOR)
        self.offered = _OFFERED * self._times
        self.touches = Touches(
            positives.user,
            positives.item,
            positives.moment_us,
            items=len(catalogue.created_us),
            delay_us=serving.delay_us,
            history_length=serving.history_length,
        )
        self._by_creation = np.lexsort((catalogue.key, catalogue.created_us))
        self._created = catalogue.created_us[self._by_creation]
        self._rank = np.empty_like(self._by_creation)
        self._rank[self._by_creation] = np.arange(len(self._by_creation))

    def sample(self, rows: Ints) -> Offers:
        """Draw ``offered`` items per positive, possibly with repeats, or all existing items if there are that few."""
        moment, born = self._p.moment_us[rows], self._born(rows)
        place = np.arange(self.offered)
        number = mixed(self._p.key[rows][:, None], place, 0, self._seed)
        any_rank = (number % np.maximum(born, 1)[:, None].astype(np.uint64)).astype(np.int64)
        few = (born <= self.offered)[:, None]
        rank = np.where(few, place, any_rank)
        if not self._even:
            near = slice(0, _BY_CREATION * self._times)
            # Step sizes are log-uniform: items of the same hour as well as of the same year.
            step = np.floor(np.maximum(born, 2)[:, None] ** uniform(number[:, near])).astype(np.int64)
            forwards = (number[:, near] & np.uint64(1)).astype(bool)
            stepped = self._rank[self._p.item[rows]][:, None] + np.where(forwards, step, -step)
            rank[:, near] = np.where(few, rank[:, near], stepped)
        valid = (rank >= 0) & (rank < born[:, None])
        item = np.where(valid, self._by_creation[np.clip(rank, 0, len(self._by_creation) - 1)], -1)
        if not self._even:
            first, last = self._clicks(moment)
            column, width = (_BY_CREATION + _ANYWHERE) * self._times, _BY_CLICK * self._times
            for window in range(first.shape[1]):
                part = slice(column + window * width, column + (window + 1) * width)
                clicks = last - first[:, window]
                offset = (number[:, part] % np.maximum(clicks, 1)[:, None].astype(np.uint64)).astype(np.int64)
                clicked = self._p.item[np.minimum(first[:, [window]] + offset, len(self._p.item) - 1)]
                item[:, part] = np.where(few, item[:, part], np.where((clicks > 0)[:, None], clicked, -1))
        owner, offer = np.nonzero(item >= 0)
        return Offers(owner, item[owner, offer])

    def chance(self, rows: Ints, item: Ints, clicks: Ints) -> Doubles:
        """Approximate probability that :meth:`sample` offers an item to a positive.

        ``clicks`` int64 [rows, windows + 1] are the item's counts as served at the positive's time.
        """
        born = np.maximum(self._born(rows), 1)
        if self._even:
            return np.ones(len(rows))
        step = np.maximum(np.abs(self._rank[item] - self._rank[self._p.item[rows]]), 1)
        often = _BY_CREATION / 2 * np.log1p(1 / step) / np.log(np.maximum(born, 2)) + _ANYWHERE / born
        first, last = self._clicks(self._p.moment_us[rows])
        often += (_BY_CLICK * clicks / np.maximum(last[:, None] - first, 1)).sum(axis=1)
        return np.where(born <= self.offered, 1.0, -np.expm1(-often * self._times))

    def of_user(self, rows: Ints, *, recent: bool, most: int | None) -> Offers:
        """Items that each positive's user had before: those in the history, or all, sampled down to ``most``."""
        listed = self.touches.recent if recent else self.touches.had
        items, begin, length = listed(self._p.user[rows], self._p.moment_us[rows])
        taken = length if most is None else np.minimum(length, most)
        owner, place = _ragged(taken)
        if most is not None:
            many = np.flatnonzero(length[owner] > most)
            number = mixed(self._p.key[rows[owner[many]]], place[many], 1, self._seed)
            place[many] = (number % length[owner[many]].astype(np.uint64)).astype(np.int64)
        return Offers(owner, items[begin[owner] + place])

    def all_of(self, rows: Ints) -> Offers:
        """All items created before each positive's time."""
        owner, place = _ragged(self._born(rows))
        return Offers(owner, self._by_creation[place])

    def lengths(self, rows: Ints, *, of_user: bool) -> Ints:
        """Number of items that :meth:`of_user` (without a limit) or :meth:`all_of` would offer."""
        return self.touches.had(self._p.user[rows], self._p.moment_us[rows])[2] if of_user else self._born(rows)

    def _born(self, rows: Ints) -> Ints:
        return np.searchsorted(self._created, self._p.moment_us[rows], side="right")

    def _clicks(self, moment_us: Ints) -> tuple[Ints, Ints]:
        """Index ranges of the clicks known at some times: starts per window ``[rows, windows + 1]``, and the end."""
        last = np.searchsorted(self._p.moment_us, moment_us - self._delay_us, side="right")
        begin = [
            np.searchsorted(self._p.moment_us, moment_us - self._delay_us - days * DAY_US, side="right")
            for days in WINDOW_DAYS
        ]
        return np.stack([*begin, np.zeros_like(last)], axis=1), last


def row_keys(*columns: pd.Series) -> Hashes:
    """Compute a 64-bit hash per row of some columns."""
    return np.asarray(pd.util.hash_pandas_object(pd.concat(columns, axis=1), index=False), dtype=np.uint64)


def mixed(key: Hashes, other: Ints | Hashes, kind: int, seed: int) -> Hashes:
    """Hash (key, other number, kind, seed) to a pseudo-random number with splitmix64."""
    with np.errstate(over="ignore"):
        state = key + np.uint64(GOLDEN_GAMMA) * (np.asarray(other).astype(np.uint64) + np.uint64(1))
        return splitmix64(state ^ np.uint64((seed * 0x632BE59BD9B4E019 + kind * 0xD1B54A32D192ED03) % 2**64))


def uniform(number: Hashes) -> Doubles:
    """Map random numbers to fractions in the open interval (0, 1)."""
    return np.asarray(((number >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52)


def _ragged(length: Ints) -> tuple[Ints, Ints]:
    """Owner and position of every entry of consecutive lists with the given lengths."""
    owner = np.repeat(np.arange(len(length)), length)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
