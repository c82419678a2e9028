"""Vectorised conversion between columns and packed rows, in the format of :mod:`sidkit.stores.online.layout`."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.checksums import TAIL
from sidkit.stores.online.layout import LISTS, SCALARS, TEXT_LISTS, Cells, Layout

_NUMBER = struct.Struct("<H")
_SHORT = 64
"""Mean bytes of a value up to which gathering all bytes at once is faster than slicing each row."""


def layout_number(row: bytes) -> int:
    """Read the layout number of a row."""
    return int(_NUMBER.unpack_from(row)[0])


def pack(layout: Layout, number: int, cells: Sequence[Cells]) -> list[bytes]:
    """Pack columns into rows of bytes.

    Parameters
    ----------
    layout : Layout
        Layout of the rows.
    number : int
        Number of the layout in its file.
    cells : sequence of Cells
        One per feature, in the layout's order.

    Returns
    -------
    list of bytes
        One per row, without times and checksum.
    """
    count = len(cells[0]) if cells else 0
    head = np.zeros(count, dtype=layout.dtype)
    head["layout"] = number
    if any(column.null is not None for column in cells):
        nulls = np.stack([column.nulls() for column in cells], axis=1)
        head["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
    ends = np.zeros(count, dtype=np.int64)
    payloads = []
    for place, column in enumerate(cells):
        if column.kind in SCALARS:
            head[str(place)] = column.flat
        else:
            payload, offsets = _payload(column)
            ends += np.diff(offsets)
            head[str(place)] = ends
            payloads.append((payload, offsets.tolist()))
    fixed, size = head.tobytes(), layout.dtype.itemsize
    starts = range(0, count * size, size)
    if not payloads:
        return [fixed[at : at + size] for at in starts]
    if len(payloads) == 1:
        [(payload, places)] = payloads
        return [
            fixed[at : at + size] + payload[start:end]
            for at, start, end in zip(starts, places, places[1:], strict=False)
        ]
    slices = [[fixed[at : at + size] for at in starts]]
    for payload, places in payloads:
        slices.append([payload[start:end] for start, end in itertools.pairwise(places)])
    return list(map(b"".join, zip(*slices, strict=True)))


def _payload(column: Cells) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Concatenated bytes of a variable-length feature, and the offset of each row."""
    assert column.offsets is not None
    if column.kind in LISTS:
        elements = np.ascontiguousarray(column.flat, dtype=LISTS[column.kind])
        return elements.tobytes(), column.offsets * elements.itemsize
    texts = bytes(column.flat)
    if column.kind not in TEXT_LISTS:
        return texts, column.offsets
    assert column.inner is not None
    counts = np.diff(column.offsets)
    ends = column.inner[1:] - np.repeat(column.inner[column.offsets[:-1]], counts)
    listed, places, spans = ends.astype("<u4").tobytes(), (column.offsets * 4).tolist(), column.inner[column.offsets]
    numbers, bounds = counts.astype("<u4").tobytes(), spans.tolist()
    is_null = column.nulls().tolist()
    rows = [
        b""
        if is_null[row]
        else numbers[4 * row : 4 * row + 4]
        + listed[places[row] : places[row + 1]]
        + texts[bounds[row] : bounds[row + 1]]
        for row in range(len(column))
    ]
    return b"".join(rows), _starts([len(row) for row in rows])


