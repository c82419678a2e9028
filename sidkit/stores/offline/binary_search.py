"""The as-of join in memory: a vectorised binary search over all entity rows.

Feature rows are sorted once by (key, time from which they can win). Keys are numbered, so the rows of a key are one range of
the sorted table, and the winner is the last row of that range whose time is not after the entity row's time. Entity rows
need no order and are looked up in blocks that fit the processor's cache, each thread a part of the blocks: cost is linear in
the rows and logarithmic in the versions per key.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.arrays import Ints
from sidkit.stores.offline.key_numbers import KeyNumbers
from sidkit.stores.offline.row_order import by_key_and_time

_BLOCK = 65_536
LONG_AGO = np.int64(-(2**62))
"""Stands for a missing time, microseconds."""
_Micros: TypeAlias = pa.Array | pa.ChunkedArray


class KeySearch(ABC):
    """The rows of a feature table by key, in an order in which the row that a time sees is found by binary search."""

    numbers: KeyNumbers
    start: Ints

    def find(
        self, keys: Sequence[pa.Array | pa.ChunkedArray], at_us: pa.Array, ttl_us: int | None = None, threads: int = 1
    ) -> Ints:
        """Look up the feature row of each entity row.

        Parameters
        ----------
        keys : sequence of arrays
            Key columns of the entity rows, in the order in which the index was built.
        at_us : int64 array
            Microseconds UTC, null if missing.
        ttl_us : int, optional
            Time to live of a feature row, microseconds, inclusive.
        threads : int
            Number of threads that search.

        Returns
        -------
        numpy.ndarray
            ``int64 [rows]``: the number of the feature row, or -1.

        Raises
        ------
        UnlikeKeysError
            When the key types differ from those of the feature table.
        """
        code = self.numbers.look_up(keys, len(at_us))
        at = as_ints(at_us.fill_null(int(LONG_AGO)))
        most = int(np.diff(self.start).max(initial=0))

        def search(block: slice) -> Ints:
            return self._search(code[block], at[block], most, ttl_us)

        return in_blocks(search, len(at), threads)

    @abstractmethod
    def _search(self, code: Ints, at: Ints, most: int, ttl_us: int | None) -> Ints:
        """The feature rows ``int64 [rows]`` of rows by the numbers of their keys (-1: unknown) and their times, or -1.

        ``most`` is the number of rows of the key with most.
        """


@dataclass(frozen=True)
class SearchIndex(KeySearch):
    """One feature table, sorted for the binary search.

    ``start`` int64 [keys + 1] is the start of each key's rows; ``moment`` int64 [rows + 1] (microseconds UTC), ``event``
    (None if equal to ``moment``) and ``number`` (row numbers of the table) are parallel; entry 0 is a sentinel.
    """

    numbers: KeyNumbers
    start: Ints
    moment: Ints
    event: Ints | None
    number: Ints

    @classmethod
    def build(
        cls,
        keys: Sequence[pa.Array | pa.ChunkedArray],
        event_us: _Micros,
        created_us: _Micros | Callable[[], _Micros] | None = None,
        *,
        filter_by_created: bool = False,
        threads: int = 1,
    ) -> SearchIndex:
        """Sort a feature table into an index.

        Parameters
        ----------
        keys : sequence of arrays
            Key columns; empty for a view without entities.
        event_us : int64 array
            Microseconds UTC, null if missing.
        created_us : int64 array or callable, optional
            Microseconds UTC, null if missing; a callable returns them, and is called only if they decide between rows.
        filter_by_created : bool
            Let a row win only from its created time on.
        threads : int
            Number of threads that sort.
        """
        cut = filter_by_created and created_us is not None
        if cut and callable(created_us):
            created_us = created_us()
        needed = [event_us, *keys, *([created_us] if cut else [])]
        whole = not any(column.null_count for column in needed)
        rows, present, valid_keys = np.arange(len(event_us)), None, list(keys)
        if not whole:
            present = functools.reduce(pc.and_, map(pc.is_valid, needed))
            rows = np.flatnonzero(as_ints(present))
            valid_keys = [column.filter(present) for column in keys]
        numbers, code = KeyNumbers.learn(valid_keys, len(rows))
        event = as_ints(event_us if whole else event_us.filter(present))

        def created() -> Ints:
            values = created_us() if callable(created_us) else created_us
            assert values is not None
            return as_ints((values if whole else values.filter(present)).fill_null(int(LONG_AGO)))

        if cut:
            return cls._cut(numbers, code, event, created(), rows)
        order = by_key_and_time(code, event, None if created_us is None else created, threads)
        return cls(
            numbers, _starts(code, numbers.count), _led(event, order), None, _led(None if whole else rows, order)
        )

    @classmethod
    def _cut(cls, numbers: KeyNumbers, code: Ints, event: Ints, created: Ints, rows: Ints) -> SearchIndex:
        # The winner from a time on is the best of all rows that exist by then, so each position carries the best so far.
        # The best has the highest rank; ranks of later keys are higher, so that no key sees another key's rows.
        by_merit = np.lexsort((created, event, code))
        rank = np.empty(len(rows), dtype=np.int64)
        rank[by_merit] = np.arange(len(rows))
        moment = np.maximum(event, created)
        order = by_key_and_time(code, moment, None)
        best = by_merit[np.maximum.accumulate(rank[order])]
        starts = _starts(code, numbers.count)
        return cls(numbers, starts, _led(moment, order), _led(event, best), _led(rows, best))

    def _search(self, code: Ints, at: Ints, most: int, ttl_us: int | None) -> Ints:
        known = code >= 0
        safe = np.where(known, code, 0) if len(self.start) > 1 else np.zeros(len(code), dtype=np.int64)
        before = self.start[safe]
        end = self.start[safe + 1] if len(self.start) > 1 else before
        place = last_not_after(self.moment, before, end, at, most)
        seen = known & (place > before)
        if ttl_us:
            event = self.moment if self.event is None else self.event
            seen &= event[place] >= at - ttl_us
        return np.where(seen, self.number[place], -1)


def in_blocks(search: Callable[[slice], Ints], rows: int, threads: int) -> Ints:
    """Search blocks of rows that fit the processor's cache, on several threads; returns ``int64 [rows]``."""
    numbers = np.empty(rows, dtype=np.int64)
    blocks = [slice(first, first + _BLOCK) for first in range(0, rows, _BLOCK)]

    def search_block(block: slice) -> None:
        numbers[block] = search(block)

    if threads == 1 or len(blocks) < 2:
        for block in blocks:
            search_block(block)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(search_block, blocks))
    return numbers


