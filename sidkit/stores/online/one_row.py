"""Decoding of one packed row to Python values, without arrays: for a single row, arrays cost more than the values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from sidkit.stores.online.layout import LISTS, SCALARS, TEXT_LISTS, TEXTS, Layout

_CODES: dict[str, str] = {"BOOL": "?", "INT32": "i", "INT64": "q", "FLOAT": "f", "DOUBLE": "d"}
"""Kind -> its code in Python's ``struct``. Timestamps are not among them: their values depend on the declared type."""

RowDecoder = Callable[[bytes], list[Any]]
_ReadPart = Callable[[bytes, int, int], Any]


def row_decoder(layout: Layout, wanted: Sequence[tuple[str, str]]) -> RowDecoder | None:
    """A function from a row of a layout to the values of features, None where null.

    The values are those of ``to_pylist`` of the arrays that :mod:`sidkit.stores.online.reader` makes of the row.

    Parameters
    ----------
    layout : Layout
        Layout of the rows.
    wanted : sequence of (str, str)
        Features with their declared kinds.

    Returns
    -------
    callable or None
        None if a feature is not in the layout with this kind, or has a kind that only arrays convert.
    """
    if any(name not in layout.places or layout.columns[layout.places[name]][1] != kind for name, kind in wanted):
        return None
    if not wanted or any(_part(kind) is None and kind not in _CODES for _, kind in wanted):
        return None
    codes = (SCALARS[kind][1:] if kind in SCALARS else "u4" for _, kind in layout.columns)
    head = struct.Struct(f"<H{-(-len(layout.columns) // 8)}s" + "".join(map(_HEAD_CODES.__getitem__, codes)))
    size, places = head.size, [layout.places[name] for name, _ in wanted]
    fields = [place + 2 for place in places]
    nulls_at = [(at, place >> 3, 1 << (place & 7)) for at, place in enumerate(places)]
    booleans = [at for at, (_, kind) in enumerate(wanted) if kind == "BOOL"]
    variable: list[tuple[int, int, int, _ReadPart]] = []
    for at, (_, kind) in enumerate(wanted):
        read = _part(kind)
        if read is not None:
            number = layout.variable.index(places[at])
            before = layout.variable[number - 1] + 2 if number else -1
            variable.append((at, before, fields[at], read))

    def decode(row: bytes) -> list[Any]:
        stored = head.unpack_from(row)
        values = [stored[field] for field in fields]
        for at in booleans:
            values[at] = bool(values[at])
        for at, before, field, read in variable:
            values[at] = read(row, size + stored[before] if before > 0 else size, size + stored[field])
        nulls = stored[1]
        if any(nulls):
            for at, byte, bit in nulls_at:
                if nulls[byte] & bit:
                    values[at] = None
        return values

    return decode


_HEAD_CODES = {"u1": "B", "i4": "i", "i8": "q", "f4": "f", "f8": "d", "u4": "I"}


@lru_cache(maxsize=64)
def _part(kind: str) -> _ReadPart | None:
    """A function that reads a feature of this kind from a part of a row; None for kinds without one."""
    if kind == "STRING":
        return lambda row, start, end: row[start:end].decode()
    if kind in TEXTS:
        return lambda row, start, end: row[start:end]
    if kind in TEXT_LISTS:
        return _texts if kind == "STRING_LIST" else _byte_strings
    code = _CODES.get(kind.removesuffix("_LIST"))
    if kind not in LISTS or code is None:
        return None
    width, of_count = struct.calcsize(f"<{code}"), _structs(code)

    def elements(row: bytes, start: int, end: int) -> list[Any]:
        return list(of_count((end - start) // width).unpack_from(row, start))

    return elements


@lru_cache(maxsize=16)
def _structs(code: str) -> Callable[[int], struct.Struct]:
    return lru_cache(maxsize=1024)(lambda count: struct.Struct(f"<{count}{code}"))


def _byte_strings(row: bytes, start: int, end: int) -> list[bytes]:
    if start == end:
        return []
    [count] = struct.unpack_from("<I", row, start)
    ends = struct.unpack_from(f"<{count}I", row, start + 4)
    first = start + 4 + 4 * count
    return [row[first + one : first + other] for one, other in pairwise((0, *ends))]


def _texts(row: bytes, start: int, end: int) -> list[str]:
    return [text.decode() for text in _byte_strings(row, start, end)]
