"""Counts of the prefixes of codes, in arrays that are shared by the rankers of a codebook."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ranking.data.grown import Grown
from ranking.serving.counts import CountedView, Counts
from sidkit.core.arrays import Codes, Ints
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    prefix_column,
    prefix_keys,
    user_code_stats_alias,
)
from sidkit.stores.online.arrow import key_prefix, text_value
from sidkit.stores.online.checksums import event_us
from sidkit.stores.online.reader import PackedView, number_matrix

if TYPE_CHECKING:
    from sidkit.stores.online.transactions import Reading

_CODE_BITS = 20
"""Bits of a code within the number of a prefix; codebooks have at most 2^16 codes per level."""
_MOST_DEPTH = 3


@dataclass(frozen=True)
class PrefixRows:
    """Counts of distinct prefixes, of all users and of one, per depth; NaN where unknown. ``of_row`` ``int64 [rows]`` has the
    index of each row's prefix.
    """

    of_row: Ints
    of_all: list[Counts]
    of_user: list[Counts]


class PrefixCounts:
    """Reads counts per prefix: of all users once until the store has others, of one user in one query.

    Parameters
    ----------
    codebook : str
        The codebook's name.
    depths : tuple of int
        Depths with counts, ascending.
    views : mapping
        The views of the service of counts.
    """

    def __init__(self, codebook: str, depths: tuple[int, ...], views: dict[str, PackedView]) -> None:
        self.codebook, self.depths, self.views = codebook, depths, views
        self._of_all = CountedView(views[code_stats_alias(depths[0])], CODE_WINDOWS, conversions=True)
        self._of_user = CountedView(views[user_code_stats_alias(depths[0])], USER_CODE_WINDOWS, conversions=False)
        self._all_head, self._user_head = key_prefix(["sid_prefix"]), key_prefix(["sid_prefix", "user_id"])
        self._lock = threading.Lock()
        self._place: list[dict[int, int]] = [{} for _ in depths]
        self._values = [b""]  # place 0: no codes
        self._counts = Grown(np.full((1, len(self._of_all.features)), np.nan))
        self._event_us = Grown(np.zeros(1, dtype=np.int64))
        self._verified = Grown(np.full(1, np.iinfo(np.int64).max))
        self._marks: tuple[object, ...] = ()
        self._generation = 0

    @staticmethod
    def fits(depths: Sequence[int], views: dict[str, PackedView]) -> bool:
        """Whether the views are those of the template: text keys, one stored view for all depths."""
        if not depths or depths[-1] > _MOST_DEPTH:
            return False
        for alias, names in ((code_stats_alias, ("sid_prefix",)), (user_code_stats_alias, ("sid_prefix", "user_id"))):
            of_depths = [views.get(alias(depth)) for depth in depths]
            stored = {None if view is None else (view.stored, view.ttl_us) for view in of_depths}
            if None in stored or len(stored) != 1:
                return False
            for depth, view in zip(depths, of_depths, strict=True):
                assert view is not None
                named = {"sid_prefix": prefix_column(depth), "user_id": "user_id"}
                if sorted(view.keys) != [(name, named[name], "STRING") for name in names]:
                    return False
        return True

    def places(self, codes: Codes) -> Codes:
        """Places of the prefixes of items, ``int32 [items, depths]``, of ``codes`` ``int32 [items, levels]``; 0 without codes.

        A prefix keeps its place; there are as many as the codebook has prefixes in use.
        """
        places = np.zeros((len(codes), len(self.depths)), dtype=np.int32)
        rows = np.flatnonzero((codes >= 0).all(axis=1))
        with self._lock:
            for at, depth in enumerate(self.depths):
                numbers, back = np.unique(_number(codes[rows], depth), return_inverse=True)
                held = self._place[at]
                fresh = [number for number in numbers.tolist() if number not in held]
                held.update(zip(fresh, range(len(self._values), len(self._values) + len(fresh)), strict=True))
                self._values += map(text_value, prefix_keys(self.codebook, _codes(fresh, depth), depth))
                self._counts.extend(np.full((len(fresh), self._counts.array.shape[1]), np.nan))
                self._event_us.extend(np.zeros(len(fresh), dtype=np.int64))
                self._verified.extend(np.full(len(fresh), -1))
                places[rows, at] = np.array([held[number] for number in numbers.tolist()], dtype=np.int32)[back.ravel()]
        return places

    def read(self, reading: Reading, prefixes: Codes, user_id: str, at_us: int) -> PrefixRows:
        """The counts of the places ``int32 [rows, depths]`` of rows as of a time; NaN without codes."""
        _, first, of_row = np.unique(prefixes[:, -1], return_index=True, return_inverse=True)
        chains = prefixes[first]
        distinct, back = np.unique(chains, return_inverse=True)
        back = back.reshape(chains.shape)
        with self._lock:
            self._refresh(reading, distinct)
            numbers, times_us = self._counts.array[distinct], self._event_us.array[distinct]
            values = [self._values[place] for place in distinct.tolist()]
        if self._of_all.view.ttl_us is not None:
            numbers[times_us < at_us - self._of_all.view.ttl_us] = np.nan
        tail = text_value(user_id)
        of_user, _ = self._of_user.read(reading, [self._user_head + value + tail for value in values], at_us)
        if distinct[0] == 0:
            of_user.exposures[0] = of_user.clicks[0] = np.nan
        of_all = Counts.of(numbers, len(CODE_WINDOWS))
        return PrefixRows(
            of_row.ravel(), [of_all.take(places) for places in back.T], [of_user.take(places) for places in back.T]
        )

    def _refresh(self, reading: Reading, places: Codes) -> None:
        """Read the counts of all users again after a write to them."""
        stored = self._of_all.view.stored
        marks = reading.marks([stored])
        if marks != self._marks:
            self._marks, self._generation = marks, self._generation + 1
        outdated = places[(self._verified.array[places] < self._generation)]
        if len(outdated):
            keys = [self._all_head + self._values[place] for place in outdated.tolist()]
            rows = [row for (row,) in reading.fetch((stored,), keys)]
            self._counts.array[outdated] = number_matrix(reading, self._of_all.view, self._of_all.features, rows)
            self._event_us.array[outdated] = [0 if row is None else event_us(row) for row in rows]
            self._verified.array[outdated] = self._generation


def _number(codes: Codes, depth: int) -> Ints:
    """A number per prefix, ``int64 [rows]``."""
    number = np.zeros(len(codes), dtype=np.int64)
    for level in range(depth):
        number = (number << _CODE_BITS) | codes[:, level]
    return number


def _codes(numbers: Sequence[int], depth: int) -> Ints:
    """The codes of prefixes by their numbers, ``int64 [prefixes, depth]``."""
    rest, codes = np.array(numbers, dtype=np.int64), np.empty((len(numbers), depth), dtype=np.int64)
    for level in reversed(range(depth)):
        rest, codes[:, level] = rest >> _CODE_BITS, rest & ((1 << _CODE_BITS) - 1)
    return codes
