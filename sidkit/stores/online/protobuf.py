"""Conversion between Feast's protobuf values and cells of packed rows, by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.arrow import key_prefix
from sidkit.stores.online.layout import LISTS, PROTO, SCALARS, TEXTS, Cells, Layout, layout_of

_LIST_MESSAGES = {
    f"{kind}_LIST": getattr(Value_pb2, message)
    for kind, message in {
        "BOOL": "BoolList",
        "INT32": "Int32List",
        "INT64": "Int64List",
        "FLOAT": "FloatList",
        "DOUBLE": "DoubleList",
        "UNIX_TIMESTAMP": "Int64List",
        "STRING": "StringList",
        "BYTES": "BytesList",
    }.items()
}
_STRING_FIELD = 0x12  # tag and wire type of Value.string_val
_made: Callable[..., Value] = Value
_SERIALIZATION = 3
_LISTS_AT_ONCE = 256
_SHORT = 126  # shorter texts have one-byte lengths, in their own message and in the enclosing one


def view_layout(view: Any) -> Layout:
    """The layout of the rows of a feature view."""
    return layout_of([(feature.name, feature.dtype.to_value_type().name) for feature in view.features])


def cells_of_values(values: Sequence[Value], kind: str) -> Cells:
    """Convert a column of Feast's values to cells.

    Parameters
    ----------
    values : sequence of feast.types.Value
        One per row.
    kind : str
        Requested kind.

    Returns
    -------
    Cells
        Cells of that kind, or ``PROTO`` if a value has another type than declared.
    """
    if kind == PROTO:
        return _as_proto(values)
    if kind in SCALARS or kind in TEXTS:
        plain = list(map(attrgetter(_field(kind)), values))
        same, null = _nulls(values, plain, kind)
        if not same:
            return _as_proto(values)
        return (
            Cells(kind, np.array(plain, SCALARS[kind]), null=null)
            if kind in SCALARS
            else Cells(kind, *_joined(plain), null=null)
        )
    listed = attrgetter(f"{_field(kind)}.val")
    lengths: list[int] = []
    elements: list[Any] = []
    # A few hundred lists at a time, below the threshold of the garbage collector.
    for at in range(0, len(values), _LISTS_AT_ONCE):
        part = [values[:] for values in map(listed, values[at : at + _LISTS_AT_ONCE])]
        lengths += map(len, part)
        elements += chain.from_iterable(part)
    same, null = _nulls(values, lengths, kind)
    if not same:
        return _as_proto(values)
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if kind in LISTS:
        return Cells(kind, np.array(elements, LISTS[kind]), offsets, null=null)
    flat, inner = _joined(elements)
    return Cells(kind, flat, offsets, inner, null)


def _field(kind: str) -> str:
    return f"{kind.lower()}_val"


def _nulls(values: Sequence[Value], plain: Sequence[Any], kind: str) -> tuple[bool, npt.NDArray[np.bool_] | None]:
    """Whether all values are of a kind, and which are missing.

    A value other than its type's default was set, so only defaults need a check.
    """
    if all(plain):
        return True, None
    null = np.zeros(len(plain), dtype=np.bool_)
    for row, value in enumerate(plain):
        if not value:
            field = values[row].WhichOneof("val")
            if field is not None and field != _field(kind):
                return False, None
            null[row] = field is None
    return True, null if null.any() else None


def _joined(texts: Sequence[str] | Sequence[bytes]) -> tuple[bytes, npt.NDArray[np.int64]]:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum(list(map(len, encoded)), out=offsets[1:])
    return b"".join(encoded), offsets


def _as_proto(values: Sequence[Value]) -> Cells:
    flat, offsets = _joined([value.SerializeToString(deterministic=True) for value in values])
    null = np.array([value.WhichOneof("val") is None for value in values], dtype=np.bool_)
    return Cells(PROTO, flat, offsets, null=null if null.any() else None)


def values_of_cells(cells: Cells) -> list[Value]:
    """Convert cells to Feast's values; nulls become empty values."""
    kind = cells.kind
    field = _field(kind)
    if cells.offsets is None:
        assert isinstance(cells.flat, np.ndarray)
        plain: list[Any] = (cells.flat.astype(np.bool_) if kind == "BOOL" else cells.flat).tolist()
        values = [_made(**{field: value}) for value in plain]
    else:
        places = cells.offsets.tolist()
        bounds = list(pairwise(places))
        if kind in TEXTS:
            texts = bytes(cells.flat)
            encoded = [texts[start:end] for start, end in bounds]
            values = [_made(**{field: text.decode() if kind == "STRING" else text}) for text in encoded]
        elif kind == PROTO:
            texts = bytes(cells.flat)
            values = [Value.FromString(texts[start:end]) for start, end in bounds]
        else:
            elements = _elements(cells)
            message = _LIST_MESSAGES[kind]
            values = [_made(**{field: message(val=elements[start:end])}) for start, end in bounds]
    if cells.null is not None:
        for row in np.flatnonzero(cells.null).tolist():
            values[row] = Value()
    return values