def last_not_after(values: npt.NDArray[np.integer], before: Ints, end: Ints, at: Ints, most: int) -> Ints:
    """The last place in each range ``(before, end]`` of ascending values whose value is not above ``at``; ``before`` if none.

    ``most`` is the length of the longest range.
    """
    place = before.copy()
    step = 1 << max(most.bit_length() - 1, 0)
    last = len(values) - 1
    while step and most:
        tried = place + step
        fits = tried <= end
        fits &= values[np.minimum(tried, last)] <= at
        place = np.where(fits, tried, place)
        step >>= 1
    return place


def newest_rows(
    keys: Sequence[pa.Array | pa.ChunkedArray],
    event_us: pa.Array | pa.ChunkedArray,
    created_us: pa.Array | pa.ChunkedArray | None,
    start_us: int | None,
    end_us: int | None,
) -> Ints:
    """Row numbers of the newest row per key with an event time in ``[start_us, end_us]``, ascending.

    Null keys count as one key, as in Feast's own stores.
    """
    event = as_ints(event_us.fill_null(int(LONG_AGO)))
    inside = event != LONG_AGO
    if start_us is not None:
        inside &= event >= start_us
    if end_us is not None:
        inside &= event <= end_us
    rows = np.flatnonzero(inside)
    chosen_keys = [column.take(pa.array(rows)) for column in keys]
    _, code = KeyNumbers.learn(chosen_keys, len(rows))
    created = None if created_us is None else lambda: as_ints(created_us.fill_null(int(LONG_AGO)))[rows]
    order = by_key_and_time(code, event[rows], created)
    ordered = code[order]
    last_of_key = np.append(ordered[1:] != ordered[:-1], len(rows) > 0)[: len(rows)]
    newest: Ints = np.sort(rows[order[last_of_key]])
    return newest


def micros(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Convert times or dates to int64 microseconds UTC; naive times are UTC, fractions are rounded down."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        nanos = column.cast(pa.timestamp("ns")).cast(pa.int64())
        whole = pc.divide(nanos, 1000)
        return pc.subtract(whole, pc.if_else(pc.less(pc.subtract(nanos, pc.multiply(whole, 1000)), 0), 1, 0))
    return column.cast(pa.timestamp("us", kind.tz if pa.types.is_timestamp(kind) else None)).cast(pa.int64())


def _starts(code: Ints, count: int) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(code, minlength=count), dtype=np.int64)])


def _led(values: Ints | None, order: Ints) -> Ints:
    """Values in an order, after the sentinel; without values, the order."""
    led = np.empty(len(order) + 1, dtype=np.int64)
    led[0] = LONG_AGO
    led[1:] = order if values is None else values[order]
    return led


def as_ints(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A column without nulls as an array."""
    array: npt.NDArray[np.int64] = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return array
