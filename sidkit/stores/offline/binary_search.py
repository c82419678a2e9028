"""The as-of join in memory: a vectorised binary search over all entity rows.

Feature rows are sorted once by (key, time from which they can win). Keys are numbered, so the rows of a key are one range of
the sorted table, and the winner is the last row of that range whose time is not after the entity row's time. Entity rows
need no order and are looked up in blocks that fit the processor's cache: cost is linear in the rows and logarithmic in the
versions per key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.arrays import Ints
from sidkit.stores.offline.key_numbers import KeyNumbers

_BLOCK = 65_536
_LONG_AGO = np.int64(-(2**62))


@dataclass(frozen=True)
class SearchIndex:
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
        event_us: pa.Array | pa.ChunkedArray,
        created_us: pa.Array | pa.ChunkedArray | None = None,
        *,
        filter_by_created: bool = False,
    ) -> SearchIndex:
        """Sort a feature table into an index.

        Parameters
        ----------
        keys : sequence of arrays
            Key columns; empty for a view without entities.
        event_us, created_us : int64 arrays
            Microseconds UTC, null if missing.
        filter_by_created : bool
            Let a row win only from its created time on.
        """
        cut = filter_by_created and created_us is not None
        present = pc.is_valid(event_us)
        for column in [*keys, *([created_us] if cut else [])]:
            present = pc.and_(present, pc.is_valid(column))
        rows = np.flatnonzero(_numpy(present))
        whole = len(rows) == len(event_us)
        valid_keys = list(keys) if whole else [column.filter(present) for column in keys]
        numbers, code = KeyNumbers.learn(valid_keys, len(rows))
        event = _numpy(event_us if whole else event_us.filter(present))
        created = None
        if created_us is not None:
            created = _numpy((created_us if whole else created_us.filter(present)).fill_null(int(_LONG_AGO)))
        if cut and created is not None:
            return cls._cut(numbers, code, event, created, rows)
        order = _order(code, event, created)
        return cls(numbers, _starts(code, numbers.count), _led(event[order]), None, _led(rows[order]))

    @classmethod
    def _cut(cls, numbers: KeyNumbers, code: Ints, event: Ints, created: Ints, rows: Ints) -> SearchIndex:
        # The winner from a time on is the best of all rows that exist by then, so each position carries the best so far.
        # The best has the highest rank; ranks of later keys are higher, so that no key sees another key's rows.
        by_merit = np.lexsort((created, event, code))
        rank = np.empty(len(rows), dtype=np.int64)
        rank[by_merit] = np.arange(len(rows))
        moment = np.maximum(event, created)
        order = _order(code, moment, None)
        best = by_merit[np.maximum.accumulate(rank[order])]
        starts = _starts(code, numbers.count)
        return cls(numbers, starts, _led(moment[order]), _led(event[best]), _led(rows[best]))

    def find(self, keys: Sequence[pa.Array | pa.ChunkedArray], at_us: pa.Array, ttl_us: int | None = None) -> Ints:
        """Look up the feature row of each entity row.

        Parameters
        ----------
        keys : sequence of arrays
            Key columns of the entity rows, in the order of :meth:`build`.
        at_us : int64 array
            Microseconds UTC, null if missing.
        ttl_us : int, optional
            Time to live of a feature row, microseconds, inclusive.

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
        at = _numpy(at_us.fill_null(int(_LONG_AGO)))
        numbers = np.empty(len(at), dtype=np.int64)
        most = int(np.diff(self.start).max(initial=0))
        for first in range(0, len(at), _BLOCK):
            block = slice(first, first + _BLOCK)
            numbers[block] = self._search(code[block], at[block], most, ttl_us)
        return numbers

    def _search(self, code: Ints, at: Ints, most: int, ttl_us: int | None) -> Ints:
        known = code >= 0
        safe = np.where(known, code, 0) if len(self.start) > 1 else np.zeros(len(code), dtype=np.int64)
        before = self.start[safe]
        end = self.start[safe + 1] if len(self.start) > 1 else before
        place = before.copy()
        step = 1 << max(most.bit_length() - 1, 0)
        last = len(self.moment) - 1
        while step and most:
            tried = place + step
            fits = tried <= end
            fits &= self.moment[np.minimum(tried, last)] <= at
            place = np.where(fits, tried, place)
            step >>= 1
        seen = known & (place > before)
        if ttl_us:
            event = self.moment if self.event is None else self.event
            seen &= event[place] >= at - ttl_us
        return np.where(seen, self.number[place], -1)


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
    event = _numpy(event_us.fill_null(int(_LONG_AGO)))
    inside = event != _LONG_AGO
    if start_us is not None:
        inside &= event >= start_us
    if end_us is not None:
        inside &= event <= end_us
    rows = np.flatnonzero(inside)
    chosen_keys = [column.take(pa.array(rows)) for column in keys]
    _, code = KeyNumbers.learn(chosen_keys, len(rows))
    created = _numpy(created_us.fill_null(int(_LONG_AGO)))[rows] if created_us is not None else None
    order = _order(code, event[rows], created)
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


def _order(code: Ints, moment: Ints, created: Ints | None) -> Ints:
    """Row numbers sorted by key, time, created time and file order."""
    if len(code) == 0:
        return np.zeros(0, dtype=np.int64)
    first, span = moment.min(), int(moment.max()) - int(moment.min()) + 1
    if (int(code.max()) + 1) * span < 2**63:
        joined = code * span + (moment - first)
        order: Ints = np.argsort(joined)
        sorted_ = joined[order]
        if not (sorted_[1:] == sorted_[:-1]).any():
            return order
    return np.lexsort((moment, code) if created is None else (created, moment, code))


def _starts(code: Ints, count: int) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(code, minlength=count), dtype=np.int64)])


def _led(values: Ints) -> Ints:
    return np.concatenate([np.full(1, _LONG_AGO), values])


def _numpy(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    array: npt.NDArray[np.int64] = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return array
