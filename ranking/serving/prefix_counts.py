"""Counts of the prefixes of codes, in arrays that are shared by the rankers of a codebook."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ranking.data.grown import Grown
from ranking.serving.counts import CountedView, Counts
from sidkit.core.arrays import Codes, Doubles, Ints, distinct_below
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    prefix_column,
    prefix_keys,
    user_code_stats_alias,
)
from sidkit.stores.online.arrow import key_prefix, text_value
from sidkit.stores.online.checksums import event_us, events_us
from sidkit.stores.online.reader import PackedView, number_matrix

if TYPE_CHECKING:
    from sidkit.stores.online.transactions import Reading

_CODE_BITS = 20
"""Bits of a code within the number of a prefix; codebooks have at most 2^16 codes per level."""
_MOST_DEPTH = 3
_PRELOADED = 4_096
_MOST_USERS = 2_048
"""Users whose counts are held."""
_FEWEST_MOST = 1_024
"""Users with more rows than this, and than twice the prefixes of a request, are read prefix by prefix."""


@dataclass(frozen=True)
class PrefixRows:
    """Counts of distinct prefixes, of all users and of one, per depth; NaN where unknown. ``of_row`` ``int64 [rows]`` has the
    index of each row's prefix.
    """

    of_row: Ints
    of_all: list[Counts]
    of_user: list[Counts]


class _UserRows:
    """Rows of one user as of a mark of their view: values of the prefixes, ``float64 [rows, features]``, and event times."""

    def __init__(self, mark: tuple[object, ...], values: list[bytes], numbers: Doubles, times_us: Ints) -> None:
        self.mark, self.numbers, self.event_us = mark, numbers, times_us
        self._values, self._known = values, 0
        self.order = self._places = np.zeros(0, dtype=np.int64)

    def rows_of(self, numbers: dict[bytes, int]) -> Ints:
        """Places of the prefixes that have one, ascending; :attr:`order` has the row of each."""
        if self._known != len(numbers):  # prefixes of further items have got places
            places = np.array([numbers.get(value, -1) for value in self._values], dtype=np.int64)
            order = np.argsort(places, kind="stable")
            self.order = order[np.count_nonzero(places < 0) :]
            self._places, self._known = places[self.order], len(numbers)
        return self._places


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
        self._numbers = {b"": 0}  # place of each of the values
        self._users: OrderedDict[str, _UserRows] = OrderedDict()

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
                values = list(map(text_value, prefix_keys(self.codebook, _codes(fresh, depth), depth)))
                self._numbers.update(zip(values, range(len(self._values), len(self._values) + len(fresh)), strict=True))
                self._values += values
                self._counts.extend(np.full((len(fresh), self._counts.array.shape[1]), np.nan))
                self._event_us.extend(np.zeros(len(fresh), dtype=np.int64))
                self._verified.extend(np.full(len(fresh), -1))
                places[rows, at] = np.array([held[number] for number in numbers.tolist()], dtype=np.int32)[back.ravel()]
        return places

    def read(self, reading: Reading, prefixes: Codes, user_id: str, at_us: int) -> PrefixRows:
        """The counts of the places ``int32 [rows, depths]`` of rows as of a time; NaN without codes."""
        last, of_row = distinct_below(prefixes[:, -1], len(self._values))
        chains = np.empty((len(last), prefixes.shape[1]), dtype=np.int32)
        chains[of_row] = prefixes  # rows with one last prefix have the same others
        distinct, back = distinct_below(chains, len(self._values))
        with self._lock:
            self._refresh(reading, distinct)
            numbers, times_us = self._counts.array[distinct], self._event_us.array[distinct]
            of_user = self._counts_of_user(reading, distinct, user_id, at_us)
        if self._of_all.view.ttl_us is not None:
            numbers[times_us < at_us - self._of_all.view.ttl_us] = np.nan
        if distinct[0] == 0:
            of_user.exposures[0] = of_user.clicks[0] = np.nan
        of_all = Counts.of(numbers, len(CODE_WINDOWS))
        return PrefixRows(
            of_row, [of_all.take(places) for places in back.T], [of_user.take(places) for places in back.T]
        )

    def preload(self, reading: Reading) -> None:
        """Read the counts of all prefixes of all users."""
        with self._lock:
            for start in range(1, len(self._values), _PRELOADED):
                self._refresh(reading, np.arange(start, min(start + _PRELOADED, len(self._values))))

    def _counts_of_user(self, reading: Reading, places: Ints, user_id: str, at_us: int) -> Counts:
        """The counts of one user and some places, ascending; NaN without a row."""
        held = self._rows_of_user(reading, user_id, max(_FEWEST_MOST, 2 * len(places)))
        if held is None:
            tail = text_value(user_id)
            keys = [self._user_head + self._values[place] + tail for place in places.tolist()]
            return self._of_user.read(reading, keys, at_us)[0]
        matrix = np.full((len(places), len(self._of_user.features)), np.nan)
        since_us = None if self._of_user.view.ttl_us is None else at_us - self._of_user.view.ttl_us
        rows = held.rows_of(self._numbers)
        at = np.searchsorted(rows, places)
        found = (rows[np.minimum(at, len(rows) - 1)] == places) if len(rows) else np.zeros(len(places), np.bool_)
        if since_us is not None:
            found[found] = held.event_us[held.order[at[found]]] >= since_us
        matrix[found] = held.numbers[held.order[at[found]]]
        return Counts.of(matrix, len(USER_CODE_WINDOWS))

    def _rows_of_user(self, reading: Reading, user_id: str, most: int) -> _UserRows | None:
        """All rows of a user, as of the last write to them; None if there is no index of users, or if there are too many."""
        view = self._of_user.view
        mark = reading.marks([view.stored])
        held = self._users.get(user_id)
        if held is None or held.mark != mark:
            tail, names = text_value(user_id), len(self._user_head)
            found = reading.rows_of_second(view.stored, names, tail, most)
            if found is None:
                return None
            values = [key[names : len(key) - len(tail)] for key in found]
            rows = list(found.values())
            numbers = number_matrix(reading, view, self._of_user.features, rows)
            held = _UserRows(mark, values, numbers, events_us(rows))
            self._users[user_id] = held
            while len(self._users) > _MOST_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(user_id)
        return held

    def _refresh(self, reading: Reading, places: Ints) -> None:
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
