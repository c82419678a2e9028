"""The items that are looked at as negatives of a positive: a sample that holds near ones, or all there are.

Catalogues are large and near items are few, so a plain sample would miss them. Offered are items created next to the
positive's, items of clicks within each window before its moment, and any items. How often an item is offered is known, so
that the draw can take the offer's own preferences out again.
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
"""Negatives of a positive that so many candidates are enough for; for more there are more in proportion."""


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
    key: Hashes


@dataclass(frozen=True)
class Catalogue:
    """The items of a log: from when to when each exists (microseconds UTC), and a 64-bit hash of its id."""

    created_us: Ints
    removed_us: Ints
    key: Hashes


@dataclass(frozen=True)
class Serving:
    """What decides what serving knew at a moment: the delay, the distance of window ends, the length of histories."""

    delay_us: int
    cadence_us: int
    history_length: int


@dataclass(frozen=True)
class Offers:
    """Candidates ``item`` int64 and whose they are: ``owner`` int64, a place among the rows that were asked for."""

    owner: Ints
    item: Ints


class Candidates:
    """Offers items to positives.

    Parameters
    ----------
    positives, catalogue, serving
        The log.
    seed : int
        Decides the sample.
    per_positive : int
        How many of them will be drawn.
    anywhere : bool
        Offer any items with the same chance, near or not.
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
            positives.user, positives.item, positives.moment_us, items=len(catalogue.created_us),
            delay_us=serving.delay_us, history_length=serving.history_length,
        )  # fmt: skip
        self._by_creation = np.lexsort((catalogue.key, catalogue.created_us))
        self._created = catalogue.created_us[self._by_creation]
        self._rank = np.empty_like(self._by_creation)
        self._rank[self._by_creation] = np.arange(len(self._by_creation))

    def sample(self, rows: Ints) -> Offers:
        """``offered`` items for each positive, some of them twice, or all that were created where they are so few."""
        moment, born = self._p.moment_us[rows], self._born(rows)
        place = np.arange(self.offered)
        number = mixed(self._p.key[rows][:, None], place, 0, self._seed)
        any_rank = (number % np.maximum(born, 1)[:, None].astype(np.uint64)).astype(np.int64)
        few = (born <= self.offered)[:, None]
        rank = np.where(few, place, any_rank)
        if not self._even:
            near = slice(0, _BY_CREATION * self._times)
            # Steps of any size are as likely by the octave: items of the same hour, and of the same year.
            step = np.floor(np.maximum(born, 2)[:, None] ** uniform(number[:, near])).astype(np.int64)
            forwards = (number[:, near] & np.uint64(1)).astype(bool)
            stepped = self._rank[self._p.item[rows]][:, None] + np.where(forwards, step, -step)
            rank[:, near] = np.where(few, rank[:, near], stepped)
        there = (rank >= 0) & (rank < born[:, None])
        item = np.where(there, self._by_creation[np.clip(rank, 0, len(self._by_creation) - 1)], -1)
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
        """About how likely :meth:`sample` is to offer an item to a positive.

        ``clicks`` int64 [rows, windows + 1] are those of the item as served at the positive's moment.
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
        """Items that the user of each positive had: those of the history, or all; a sample of ``most`` where they are more."""
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
        """All items that were created before each positive's moment."""
        owner, place = _ragged(self._born(rows))
        return Offers(owner, self._by_creation[place])

    def lengths(self, rows: Ints, *, of_user: bool) -> Ints:
        """How many items :meth:`of_user` (of all) or :meth:`all_of` would offer."""
        return self.touches.had(self._p.user[rows], self._p.moment_us[rows])[2] if of_user else self._born(rows)

    def _born(self, rows: Ints) -> Ints:
        return np.searchsorted(self._created, self._p.moment_us[rows], side="right")

    def _clicks(self, moment_us: Ints) -> tuple[Ints, Ints]:
        """The clicks known at some moments: where those of each window begin ``[rows, windows + 1]``, and where they end."""
        last = np.searchsorted(self._p.moment_us, moment_us - self._delay_us, side="right")
        begin = [
            np.searchsorted(self._p.moment_us, moment_us - self._delay_us - days * DAY_US, side="right")
            for days in WINDOW_DAYS
        ]
        return np.stack([*begin, np.zeros_like(last)], axis=1), last


def row_keys(*columns: pd.Series) -> Hashes:
    """A 64-bit hash per row of some columns."""
    return np.asarray(pd.util.hash_pandas_object(pd.concat(columns, axis=1), index=False), dtype=np.uint64)


def mixed(key: Hashes, other: Ints | Hashes, kind: int, seed: int) -> Hashes:
    """A random number per (key, other number, kind, seed): splitmix64."""
    with np.errstate(over="ignore"):
        state = key + np.uint64(GOLDEN_GAMMA) * (np.asarray(other).astype(np.uint64) + np.uint64(1))
        return splitmix64(state ^ np.uint64((seed * 0x632BE59BD9B4E019 + kind * 0xD1B54A32D192ED03) % 2**64))


def uniform(number: Hashes) -> Doubles:
    """Random numbers as fractions, above 0 and below 1."""
    return np.asarray(((number >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52)


def _ragged(length: Ints) -> tuple[Ints, Ints]:
    """Lists of these lengths one after the other: whose each entry is, and its place in its list."""
    owner = np.repeat(np.arange(len(length)), length)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
