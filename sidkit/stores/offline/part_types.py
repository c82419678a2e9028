"""Common types for columns that have different types in several Parquet files: values are preserved, or the file is rejected.

DuckDB reads all files with the schema of the first one and rounds other values, so files are cast one by one here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sidkit.stores.keys import is_binary, is_text, is_time

UTC_MICROS = pa.timestamp("us", "UTC")


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is an Arrow list type."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain(kind: pa.DataType) -> pa.DataType:
    """Simplify a type where it does not change values: dictionaries, large offsets, fixed sizes, zone names."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if is_text(kind):
        return pa.string()
    if is_binary(kind):
        return pa.binary()
    if is_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_timestamp(kind) and kind.tz:
        return pa.timestamp(kind.unit, "UTC")
    return pa.date32() if pa.types.is_date(kind) else kind


def common_type(kinds: Sequence[pa.DataType], declared: pa.DataType | None) -> pa.DataType | None:
    """The type with which a column of several files is returned.

    Parameters
    ----------
    kinds : sequence of pyarrow.DataType
        Types in the files.
    declared : pyarrow.DataType, optional
        Type declared by the feature view.

    Returns
    -------
    pyarrow.DataType or None
        The only type, if there is just one; else the declared one, if all types convert to it; else the smallest type that
        holds all values; None if there is none.
    """
    distinct = list(dict.fromkeys(plain(kind) for kind in kinds if not pa.types.is_null(kind)))
    if not distinct:
        return pa.null()
    if len(distinct) == 1:
        return distinct[0]
    if declared is not None and all(converts(kind, plain(declared)) for kind in distinct):
        return plain(declared)
    return _holding(distinct)


def converts(kind: pa.DataType, target: pa.DataType) -> bool:
    """Whether values of a type may convert to another one; :func:`cast` checks each value."""
    if is_list(target):
        return is_list(kind) and converts(plain(kind).value_type, plain(target).value_type)
    if _is_number(target):
        return _is_number(kind)
    if pa.types.is_timestamp(target):
        return is_time(kind)
    return bool(plain(kind) == plain(target))


def cast(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """Cast a column to another type.

    Raises
    ------
    pyarrow.ArrowInvalid
        When a value would change.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_list(target) and is_list(kind):
        for chunk in column.chunks:
            cast(pa.chunked_array([chunk.flatten()]), target.value_type)
        return column.cast(target, safe=False)
    if pa.types.is_floating(kind) and pa.types.is_integer(target):
        # pandas writes nulls among floats as NaN.
        return pc.if_else(pc.is_nan(column), None, column).cast(target)
    if _is_number(kind) and pa.types.is_floating(target) and not pa.types.is_integer(kind):
        narrowed = column.cast(target, safe=False)
        _same(column, narrowed.cast(kind, safe=False), kind)
        return narrowed
    if pa.types.is_timestamp(target) and is_time(kind):
        column = column.cast(pa.timestamp(target.unit, kind.tz if pa.types.is_timestamp(kind) else None))
    return column.cast(target)


def sql_type(kind: pa.DataType) -> str | None:
    """DuckDB's name of a type, or None if it is not supported as a common type."""
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if is_list(kind):
        inner = sql_type(kind.value_type)
        return f"{inner}[]" if inner else None
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns" and not kind.tz:
            return "TIMESTAMP_NS"
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    names = {
        pa.bool_(): "BOOLEAN",
        pa.int8(): "TINYINT",
        pa.int16(): "SMALLINT",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.uint8(): "UTINYINT",
        pa.uint16(): "USMALLINT",
        pa.uint32(): "UINTEGER",
        pa.uint64(): "UBIGINT",
        pa.float32(): "FLOAT",
        pa.float64(): "DOUBLE",
        pa.string(): "VARCHAR",
        pa.binary(): "BLOB",
        pa.date32(): "DATE",
        pa.null(): "INTEGER",
    }
    return names.get(plain(kind))


def sql_cast(expression: str, kind: pa.DataType, target: pa.DataType, failed: str) -> str:
    """SQL equivalent of :func:`cast`; ``failed`` is SQL that raises an error."""
    source, wanted = sql_type(plain(kind)), sql_type(target)
    nan = f"WHEN isnan({expression}) THEN NULL " if pa.types.is_floating(kind) and pa.types.is_integer(target) else ""
    forth = f"TRY_CAST({expression} AS {wanted})"
    back = f"TRY_CAST({forth} AS {source})"
    return (
        f"CASE WHEN {expression} IS NULL THEN NULL {nan}"
        f"WHEN {back} IS NOT DISTINCT FROM {expression} THEN {forth} ELSE {failed} END"
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _holding(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    if all(map(is_list, kinds)):
        inner = common_type([kind.value_type for kind in kinds], None)
        return pa.list_(inner) if inner is not None else None
    if all(map(is_time, kinds)):
        zoned = any(pa.types.is_timestamp(kind) and kind.tz for kind in kinds)
        return UTC_MICROS if zoned else pa.timestamp("us")
    if not all(map(_is_number, kinds)):
        return None
    if any(map(pa.types.is_floating, kinds)):
        return pa.float64()
    decimals = [kind for kind in kinds if pa.types.is_decimal(kind)]
    if not decimals:
        return pa.int64()
    scale = max(kind.scale for kind in decimals)
    whole = max([kind.precision - kind.scale for kind in decimals] + [19] * (len(decimals) < len(kinds)))
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else None


def _same(before: pa.ChunkedArray, after: pa.ChunkedArray, kind: pa.DataType) -> None:
    equal = pc.equal(before, after)
    if pa.types.is_floating(kind):
        equal = pc.or_(equal, pc.is_nan(before))
    if pc.all(equal).as_py() is False:
        wrong = before.filter(pc.invert(equal.fill_null(True)))[0]
        raise pa.ArrowInvalid(f"{wrong.as_py()} would change")
