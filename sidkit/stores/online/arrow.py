"""Conversion between Arrow columns and the cells of packed rows, without a Python object per value."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.stores.online.layout import LISTS, SCALARS, TEXT_LISTS, TEXTS, Cells

_TYPES: dict[str, pa.DataType] = {
    "BOOL": pa.bool_(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "UNIX_TIMESTAMP": pa.int64(),
    "STRING": pa.string(),
    "BYTES": pa.binary(),
}
_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
# Types that convert to a kind with the same values as Feast's own conversion.
_FROM: dict[str, tuple[pa.DataType, ...]] = {
    "BOOL": (pa.bool_(),),
    "INT32": _INTEGERS,
    "INT64": (*_INTEGERS, pa.uint64()),
    "FLOAT": (pa.float32(), pa.float64()),
    "DOUBLE": (pa.float32(), pa.float64()),
    "STRING": (pa.string(), pa.large_string(), pa.string_view()),
    "BYTES": (pa.binary(), pa.large_binary(), pa.binary_view()),
}


def cells_of(column: pa.Array, kind: str) -> Cells | None:
    """Convert a column to cells; None if it must be converted value by value, as Feast does.

    Raises
    ------
    pyarrow.ArrowInvalid
        When an integer does not fit its kind.
    """
    element = kind.removesuffix("_LIST")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if element != kind:
        return _lists(column, kind, element)
    if column.type not in _FROM.get(kind, ()):
        return None
    return _scalars(column, kind) if kind in SCALARS else _texts(column, kind)


def _lists(column: pa.Array, kind: str, element: str) -> Cells | None:
    listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (listed or pa.types.is_fixed_size_list(column.type)):
        return None
    elements = column.flatten()  # omits values hidden under nulls
    if elements.type not in _FROM.get(element, ()) or elements.null_count:
        return None
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    null = _null(column)
    if kind in TEXT_LISTS:
        texts = _texts(elements, element)
        return Cells(kind, texts.flat, offsets, texts.offsets, null)
    return Cells(kind, _scalars(elements, element, nan_is_null=False).flat, offsets, null=null)


def _scalars(column: pa.Array, kind: str, *, nan_is_null: bool = True) -> Cells:
    if column.type != _TYPES[kind]:
        column = column.cast(_TYPES[kind], safe=pa.types.is_integer(column.type))
    null = _null(column)
    if null is not None:
        column = pc.fill_null(column, False if kind == "BOOL" else 0)
    values = column.to_numpy(zero_copy_only=False).astype(SCALARS[kind], copy=False)
    if nan_is_null and kind in {"FLOAT", "DOUBLE"} and np.isnan(values).any():
        # Feast's own conversion writes NaN as a missing value.
        nan = np.isnan(values)
        null = nan if null is None else null | nan
        values = np.where(nan, values.dtype.type(0), values)
    return Cells(kind, values, null=null)


def _texts(column: pa.Array, kind: str) -> Cells:
    null = _null(column)
    large = pa.large_binary() if kind == "BYTES" else pa.large_string()
    column = column.cast(large)
    if null is not None:
        column = pc.fill_null(column, b"" if kind == "BYTES" else "")
    _, places, data = column.buffers()
    offsets = np.frombuffer(places, np.int64)[column.offset : column.offset + len(column) + 1]
    flat = data.to_pybytes()[offsets[0] : offsets[-1]] if data is not None and len(column) else b""
    return Cells(kind, flat, offsets - offsets[0] if len(column) else np.zeros(1, np.int64), null=null)


def _null(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    return column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of a kind other than ``PROTO``; timestamps are seconds as ``int64``."""
    element = _TYPES[kind.removesuffix("_LIST")]
    return pa.list_(element) if kind in LISTS or kind in TEXT_LISTS else element


def to_arrow(cells: Cells) -> pa.Array:
    """Convert cells to an Arrow array of type :func:`arrow_type` that shares their memory."""
    count = len(cells)
    kind, valid, nulls = cells.kind, *_validity(cells)
    if kind in SCALARS:
        return pa.Array.from_buffers(_TYPES[kind], count, [valid, _values(cells.flat, kind)], nulls)
    assert cells.offsets is not None
    rows = pa.py_buffer(cells.offsets.astype(np.int32))
    if kind in TEXTS:
        return pa.Array.from_buffers(_TYPES[kind], count, [valid, rows, pa.py_buffer(cells.flat)], nulls)
    element = kind.removesuffix("_LIST")
    if kind in LISTS:
        child = pa.Array.from_buffers(_TYPES[element], len(cells.flat), [None, _values(cells.flat, element)], 0)
    else:
        assert cells.inner is not None
        places = pa.py_buffer(cells.inner.astype(np.int32))
        child = pa.Array.from_buffers(
            _TYPES[element], len(cells.inner) - 1, [None, places, pa.py_buffer(cells.flat)], 0
        )
    return pa.Array.from_buffers(pa.list_(_TYPES[element]), count, [valid, rows], nulls, children=[child])