def unpack(
    layout: Layout, rows: Sequence[bytes], wanted: Sequence[str] | None = None, number: int | None = None
) -> dict[str, Cells]:
    """Unpack features of rows with the same layout.

    Parameters
    ----------
    layout : Layout
        Layout of all rows.
    rows : sequence of bytes
        Rows as stored, from :func:`pack` and :func:`sidkit.stores.online.checksums.sealed`.
    wanted : sequence of str, optional
        Features to unpack; default: all. Features missing from the layout are ignored.
    number : int, optional
        Expected layout number of all rows.

    Raises
    ------
    OnlineStoreError
        When a row has another layout.
    """
    places = [layout.places[name] for name in wanted if name in layout.places] if wanted is not None else None
    head, joined, origins = _heads(layout, rows)
    if number is not None and (head["layout"] != number).any():
        raise OnlineStoreError(f"expected layout {number} in all rows, got another one")
    chosen = range(len(layout.columns)) if places is None else places
    nulls = head["nulls"] if layout.columns and head["nulls"].any() else None
    null: dict[int, npt.NDArray[np.bool_] | None] = dict.fromkeys(chosen)
    for place in chosen if nulls is not None else ():
        assert nulls is not None
        bits = nulls[:, place >> 3] & np.uint8(1 << (place & 7))
        null[place] = bits.astype(np.bool_) if bits.any() else None
    variable = _variable(layout, [place for place in chosen if place in layout.variable], head, rows, joined, origins)
    features = {}
    for place in chosen:
        name, kind = layout.columns[place]
        if kind in SCALARS:
            features[name] = Cells(kind, np.ascontiguousarray(head[str(place)]), null=null[place])
        else:
            features[name] = _cells(kind, *variable[place], null[place])
    return features


def _heads(layout: Layout, rows: Sequence[bytes]) -> tuple[npt.NDArray[Any], bytes, npt.NDArray[np.int64] | None]:
    """The heads and fixed parts of rows, all rows joined, and where each starts; None if they have equal length."""
    size, count = layout.dtype.itemsize, len(rows)
    joined = b"".join(rows)
    if len(set(map(len, rows))) == 1:
        # Rows of equal length need no offsets: they are one array with a gap after each head.
        return np.ndarray((count,), layout.dtype, joined, 0, (len(rows[0]),)), joined, None
    origins = _starts(np.fromiter(map(len, rows), np.int64, count))[:-1]
    return _windows(joined, size)[origins].view(layout.dtype), joined, origins


def _windows(whole: bytes | npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.void]:
    """The ``size`` bytes from every position of ``whole``, without a copy."""
    return np.ndarray((max(len(whole) - size + 1, 0),), f"V{size}", whole, 0, (1,))


def unpack_numbers(
    layout: Layout, rows: Sequence[bytes], wanted: Sequence[str], number: int
) -> npt.NDArray[np.float64] | None:
    """Unpack numeric features of rows at once, ``float64 [rows, wanted]``, NaN where null.

    None if a feature is no number or missing from the layout, or the rows have other layouts or variable parts: then
    :func:`unpack` reads them.

    Parameters
    ----------
    layout : Layout
        Layout of the rows, with this number.
    rows : sequence of bytes
        At least one row as stored.
    wanted : sequence of str
        Features.
    number : int
        Number of the layout.
    """
    size = layout.dtype.itemsize + TAIL
    if layout.variable or set(map(len, rows)) != {size} or not layout.places.keys() >= set(wanted):
        return None
    head, _, _ = _heads(layout, rows)
    if (head["layout"] != number).any():
        return None
    places = [layout.places[name] for name in wanted]
    if any(layout.columns[place][1] == "UNIX_TIMESTAMP" for place in places):
        return None
    numbers = np.empty((len(rows), len(places)), dtype=np.float64)
    for at, place in enumerate(places):
        numbers[:, at] = head[str(place)]
    if head["nulls"].any():
        null = np.unpackbits(head["nulls"], axis=1, bitorder="little", count=len(layout.columns))
        numbers[null[:, places].astype(np.bool_)] = np.nan
    return numbers


