"""The binary search over a table whose rows are in order of time, with four bytes per row.

In such a table the row number tells the order in time, so a key's times need not be kept: a time of an entity row becomes the
number of the first row after it, and the winner is the last row of the key before that number. The table is read in batches,
and sorted by key one range of keys at a time, so that building needs little more than the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Ints
from sidkit.stores.offline.binary_search import KeySearch, as_ints, last_not_after
from sidkit.stores.offline.key_numbers import Column, GrowingNumbers, KeyNumbers
from sidkit.stores.offline.row_order import by_key

_SORTED_ROWS = 2**23
"""Rows that are sorted at a time."""
_SCANNED_ROWS = 2**22
_Numbers = npt.NDArray[np.integer]


def bytes_per_row(keys: int) -> int:
    """Memory per row of a table while it is read and sorted, by the number of its key columns."""
    return 10 if keys < 2 else 48


@dataclass(frozen=True)
class OrderedIndex(KeySearch):
    """One feature table in order of time, sorted by key.

    ``start`` int64 [keys + 1] is the start of each key's rows in ``number``, an integer array [rows + 1] of row numbers that
    ascend within a key; entry 0 is a sentinel. ``moment`` int64 [times] are the distinct times, microseconds UTC, and ``first``
    int64 [times + 1] the first row of each, followed by the number of rows.
    """

    numbers: KeyNumbers
    start: Ints
    number: _Numbers
    moment: Ints
    first: Ints

    @classmethod
    def build(
        cls, batches: Iterable[tuple[Sequence[Column], Column]], rows: int, keys: int, *, ties: bool
    ) -> OrderedIndex | None:
        """Sort a table, which is read in batches.

        Parameters
        ----------
        batches : iterable
            The key columns and the times (int64 microseconds UTC) of the rows of the table, in its order.
        rows : int
            Number of rows of the table.
        keys : int
            Number of key columns, at least one.
        ties : bool
            Whether the last of two rows with the same key and time wins; otherwise there must be no such rows.

        Returns
        -------
        OrderedIndex or None
            None if the rows are not in order of time, a key or time is null, or rows tie that must not.
        """
        clock, columns = _Clock(), [GrowingNumbers(rows) for _ in range(keys)]
        for values, moments in batches:
            if moments.null_count or any(column.null_count for column in values):
                return None
            if not clock.add(as_ints(moments)):
                return None
            for numbering, column in zip(columns, values, strict=True):
                numbering.add(column)
        numbers, code = KeyNumbers.of_columns(columns)
        start = _starts(code, numbers.count)
        index = cls(numbers, start, _by_code(code, start), *clock.times(rows))
        return index if ties or not index._has_ties() else None

    def _search(self, code: Ints, at: Ints, most: int, ttl_us: int | None) -> Ints:
        known = code >= 0
        if len(self.start) < 2 or not len(self.moment):
            return np.full(len(code), -1, dtype=np.int64)
        safe = np.where(known, code, 0)
        before = self.start[safe]
        last = self.first[np.searchsorted(self.moment, at, side="right")] - 1  # the last row that is not after the time
        place = last_not_after(self.number, before, self.start[safe + 1], last, most)
        seen = known & (place > before)
        row = np.where(seen, self.number[place], -1).astype(np.int64)
        if ttl_us:
            seen &= self.moment[self._time(np.maximum(row, 0))] >= at - ttl_us
        return np.where(seen, row, -1)

    def _time(self, rows: _Numbers) -> Ints:
        """The index of the time of each row."""
        time: Ints = np.searchsorted(self.first, rows, side="right") - 1
        return time

    def _has_ties(self) -> bool:
        """Whether two rows have the same key and time."""
        longest = int(np.diff(self.first).max(initial=0))
        for begin in range(1, len(self.number), _SCANNED_ROWS):
            rows = self.number[begin : begin + _SCANNED_ROWS + 1]
            apart = np.diff(rows)
            # Rows of one time are not further apart than the longest run of it, so few times are looked up.
            near = np.flatnonzero((apart > 0) & (apart < longest))
            if not len(near):
                continue
            same = near[self._time(rows[near]) == self._time(rows[near + 1])] + begin
            # Equal times within one key, not at the end of one and the start of the next.
            if (np.searchsorted(self.start, same - 1, "right") == np.searchsorted(self.start, same, "right")).any():
                return True
        return False


@dataclass
class _Clock:
    """The distinct times of rows in order of time, and the first row of each."""

    rows: int = 0
    last: int | None = None
    moments: list[Ints] = field(default_factory=list)
    firsts: list[Ints] = field(default_factory=list)

    def add(self, moments: Ints) -> bool:
        """Add the times of the next rows; False if they are not in order."""
        if len(moments):
            if (self.last is not None and moments[0] < self.last) or not (moments[1:] >= moments[:-1]).all():
                return False
            fresh = np.flatnonzero(np.append(moments[0] != self.last, moments[1:] != moments[:-1]))
            self.moments.append(moments[fresh])
            self.firsts.append(fresh + self.rows)
            self.last, self.rows = int(moments[-1]), self.rows + len(moments)
        return True

    def times(self, rows: int) -> tuple[Ints, Ints]:
        """The times, and the first row of each with the number of rows at the end."""
        none = np.zeros(0, dtype=np.int64)
        return np.concatenate([none, *self.moments]), np.concatenate([none, *self.firsts, [rows]])


def _starts(code: _Numbers, count: int) -> Ints:
    counts = np.zeros(count, dtype=np.int64)
    for block in _blocks(len(code)):
        counts += np.bincount(code[block], minlength=count)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _by_code(code: _Numbers, start: Ints) -> _Numbers:
    """Row numbers sorted by code, those of one code ascending, after the sentinel."""
    rows = len(code)
    kind: type[np.integer] = np.int32 if rows < 2**31 else np.int64
    number = np.empty(rows + 1, dtype=kind)
    number[0] = -1
    cuts = np.unique(np.append(np.searchsorted(start, np.arange(0, rows, _SORTED_ROWS)), len(start) - 1))
    for low, high in pairwise(cuts.tolist()):
        inside = [np.flatnonzero((code[block] >= low) & (code[block] < high)) + block.start for block in _blocks(rows)]
        chosen = np.concatenate(inside)
        order = by_key(code[chosen].astype(np.int64) - low)
        number[start[low] + 1 : start[high] + 1] = chosen[order]
    return number


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(first, first + _SCANNED_ROWS) for first in range(0, rows, _SCANNED_ROWS))
