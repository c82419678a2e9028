"""Sorting of feature rows by key and time, on several threads.

A table whose rows are in order of time, as logs and sidkit's tables are, only has to be sorted by key, with a stable radix
sort of the key's number. Other tables are sorted by key and time at once, each thread a range of them; NumPy releases the
GIL while it sorts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sidkit.core.arrays import Ints

_FEW_ROWS = 65_536
"""Fewer rows are sorted faster by one thread than they are split."""
_SAMPLE = 1024


def by_key_and_time(code: Ints, moment: Ints, created: Callable[[], Ints] | None, threads: int = 1) -> Ints:
    """Compute the row numbers sorted by key, time, created time and file order.

    Parameters
    ----------
    code : int64 [rows]
        Numbers of the keys, from 0 on.
    moment : int64 [rows]
        Times in microseconds UTC.
    created : callable, optional
        Returns the created times, ``int64 [rows]``; called only if two rows have the same key and time.
    threads : int
        Number of ranges that are sorted in parallel.

    Returns
    -------
    numpy.ndarray
        ``int64 [rows]``.
    """
    if len(code) == 0:
        return np.zeros(0, dtype=np.int64)
    if (moment[1:] >= moment[:-1]).all():
        if created is None or not _tied_in_time(code, moment):
            return by_key(code)
    else:
        first, span = moment.min(), int(moment.max()) - int(moment.min()) + 1
        if (int(code.max()) + 1) * span < 2**63:
            joined = code * span + (moment - first)
            order = _argsort(joined, threads)
            sorted_ = joined[order]
            if not (sorted_[1:] == sorted_[:-1]).any():
                return order
    return np.lexsort((moment, code) if created is None else (created(), moment, code))


def _tied_in_time(code: Ints, moment: Ints) -> bool:
    """Whether two rows have the same key and time, in rows in order of time."""
    equal = moment[1:] == moment[:-1]
    rows = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = rows[by_key(code[rows])]
    return bool(((code[rows[1:]] == code[rows[:-1]]) & (moment[rows[1:]] == moment[rows[:-1]])).any())


def by_key(code: Ints) -> Ints:
    """Compute the row numbers ``int64 [rows]`` in stable order of the keys' numbers ``int64 [rows]``, from 0 on.

    NumPy sorts 16-bit integers by radix, so the lowest 16 bits are sorted first.
    """
    order = np.argsort(code.astype(np.uint16), kind="stable")
    rest = code >> 16
    while rest.any():
        order = order[np.argsort(rest[order].astype(np.uint16), kind="stable")]
        rest >>= 16
    return order


def _argsort(values: Ints, threads: int) -> Ints:
    """Row numbers sorted by value; equal values in any order."""
    if threads == 1 or len(values) < _FEW_ROWS:
        return np.argsort(values)
    sample = np.sort(values[:: max(len(values) // _SAMPLE, 1)])
    bounds = np.unique(sample[[len(sample) * part // threads for part in range(1, threads)]])

    def part(number: int) -> Ints:
        inside = np.ones(len(values), dtype=bool)
        if number:
            inside &= values >= bounds[number - 1]
        if number < len(bounds):
            inside &= values < bounds[number]
        rows = np.flatnonzero(inside)
        return rows[np.argsort(values[rows])]

    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(part, range(len(bounds) + 1))))
