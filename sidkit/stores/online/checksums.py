"""The check value of a packed row: what the file gives is what was written for this key of this view, or an error.

A row in the file is ``[bytes of the features] [event_us: u64] [created_us: u64] [check: u32]``. The two times are big-endian
with the sign bit flipped, so that rows compare by time as bytes do; a missing created time is zero. The check is the CRC-32
(zlib's) of the key, the features and the times, xor the CRC-32 of the view's name. A change of up to three bits, or within
four bytes, is always found; of other damage one in 2^32 passes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np

TAIL = 20
"""Bytes behind the features: two times and the check."""
_BIAS = 2**63
_CHECK = struct.Struct("<I")


def sealed(
    view: str, keys: Sequence[bytes], events_us: Sequence[int], created_us: Sequence[int | None], rows: Sequence[bytes]
) -> list[bytes]:
    """Rows as they lie in the file.

    Parameters
    ----------
    view : str
        The view's name in the file.
    keys : sequence of bytes
        Feast's serialized entity keys.
    events_us, created_us : sequences of int
        Microseconds UTC.
    rows : sequence of bytes
        The features, as :func:`sidkit.stores.online.codec.pack` gives them.
    """
    moments = np.empty((len(rows), 2), dtype=np.int64)
    moments[:, 0] = events_us
    moments[:, 1] = [-_BIAS if moment is None else moment for moment in created_us]
    times = (moments.view(np.uint64) ^ np.uint64(_BIAS)).astype(">u8").tobytes()
    timed = [row + times[16 * place : 16 * place + 16] for place, row in enumerate(rows)]
    checks = np.fromiter(map(crc32, timed, map(crc32, keys)), dtype="<u4", count=len(rows))
    told = (checks ^ np.uint32(crc32(view.encode()))).astype("<u4").tobytes()
    return [row + told[4 * place : 4 * place + 4] for place, row in enumerate(timed)]


@lru_cache(maxsize=1024)
def intact(view: str) -> int:
    """What ``crc32(row, crc32(key))`` is of every sound row of a view: a CRC over its own value does not depend on the data."""
    return crc32(_CHECK.pack(crc32(view.encode())))


def all_intact(view: str, keys: Iterable[int], rows: Iterable[bytes]) -> bool:
    """Whether rows are those that were written; ``keys`` are the CRC-32 of their keys."""
    try:
        return set(map(crc32, rows, keys)) <= {intact(view)}
    except TypeError:  # damage made a text or a number of a row
        return False


def time_key(moment_us: int) -> bytes:
    """A time as it lies in a row; times compare as these bytes do."""
    return (moment_us + _BIAS).to_bytes(8, "big")


def event_key(row: bytes) -> bytes:
    """The event time of a row, as :func:`time_key` gives it."""
    return row[-TAIL : 8 - TAIL]


def event_us(row: bytes) -> int:
    """The event time of a row, microseconds UTC."""
    return us_of(event_key(row))


def us_of(key: bytes) -> int:
    """The time, microseconds UTC, that :func:`time_key` gave."""
    return int.from_bytes(key, "big") - _BIAS


def record_check(*parts: object) -> int:
    """The check value of a record that is no row, such as a layout."""
    return crc32("\0".join(map(str, parts)).encode())