def value_of(kind: str, value: Any) -> Value:
    """One value of a kind other than ``PROTO`` as Feast's; None becomes an empty value."""
    if value is None:
        return Value()
    if kind in _LIST_MESSAGES:
        value = _LIST_MESSAGES[kind](val=value)
    return _made(**{_field(kind): value})


def _elements(cells: Cells) -> list[Any]:
    if cells.inner is None:
        assert isinstance(cells.flat, np.ndarray)
        plain: list[Any] = (cells.flat.astype(np.bool_) if cells.kind == "BOOL_LIST" else cells.flat).tolist()
        return plain
    texts, places = bytes(cells.flat), cells.inner.tolist()
    encoded = [texts[start:end] for start, end in pairwise(places)]
    return [text.decode() for text in encoded] if cells.kind == "STRING_LIST" else encoded


def serialized_keys(entity_keys: Sequence[EntityKey], version: int = _SERIALIZATION) -> list[bytes]:
    """Serialize entity keys like Feast, with a fast path for the common case of a single text."""
    if not entity_keys:
        return []
    first = entity_keys[0]
    if version != _SERIALIZATION or len(first.join_keys) != 1:
        return [serialize_entity_key(key, entity_key_serialization_version=version) for key in entity_keys]
    at, heads, prefixes = _text_heads(first.join_keys[0])
    raws = list(map(EntityKey.SerializeToString, entity_keys))
    sizes = list(map(len, raws))
    if heads.keys() >= set(sizes) and all(map(bytes.startswith, raws, map(heads.__getitem__, sizes))):
        return [prefixes[size] + raw[at:] for size, raw in zip(sizes, raws, strict=True)]
    return [
        prefixes[size] + raw[at:]
        if size in heads and raw.startswith(heads[size])
        else serialize_entity_key(key, entity_key_serialization_version=version)
        for key, size, raw in zip(entity_keys, sizes, raws, strict=True)
    ]


@lru_cache(maxsize=256)
def _text_heads(join_key: str) -> tuple[int, dict[int, bytes], dict[int, bytes]]:
    """Where a text begins in the protobuf bytes of its key, and for each size of these what precedes the text, there and in
    Feast's serialization.
    """
    # The protobuf bytes of such a key are its name, then [length] [0x12] [length of the text] [the text].
    began = EntityKey(join_keys=[join_key]).SerializeToString() + bytes([_STRING_FIELD])
    prefix = key_prefix([join_key]) + (2).to_bytes(4, "little")
    at = len(began) + 3
    heads = {at + size: began + bytes((size + 2, _STRING_FIELD, size)) for size in range(_SHORT)}
    prefixes = {at + size: prefix + size.to_bytes(4, "little") for size in range(_SHORT)}
    return at, heads, prefixes


def micros(moments: Sequence[datetime | None]) -> list[int | None]:
    """Convert times to microseconds since the epoch; naive times are UTC."""
    return plain_integers(pa.array(moments, pa.timestamp("us"), from_pandas=True).cast(pa.int64()))


def plain_integers(column: pa.Array) -> list[int | None]:
    """Convert an Arrow column of integers to Python integers; nulls become None."""
    integers: list[int | None] = column.to_pylist() if column.null_count else column.to_numpy().tolist()
    return integers


def event_times(moments: Sequence[datetime]) -> list[int]:
    """Like :func:`micros`, for event times.

    Raises
    ------
    OnlineStoreError
        When a time is missing.
    """
    times = micros(moments)
    if None in times:
        raise OnlineStoreError(f"expected an event time in every row, got none in row {times.index(None)}")
    return times  # type: ignore[return-value]
