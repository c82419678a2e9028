"""Join keys in the type that their entity declares, converted like Feast's online stores do.

Offline, two keys are equal exactly if they are one key online: integers with a declared text type are their digits, digits
with a declared integer type are their number, and "001" and "1" are two texts. Conversions that Feast would do by accident
(a float to the text "1.0", bytes to "b'a'") are rejected, and so are comparisons that SQL would decide by an implicit cast.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.errors import ContractError

Column: TypeAlias = pa.Array | pa.ChunkedArray

INTEGERS = {"INT32": 32, "INT64": 64}
"""Declared integer types -> number of bits."""
FLOATS = frozenset({"FLOAT", "DOUBLE"})
UUIDS = frozenset({"UUID", "TIME_UUID"})
_EXACT = 2**53
_DIGITS = "^[+-]?[0-9]+$"


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is an Arrow text type."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type is an Arrow binary type."""
    plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(plain or pa.types.is_binary_view(kind))


def is_time(kind: pa.DataType) -> bool:
    """Whether a type is a timestamp or a date."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


_REMEDIES: tuple[tuple[str, Callable[[pa.DataType], bool], str], ...] = (
    ("STRING", pa.types.is_floating, '["{name}"].astype("Int64").astype("string")'),
    ("STRING", is_binary, '["{name}"].str.decode("utf-8")'),
    ("STRING", lambda _: True, '["{name}"].astype("string")'),
    ("BYTES", is_text, '["{name}"].str.encode("utf-8")'),
    ("INT32", pa.types.is_boolean, '["{name}"].astype("Int64")'),
    ("INT64", pa.types.is_boolean, '["{name}"].astype("Int64")'),
)


def declared_or_found(declared: str, actual: pa.DataType) -> str:
    """The declared value type of a key, or that of its column if none is declared."""
    if declared not in {"", "UNKNOWN", "INVALID"}:
        return declared
    if pa.types.is_dictionary(actual):
        actual = actual.value_type
    for kind, test in (
        ("INT64", pa.types.is_integer),
        ("STRING", is_text),
        ("BYTES", is_binary),
        ("BOOL", pa.types.is_boolean),
        ("DOUBLE", pa.types.is_floating),
        ("UNIX_TIMESTAMP", is_time),
    ):
        if test(actual):
            return kind
    return "STRING"


def as_declared(column: Column, kind: str, table: str, name: str) -> Column:
    """Convert a key column to its declared type.

    Parameters
    ----------
    column : pyarrow.Array or ChunkedArray
        The keys of entity rows or of a feature table.
    kind : str
        Name of the Feast value type that the entity declares, such as ``STRING`` or ``INT64``.
    table, name : str
        Table and column, for error messages.

    Returns
    -------
    pyarrow.Array or ChunkedArray
        Texts, integers, bytes, booleans or float64 (any of Arrow's widths); a timestamp becomes int64 seconds, a UUID its
        canonical text. Nulls, and NaN that pandas uses for null, stay null.

    Raises
    ------
    ContractError
        When the column's type, or one of its values, cannot be converted.
    """
    if getattr(column.type, "extension_name", "") == "arrow.uuid":
        column = column.cast(column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column.cast(_canonical(kind))
    try:
        converted = _converted(column, kind)
    except pa.ArrowInvalid as error:
        raise ContractError(
            table, f"expected {kind} keys in {name}, got another value ({error}); correct it"
        ) from error
    if converted is None:
        raise ContractError(
            table,
            f"expected {name} as {kind}, its entity's type, got {column.type}. {_remedy(column.type, kind, name)}",
        )
    return converted


def _converted(column: Column, kind: str) -> Column | None:
    """Convert a key column; None if the type cannot be converted."""
    if kind in INTEGERS:
        return _integers(column, INTEGERS[kind])
    if kind in FLOATS:
        return _floats(column, kind)
    if kind in UUIDS:
        return _uuids(column)
    if kind == "UNIX_TIMESTAMP":
        return _seconds(column)
    if (kind == "BYTES" and is_binary(column.type)) or (kind == "BOOL" and pa.types.is_boolean(column.type)):
        return column
    return _texts(column, kind) if kind not in {"BYTES", "BOOL"} else None


def _texts(column: Column, kind: str) -> Column | None:
    if is_text(column.type):
        return _utf8(column)
    return column.cast(pa.string()) if kind == "STRING" and pa.types.is_integer(column.type) else None


def _floats(column: Column, kind: str) -> Column | None:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    narrow = column.cast(pa.float32() if kind == "FLOAT" else pa.float64(), safe=pa.types.is_integer(column.type))
    return pc.add(_nan_is_null(narrow.cast(pa.float64())), 0.0)


def _canonical(kind: str) -> pa.DataType:
    if kind in INTEGERS or kind == "UNIX_TIMESTAMP":
        return pa.int64()
    if kind in FLOATS:
        return pa.float64()
    return {"BYTES": pa.binary(), "BOOL": pa.bool_()}.get(kind, pa.string())


def _integers(column: Column, bits: int) -> Column | None:
    actual = column.type
    if is_text(actual):
        trimmed = pc.utf8_trim_whitespace(_utf8(column))
        digits = pc.match_substring_regex(trimmed, _DIGITS)
        if pc.all(digits).as_py() not in (True, None):
            wrong = trimmed.filter(pc.invert(digits.fill_null(True)))[0].as_py()
            raise pa.ArrowInvalid(f"{wrong!r} is not an integer")
        column = pc.replace_substring_regex(trimmed, r"^\+", "").cast(pa.int64())
    elif pa.types.is_floating(actual):
        # pandas stores integers with nulls as floats.
        column = _nan_is_null(column.cast(pa.float64()))
        if pc.any(pc.greater_equal(pc.abs(column), _EXACT)).as_py():
            raise pa.ArrowInvalid("a float beyond 2^53 does not identify one integer")
        column = column.cast(pa.int64())
    elif pa.types.is_decimal(actual) or pa.types.is_uint64(actual):
        column = column.cast(pa.int64())
    elif not pa.types.is_integer(actual):
        return None
    if column.type.bit_width > bits or pa.types.is_uint32(column.type):
        column.cast(pa.int32() if bits == 32 else pa.int64())
    return column


def _nan_is_null(column: Column) -> Column:
    return pc.if_else(pc.is_nan(column), None, column)


def _utf8(column: Column) -> Column:
    column.validate(full=True)
    return column


def _seconds(column: Column) -> Column | None:
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if not is_time(column.type):
        return None
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    micros = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    whole = pc.divide(micros, 1_000_000)
    return pc.subtract(whole, pc.if_else(pc.less(pc.subtract(micros, pc.multiply(whole, 1_000_000)), 0), 1, 0))


def _uuids(column: Column) -> Column | None:
    if not (is_text(column.type) or is_binary(column.type)):
        return None

    def canonical(value: str | bytes | None) -> str | None:
        try:
            return (
                None if value is None else str(uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value))
            )
        except ValueError as error:
            raise pa.ArrowInvalid(f"{value!r} is not a UUID") from error

    encoded = column.dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], column.type).dictionary_encode()
    texts = pa.array([canonical(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return texts.take(encoded.indices)


def _remedy(actual: pa.DataType, kind: str, name: str) -> str:
    for declared, test, call in _REMEDIES:
        if declared == kind and test(actual):
            text = call.format(name=name)
            return f"Convert them, in pandas with frame{text}"
    return "Pass keys of that type, or declare the entity with the value_type of the keys"
