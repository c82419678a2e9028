"""Counts and rates of one request, all windows at a time: those of :mod:`ranking.data.numeric_features` and
:mod:`ranking.data.code_counts`, whose rows have one user and one time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ranking.data.code_schema import ITEM_RATE
from ranking.data.grown import Grown
from ranking.data.numeric_features import smoothed_rate
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import Bools, Codes, Doubles, Floats, Ints
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    prefix_column,
    prefix_keys,
    user_code_stats_alias,
)
from sidkit.core.feature_settings import WINDOWS
from sidkit.stores.online.arrow import key_prefix, text_value
from sidkit.stores.online.checksums import event_us
from sidkit.stores.online.reader import PackedView, number_matrix

if TYPE_CHECKING:
    from sidkit.stores.online.sqlite_file import Reading

COUNTED = ("exposures", "clicks")
_CONVERSIONS = "conversions"
_CODE_BITS = 20
"""Bits of a code within the number of a prefix; codebooks have at most 2^16 codes per level."""
_MOST_DEPTH = 3


@dataclass(frozen=True)
class Counts:
    """Trailing counts of the rows of a view, ``float64 [rows, windows]`` each; NaN where unknown."""

    exposures: Doubles
    clicks: Doubles
    conversions: Doubles | None = None

    @classmethod
    def features(cls, windows: Sequence[str], *, conversions: bool) -> list[str]:
        """The columns of :meth:`of`, in order."""
        return [f"{event}_{window}" for event in (*COUNTED, *([_CONVERSIONS] * conversions)) for window in windows]

    @classmethod
    def of(cls, matrix: Doubles, windows: int) -> Counts:
        """From the columns :meth:`features` of a view."""
        parts = [matrix[:, at : at + windows] for at in range(0, matrix.shape[1], windows)]
        return cls(*parts)

    def take(self, rows: Ints) -> Counts:
        """Select rows by index."""
        conversions = None if self.conversions is None else self.conversions[rows]
        return Counts(self.exposures[rows], self.clicks[rows], conversions)

    def select(self, windows: Sequence[int]) -> Counts:
        """Select windows by index."""
        conversions = None if self.conversions is None else self.conversions[:, windows]
        return Counts(self.exposures[:, windows], self.clicks[:, windows], conversions)

    def rate(self, towards: float | Doubles) -> Doubles:
        """Smoothed rates ``float64 [rows, windows]``; see :func:`ranking.data.numeric_features.smoothed_rate`."""
        return smoothed_rate(self.exposures, self.clicks, towards)

    @staticmethod
    def filled(counts: Doubles) -> Doubles:
        """Counts with 0 where they are unknown."""
        return np.where(np.isnan(counts), 0.0, counts)


@dataclass(frozen=True)
class CountedView:
    """Counts of one view of the packed store, read by serialized keys.

    Attributes
    ----------
    view : PackedView
    windows : tuple of str
    conversions : bool
        Whether it counts conversions too.
    """

    view: PackedView
    windows: tuple[str, ...]
    conversions: bool

    @cached_property
    def features(self) -> list[str]:
        """The columns that are read."""
        return Counts.features(self.windows, conversions=self.conversions)

    def read(self, reading: Reading, keys: Sequence[bytes], at_us: int) -> tuple[Counts, Bools]:
        """The counts of keys as of a time, and whether each has a row, ``bool [keys]``."""
        since_us = None if self.view.ttl_us is None else at_us - self.view.ttl_us
        [rows] = reading.rows_of([(self.view.stored, since_us)], keys)
        present = np.fromiter((row is not None for row in rows), np.bool_, len(rows))
        return Counts.of(number_matrix(reading, self.view, self.features, rows), len(self.windows)), present


class CodeCountsReader:
    """Counts and rates of the prefixes of candidates' codes, in one query for all depths and one more for the user's.

    Parameters
    ----------
    codebook : str
        The codebook's name.
    depths : tuple of int
        Depths with counts, ascending.
    views : mapping
        The views of the service of counts.
    schema : FeatureSchema
        The features to compute.
    """

    def __init__(
        self,
        codebook: str,
        depths: tuple[int, ...],
        views: dict[str, PackedView],
        schema: FeatureSchema,
    ) -> None:
        self._codebook, self._depths = codebook, depths
        self._of_all = CountedView(views[code_stats_alias(depths[0])], CODE_WINDOWS, conversions=True)
        self._of_user = CountedView(views[user_code_stats_alias(depths[0])], USER_CODE_WINDOWS, conversions=False)
        names = [*self._names(), *(f"{ITEM_RATE}_{window}" for window in CODE_WINDOWS)]
        wanted = {each.name: at for at, each in enumerate(schema.numbers)}
        self._from = np.array([at for at, name in enumerate(names) if name in wanted], dtype=np.int64)
        self._to = np.array([wanted[name] for name in names if name in wanted], dtype=np.int64)
        self._all_head, self._user_head = key_prefix(["sid_prefix"]), key_prefix(["sid_prefix", "user_id"])
        self._lock = threading.Lock()
        self._place: list[dict[int, int]] = [{} for _ in depths]
        self._values = [b""]  # place 0: no codes
        self._counts = Grown(np.full((1, len(self._of_all.features)), np.nan))
        self._event_us = Grown(np.zeros(1, dtype=np.int64))
        self._verified = Grown(np.full(1, np.iinfo(np.int64).max))
        self._marks: tuple[object, ...] = ()
        self._generation = 0

    def places(self, codes: Codes) -> Codes:
        """Places of the prefixes of items, ``int32 [items, depths]``, of ``codes`` ``int32 [items, levels]``; 0 without codes.

        A prefix keeps its place; there are as many as the codebook has prefixes in use.
        """
        places = np.zeros((len(codes), len(self._depths)), dtype=np.int32)
        rows = np.flatnonzero((codes >= 0).all(axis=1))
        with self._lock:
            for at, depth in enumerate(self._depths):
                numbers, back = np.unique(_number(codes[rows], depth), return_inverse=True)
                held = self._place[at]
                fresh = [number for number in numbers.tolist() if number not in held]
                held.update(zip(fresh, range(len(self._values), len(self._values) + len(fresh)), strict=True))
                self._values += map(text_value, prefix_keys(self._codebook, _codes(fresh, depth), depth))
                self._counts.extend(np.full((len(fresh), self._counts.array.shape[1]), np.nan))
                self._event_us.extend(np.zeros(len(fresh), dtype=np.int64))
                self._verified.extend(np.full(len(fresh), -1))
                places[rows, at] = np.array([held[number] for number in numbers.tolist()], dtype=np.int32)[back.ravel()]
        return places

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

    def fill(
        self,
        numbers: Floats,
        reading: Reading,
        prefixes: Codes,
        user_id: str,
        at_us: int,
        of_items: Counts,
        of_user: Counts,
        rate: float,
    ) -> None:
        """Write the features of a request's rows into the numbers of the schema, ``float32 [rows, numbers]``.

        Parameters
        ----------
        numbers : float32 [rows, numbers]
            Columns of the features of codes are written.
        reading : Reading
            The snapshot.
        prefixes : int32 [rows, depths]
            The places of the prefixes of the candidates.
        user_id : str
            The user.
        at_us : int
            The time, microseconds UTC.
        of_items, of_user : Counts
            ``item_stats`` of the rows, and ``user_stats`` of the user, in all windows.
        rate : float
            The share of positives among the training rows.
        """
        _, first, of_row = np.unique(prefixes[:, -1], return_index=True, return_inverse=True)
        of_row = of_row.ravel()
        chains = prefixes[first]
        all_depths, user_depths = self._read(reading, chains, user_id, at_us)
        blocks: list[Doubles] = []
        parents: Doubles = np.full((len(chains), len(CODE_WINDOWS)), rate)
        for counts in all_depths:
            parents = counts.rate(parents)
            assert counts.conversions is not None
            blocks += [*map(Counts.filled, (counts.exposures, counts.clicks)), parents]
            blocks.append(Counts.filled(counts.conversions))
        own = of_user.select([WINDOWS.index(window) for window in USER_CODE_WINDOWS]).rate(rate)
        own = np.broadcast_to(own, (len(chains), len(USER_CODE_WINDOWS)))
        for counts in user_depths:
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
            for event in (*COUNTED, "rate", _CONVERSIONS):
                names += [f"{code_stats_alias(depth)}__{event}_{window}" for window in CODE_WINDOWS]
        for depth in self._depths:
            for event in (*COUNTED, "rate"):
                names += [f"{user_code_stats_alias(depth)}__{event}_{window}" for window in USER_CODE_WINDOWS]
        return names

    def _read(self, reading: Reading, chains: Codes, user_id: str, at_us: int) -> tuple[list[Counts], list[Counts]]:
        """Counts per depth of all users and of one, of places ``int32 [prefixes, depths]``; NaN without codes."""
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
        return [of_all.take(places) for places in back.T], [of_user.take(places) for places in back.T]

    def _refresh(self, reading: Reading, places: Codes) -> None:
        """Read the counts of all users again after a write to them."""
        stored = self._of_all.view.stored
        marks = reading.marks([stored])
        if marks != self._marks:
            self._marks, self._generation = marks, self._generation + 1
        outdated = places[(self._verified.array[places] < self._generation)]
        if len(outdated):
            keys = [self._all_head + self._values[place] for place in outdated.tolist()]
            rows = [row for (row,) in reading.fetch([stored], keys)]
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
