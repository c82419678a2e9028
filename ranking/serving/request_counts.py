"""Counts and rates of one request, all windows at a time: those of :mod:`ranking.data.numeric_features` and
:mod:`ranking.data.code_counts`, whose rows have one user and one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ranking.data.code_schema import ITEM_RATE
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
from sidkit.stores.online.reader import PackedView, number_matrix

if TYPE_CHECKING:
    from sidkit.stores.online.sqlite_file import Reading

COUNTED = ("exposures", "clicks")
_CONVERSIONS = "conversions"
_CODE_BITS = 20
"""Bits of a code within the number of a prefix; codebooks have at most 2^16 codes per level."""
_MOST_DEPTH = 3
_MOST_PREFIXES = 500_000
"""Prefixes whose keys are held; all are dropped when there are more."""


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

    def read(self, reading: Reading, keys: Sequence[bytes], at_us: int) -> tuple[Counts, Bools]:
        """The counts of keys as of a time, and whether each has a row, ``bool [keys]``."""
        since_us = None if self.view.ttl_us is None else at_us - self.view.ttl_us
        [rows] = reading.rows_of([(self.view.stored, since_us)], keys)
        features = Counts.features(self.windows, conversions=self.conversions)
        present = np.fromiter((row is not None for row in rows), np.bool_, len(rows))
        return Counts.of(number_matrix(reading, self.view, features, rows), len(self.windows)), present


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
        self._keys: list[dict[int, bytes]] = [{} for _ in depths]

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
        codes: Codes,
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
        codes : int32 [rows, levels]
            The codes of the candidates; -1 in a candidate without.
        user_id : str
            The user.
        at_us : int
            The time, microseconds UTC.
        of_items, of_user : Counts
            ``item_stats`` of the rows, and ``user_stats`` of the user, in all windows.
        rate : float
            The share of positives among the training rows.
        """
        rows = np.flatnonzero((codes >= 0).all(axis=1))
        deepest, place = np.unique(self._number(codes[rows], self._depths[-1]), return_inverse=True)
        of_row = np.full(len(codes), len(deepest), dtype=np.int64)  # the last place: without codes
        of_row[rows] = place.ravel()
        all_depths, user_depths = self._read(reading, deepest, user_id, at_us)
        blocks: list[Doubles] = []
        parents: Doubles = np.full((len(deepest) + 1, len(CODE_WINDOWS)), rate)
        for counts in all_depths:
            parents = counts.rate(parents)
            assert counts.conversions is not None
            blocks += [*map(Counts.filled, (counts.exposures, counts.clicks)), parents]
            blocks.append(Counts.filled(counts.conversions))
        own = of_user.select([WINDOWS.index(window) for window in USER_CODE_WINDOWS]).rate(rate)
        own = np.broadcast_to(own, (len(deepest) + 1, len(USER_CODE_WINDOWS)))
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

    def _number(self, codes: Codes, depth: int) -> Ints:
        """A number per prefix, ``int64 [rows]``."""
        number = np.zeros(len(codes), dtype=np.int64)
        for level in range(depth):
            number = (number << _CODE_BITS) | codes[:, level]
        return number

    def _read(self, reading: Reading, deepest: Ints, user_id: str, at_us: int) -> tuple[list[Counts], list[Counts]]:
        """Counts per depth of the deepest prefixes, and NaN as the last row."""
        values: list[bytes] = []
        places: list[Ints] = []
        for at, depth in enumerate(self._depths):
            numbers, back = np.unique(deepest >> _CODE_BITS * (self._depths[-1] - depth), return_inverse=True)
            places.append(np.append(back.ravel() + len(values), -1))
            values += self._values(at, numbers)
        user = text_value(user_id)
        of_all, _ = self._of_all.read(reading, [self._all_head + value for value in values], at_us)
        of_user, _ = self._of_user.read(reading, [self._user_head + value + user for value in values], at_us)
        nothing = [
            Counts.of(np.full((1, width * len(windows)), np.nan), len(windows))
            for width, windows in ((3, CODE_WINDOWS), (2, USER_CODE_WINDOWS))
        ]
        all_rows, user_rows = _joined(of_all, nothing[0]), _joined(of_user, nothing[1])
        return [all_rows.take(place) for place in places], [user_rows.take(place) for place in places]

    def _values(self, at: int, numbers: Ints) -> list[bytes]:
        """Serialized values of the prefixes of a depth."""
        held = self._keys[at]
        listed = numbers.tolist()
        fresh = [number for number in listed if number not in held]
        if fresh:
            if len(held) + len(fresh) > _MOST_PREFIXES:
                held.clear()
                fresh = listed
            depth, rest = self._depths[at], np.array(fresh, dtype=np.int64)
            codes = np.empty((len(rest), depth), dtype=np.int64)
            for level in reversed(range(depth)):
                rest, codes[:, level] = rest >> _CODE_BITS, rest & ((1 << _CODE_BITS) - 1)
            held.update(zip(fresh, map(text_value, prefix_keys(self._codebook, codes, depth)), strict=True))
        return [held[number] for number in listed]


def _joined(one: Counts, other: Counts) -> Counts:
    conversions = None
    if one.conversions is not None and other.conversions is not None:
        conversions = np.concatenate([one.conversions, other.conversions])
    return Counts(
        np.concatenate([one.exposures, other.exposures]), np.concatenate([one.clicks, other.clicks]), conversions
    )