def _variable(
    layout: Layout,
    places: Sequence[int],
    head: npt.NDArray[Any],
    rows: Sequence[bytes],
    joined: bytes,
    origins: npt.NDArray[np.int64] | None,
) -> dict[int, tuple[bytes, npt.NDArray[np.int64]]]:
    """The bytes of variable-length features of all rows, and the offset of each row, by index of the feature.

    ``joined`` is the concatenation of all rows, which start at ``origins``, or have equal length if that is None.
    """
    if not places:
        return {}
    size, count = layout.dtype.itemsize, len(rows)
    if origins is None and len(layout.variable) == 1:
        # Rows of equal length have equally long parts.
        length = len(rows[0]) - size - TAIL
        if (head[str(places[0])] == length).all():
            payload = np.ndarray((count,), f"V{length}", joined, size, (len(rows[0]),)).tobytes()
            return {places[0]: (payload, np.arange(count + 1) * length)}
    before = dict(zip(layout.variable, (None, *layout.variable), strict=False))
    ends = {place: head[str(place)] for each in places for place in (each, before[each]) if place is not None}
    starts_of = [0 if (previous := before[place]) is None else ends[previous] for place in places]
    starts, lengths = np.zeros((2, len(places), count), dtype=np.int64)
    for at, (place, start) in enumerate(zip(places, starts_of, strict=True)):
        starts[at] = start
        lengths[at] = ends[place]
    lengths -= starts
    offsets = np.zeros((len(places), count + 1), dtype=np.int64)
    lengths.cumsum(axis=1, out=offsets[:, 1:])
    starts += size
    payloads, short = {}, []
    for at, (place, whole) in enumerate(zip(places, offsets[:, -1].tolist(), strict=True)):
        if origins is None and (starts[at] == starts[at, 0]).all() and (lengths[at] == lengths[at, 0]).all():
            table = np.frombuffer(joined, np.uint8).reshape(count, -1)
            payload = table[:, starts[at, 0] : starts[at, 0] + lengths[at, 0]].tobytes()
        elif len(layout.variable) == 1:
            payload = b"".join([row[size:-TAIL] for row in rows])
        elif whole <= _SHORT * count:
            short.append(at)
            continue
        else:
            bounds = zip(rows, starts[at].tolist(), (starts[at] + lengths[at]).tolist(), strict=True)
            payload = b"".join([row[start:end] for row, start, end in bounds])
        payloads[place] = payload, offsets[at]
    if short:
        # Those of all features at once: a call costs more than its bytes.
        if len(short) < len(places):
            starts, lengths = starts[short], lengths[short]
        starts += np.arange(count, dtype=np.int64) * len(rows[0]) if origins is None else origins
        pieces, end = _pieces(np.frombuffer(joined, np.uint8), starts.ravel(), lengths.ravel()).tobytes(), 0
        for at in short:
            start, end = end, end + int(offsets[at, -1])
            payloads[places[at]] = pieces[start:end], offsets[at]
    return payloads


def _cells(kind: str, payload: bytes, offsets: npt.NDArray[np.int64], null: npt.NDArray[np.bool_] | None) -> Cells:
    if kind in LISTS:
        elements = np.frombuffer(payload, LISTS[kind])
        return Cells(kind, elements, offsets // elements.itemsize, null=null)
    if kind in TEXT_LISTS:
        return _text_lists(kind, payload, offsets, null)
    return Cells(kind, payload, offsets, null=null)


def _text_lists(kind: str, payload: bytes, offsets: npt.NDArray[np.int64], null: npt.NDArray[np.bool_] | None) -> Cells:
    whole, starts, ends = np.frombuffer(payload, np.uint8), offsets[:-1], offsets[1:]
    filled = None if null is None and (starts < ends).all() else np.flatnonzero(starts < ends)
    if filled is not None:
        starts, ends = starts[filled], ends[filled]
    words = _windows(payload, 4)
    counts = counted = words[starts].view("<u4").astype(np.int64)
    if filled is not None:
        counted = np.zeros(len(offsets) - 1, dtype=np.int64)
        counted[filled] = counts
    middles = starts + 4 + 4 * counts
    rows, filled_rows = _starts(counted), _starts(counts)
    within = np.repeat(starts + 4 - 4 * filled_rows[:-1], counts)
    listed = words[within + np.arange(0, 4 * len(within), 4)].view("<u4")
    texts = _pieces(whole, middles, ends - middles)
    inner = np.zeros(len(within) + 1, dtype=np.int64)
    inner[1:] = np.repeat(_starts(ends - middles)[:-1], counts) + listed
    return Cells(kind, texts.tobytes(), rows, inner, null=null)


def _pieces(
    whole: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """The bytes of consecutive pieces of an array, one after the other."""
    pieces: npt.NDArray[np.uint8] = whole[np.arange(lengths.sum()) + np.repeat(starts - _starts(lengths)[:-1], lengths)]
    return pieces


def _starts(lengths: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Offsets of consecutive pieces, ``int64 [rows + 1]``."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.asarray(lengths, dtype=np.int64).cumsum(out=starts[1:])
    return starts
