"""Checksums of packed rows: a row is returned only if it is what was written for this key and view.

A row in the file is ``[bytes of the features] [event_us: u64] [created_us: u64] [check: u32]``. The two times are big-endian
with the sign bit flipped, so that rows compare by time like bytes; a missing created time is zero. The check is the CRC-32
(zlib's) of the key, the features and the times, xor the CRC-32 of the view's name.

Rows are verified many at a time, by one CRC over the keys and rows one after the other. A CRC over an intact row ends in the
same value for all rows of a view; four bytes between two rows (:func:`separator`) set it back to zero. A CRC is linear and its
steps are invertible, so damage of one row changes the last value if and only if it changes the row's own. In one row, a change
of up to three bits, or within four bytes, is always detected; other damage is missed with a probability of 2^-32, as is damage
of several rows at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from sidkit.stores.online.layout import Layout, layout_from_json

TAIL = 20
"""Number of bytes after the features: two times and the check."""
_BIAS = 2**63
_CHECK = struct.Struct("<I")
_REGISTER, _POLYNOMIAL = 0xFFFFFFFF, 0xEDB88320
_ROWS_AT_ONCE = 512


def sealed(
    view: str, keys: Sequence[bytes], events_us: Sequence[int], created_us: Sequence[int | None], rows: Sequence[bytes]
) -> list[bytes]:
    """Append times and checksums to rows, as stored in the file.

    Parameters
    ----------
    view : str
        Name of the view in the file.
    keys : sequence of bytes
        Entity keys serialized by Feast.
    events_us, created_us : sequences of int
        Microseconds UTC.
    rows : sequence of bytes
        Packed features from :func:`sidkit.stores.online.codec.pack`.
    """
    moments = np.empty((len(rows), 2), dtype=np.int64)
    moments[:, 0] = events_us
    moments[:, 1] = [-_BIAS if moment is None else moment for moment in created_us]
    times = (moments.view(np.uint64) ^ np.uint64(_BIAS)).astype(">u8").tobytes()
    timed = [row + times[16 * place : 16 * place + 16] for place, row in enumerate(rows)]
    checks = np.fromiter(map(crc32, timed, map(crc32, keys)), dtype="<u4", count=len(rows))
    checksums = (checks ^ np.uint32(crc32(view.encode()))).astype("<u4").tobytes()
    return [row + checksums[4 * place : 4 * place + 4] for place, row in enumerate(timed)]


@lru_cache(maxsize=1024)
def intact(view: str) -> int:
    """The value of ``crc32(key + row)`` for every intact row of a view: a CRC over its own value is constant."""
    return crc32(_CHECK.pack(crc32(view.encode())))


@lru_cache(maxsize=1024)
def separator(view: str) -> bytes:
    """The four bytes after which a CRC that was :func:`intact` is zero, its value before the first byte."""
    # The CRC of four bytes depends on their xor with the register, which is the complement of the CRC. So the bytes are the
    # register xor those that take a register of zero to its first value, all ones; found by 32 steps backwards.
    word = _REGISTER
    for _ in range(32):
        word = ((word ^ _POLYNOMIAL) << 1 | 1) if word >> 31 else word << 1
    return _CHECK.pack(word ^ intact(view) ^ _REGISTER)


def all_intact(view: str, keys: Sequence[bytes], rows: Sequence[bytes]) -> bool:
    """Whether all rows match their checksums; ``keys`` are their keys."""
    between, expected = separator(view), intact(view)
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[at : at + _ROWS_AT_ONCE]
        pieces = [between] * (3 * len(part) - 1)
        pieces[0::3], pieces[1::3] = keys[at : at + _ROWS_AT_ONCE], part
        try:
            if crc32(b"".join(pieces)) != expected:
                return False
        except TypeError:  # damage turned a row into a text or a number
            return False
    return True


def time_key(moment_us: int) -> bytes:
    """Encode a time as in a row, so that times compare like bytes."""
    return (moment_us + _BIAS).to_bytes(8, "big")


def event_key(row: bytes) -> bytes:
    """The encoded event time of a row, see :func:`time_key`."""
    return row[-TAIL : 8 - TAIL]


def event_us(row: bytes) -> int:
    """The event time of a row, microseconds UTC."""
    return us_of(event_key(row))


def events_us(rows: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The event times of rows, microseconds UTC, ``int64 [rows]``."""
    times = np.frombuffer(b"".join(map(event_key, rows)), ">u8").astype(np.uint64)
    return (times ^ np.uint64(_BIAS)).view(np.int64)


def us_of(key: bytes) -> int:
    """Decode a time from :func:`time_key` to microseconds UTC."""
    return int.from_bytes(key, "big") - _BIAS


def since(rows: list[bytes | None], since_us: int | None) -> list[bytes | None]:
    """Replace rows older than a time by None; None: no row is too old."""
    if since_us is None:
        return rows
    earliest = time_key(since_us)
    return [row if row is not None and event_key(row) >= earliest else None for row in rows]


@lru_cache(maxsize=1024)
def checked_layout(view: str, number: int, columns: str, checked: int) -> Layout | None:
    """Parse a layout; None if it does not match its checksum."""
    return layout_from_json(columns) if record_check(view, number, columns) == checked else None


def record_check(*parts: object) -> int:
    """Checksum of a record other than a row, such as a layout."""
    return crc32("\0".join(map(str, parts)).encode())