def _values(flat: Any, kind: str) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flat.astype(np.bool_), bitorder="little") if kind == "BOOL" else flat)


def _validity(cells: Cells) -> tuple[pa.Buffer | None, int]:
    if cells.null is None:
        return None, 0
    return pa.py_buffer(np.packbits(~cells.null, bitorder="little")), int(cells.null.sum())


def entity_keys(columns: Mapping[str, pa.Array], value_types: Mapping[str, str]) -> list[bytes] | None:
    """Serialize entity keys like Feast (version 3): sorted names, then type, length and bytes of each value.

    Parameters
    ----------
    columns : mapping
        Join key -> column.
    value_types : mapping
        Join key -> name of its value type.

    Returns
    -------
    list of bytes or None
        None if a key is missing or only Feast can convert it.
    """
    parts: list[list[bytes]] = []
    for name in sorted(columns):
        kind = value_types[name]
        column = cells_of(columns[name], kind) if kind in KEY_TYPES else None
        if column is None or column.null is not None:
            return None
        parts.append(_key_values(column))
    prefix = key_prefix(columns)
    if len(parts) == 1:
        return [prefix + value for value in parts[0]]
    return [prefix + b"".join(values) for values in zip(*parts, strict=True)]


def text_keys(name: str, values: Sequence[Any]) -> list[bytes] | None:
    """Like :func:`entity_keys` for one text join key and plain strings; None if a value is not a string."""
    short = _short_prefixes(name)
    try:
        texts = list(map(str.encode, values))
    except TypeError:
        return None
    try:
        return [short[len(text)] + text for text in texts]
    except KeyError:
        return [_text_prefix(name, len(text)) + text for text in texts]


def integer_keys(name: str, kind: str, values: Sequence[Any]) -> list[bytes] | None:
    """Like :func:`entity_keys` for one integer join key and plain integers; None for other types and values."""
    width = {"INT32": 4, "INT64": 8}.get(kind)
    if width is None or set(map(type, values)) != {int}:
        return None
    prefix = key_prefix([name]) + KEY_TYPES[kind].to_bytes(4, "little") + width.to_bytes(4, "little")
    try:
        return [prefix + value.to_bytes(width, "little", signed=True) for value in values]
    except OverflowError:
        return None


def _text_prefix(name: str, length: int) -> bytes:
    """What precedes a text of so many bytes within a key."""
    return key_prefix([name]) + _text_head(length)


@lru_cache(maxsize=256)
def _short_prefixes(name: str) -> dict[int, bytes]:
    """The prefixes of texts of less than 256 bytes, by length; a plain dict, which is faster than one that adds to itself."""
    return {length: _text_prefix(name, length) for length in range(256)}


def text_value(text: str) -> bytes:
    """One text within a serialized key, after :func:`key_prefix` of all names; values are in the order of the sorted names."""
    encoded = text.encode()
    return _text_head(len(encoded)) + encoded


def _text_head(length: int) -> bytes:
    return KEY_TYPES["STRING"].to_bytes(4, "little") + length.to_bytes(4, "little")


KEY_TYPES: dict[str, int] = {"BYTES": 1, "STRING": 2, "INT32": 3, "INT64": 4}
"""Supported value types of keys -> their numbers in Feast's protobuf."""


def key_prefix(names: Sequence[str] | Mapping[str, Any]) -> bytes:
    """The common prefix of all serialized keys with these join keys."""
    parts = [len(names).to_bytes(4, "little")]
    for name in sorted(names):
        text = name.encode()
        parts += [(2).to_bytes(4, "little"), len(text).to_bytes(4, "little"), text]
    return b"".join(parts)


def _key_values(column: Cells) -> list[bytes]:
    kind = KEY_TYPES[column.kind].to_bytes(4, "little")
    if column.offsets is None:
        assert isinstance(column.flat, np.ndarray)
        width, data = column.flat.itemsize, column.flat.tobytes()
        head = kind + width.to_bytes(4, "little")
        return [head + data[at : at + width] for at in range(0, len(data), width)]
    texts, places = bytes(column.flat), column.offsets.tolist()
    return [kind + (end - start).to_bytes(4, "little") + texts[start:end] for start, end in itertools.pairwise(places)]
