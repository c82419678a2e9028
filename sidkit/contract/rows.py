"""One batch of a table in the contract's types, with the first reason why a row breaks the contract beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.schemas import Column, Table
from sidkit.errors import TableSchemaError

REASON = "reason"
MOMENT = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "moment": MOMENT,
    "flag": pa.float64(),  # until the row check has seen it, so that a reject still shows what came
    "integer": pa.float64(),  # as the flags
    "number": pa.float32(),
    "string": pa.string(),
    "vector": pa.list_(pa.float32()),
}
_EARLIEST = pa.scalar(0, MOMENT)
_LATEST = pa.scalar(7_258_118_400_000_000, MOMENT)  # 2200-01-01
_ZONED = r"(?:[zZ]|[+-]\d{2}:?\d{2})$"


def normalise(batch: pa.RecordBatch, table: Table) -> pa.Table:
    """Bring one batch into the contract's types.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows as the source gave them.
    table : Table
        The contract's table.

    Returns
    -------
    pyarrow.Table
        The same rows and columns; ids as strings, moments as ``timestamp[us, UTC]``, vectors as ``list<float32>``; and
        one string column ``reason``, null where the row keeps the contract as far as one row can tell.

    Raises
    ------
    TableSchemaError
        When a column has a type that no row of it could be right with (naive timestamps, text labels, ...).
    """
    reasons = _Reasons(batch.num_rows)
    arrays, names = [], []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        column = table.column(name)
        names.append(name)
        arrays.append(array if column is None else _normalised(array, column, table.name, reasons))
    return pa.table([*arrays, reasons.array()], names=[*names, REASON])


class _Reasons:
    def __init__(self, rows: int) -> None:
        self._texts = np.full(rows, None, dtype=object)

    def add(self, broken: pa.Array, text: str) -> None:
        """Note a reason where ``broken`` holds and no earlier reason stands."""
        mask = np.asarray(pc.fill_null(broken, False)) & (self._texts == None)  # noqa: E711 (elementwise)
        self._texts[mask] = text

    def array(self) -> pa.Array:
        return pa.array(self._texts, type=pa.string())


def _normalised(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), _TYPES[column.kind])
    else:
        array = _READERS[column.kind](array, column, table, reasons)
    if not column.nullable:
        reasons.add(pc.is_null(array), f"{column.name} is missing")
    if column.kind == "id" and not column.nullable:
        reasons.add(pc.equal(array, ""), f"{column.name} is empty")
    return array


def _read_id(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_large_string(kind) or _is_text_view(kind):
        return array.cast(pa.string())
    if pa.types.is_string(kind):
        return array
    raise _refused(
        table, column, kind, "a string or an integer", f'df["{column.name}"] = df["{column.name}"].astype(str)'
    )


def _read_string(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind):
        return array
    if pa.types.is_large_string(kind) or _is_text_view(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return array.cast(pa.string())
    raise _refused(table, column, kind, "a string", f'df["{column.name}"] = df["{column.name}"].astype(str)')


def _read_moment(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        zoned = pc.match_substring_regex(array, _ZONED)
        if pc.any(pc.invert(zoned)).as_py():
            raise _refused(
                table, column, "text without a time zone", "ISO-8601 text with a zone", "append 'Z' if it is UTC"
            )
        try:
            return _in_range(pc.cast(array, MOMENT), column, reasons)
        except pa.ArrowInvalid as error:
            raise TableSchemaError(
                table, f"column {column.name!r} holds text that is no ISO-8601 time ({error})"
            ) from error
    if not pa.types.is_timestamp(kind):
        raise _refused(table, column, kind, "a timestamp in UTC", f'pd.to_datetime(df["{column.name}"], utc=True)')
    if kind.tz is None:
        raise _refused(
            table, column, "naive timestamps (no time zone)", "timestamp[us, UTC]",
            f'df["{column.name}"] = df["{column.name}"].dt.tz_localize("UTC") if the clock was UTC',
        )  # fmt: skip
    if kind.unit in {"s", "ms"}:
        # A coarse moment far outside would wrap around on its way to microseconds.
        furthest = 2**62 // (1_000_000 if kind.unit == "s" else 1_000)
        bounded = pc.max_element_wise(array.cast(pa.int64()), -furthest, skip_nulls=False)
        bounded = pc.min_element_wise(bounded, furthest, skip_nulls=False)
        array = bounded.cast(pa.timestamp(kind.unit)).cast(kind)
    return _in_range(pc.cast(array, MOMENT, safe=False), column, reasons)


def _in_range(moments: pa.Array, column: Column, reasons: _Reasons) -> pa.Array:
    # What lies outside is a wrong unit (seconds read as microseconds, say), not a time.
    outside = pc.or_(pc.less(moments, _EARLIEST), pc.greater_equal(moments, _LATEST))
    reasons.add(outside, f"{column.name} is outside 1970..2200")
    return moments


def _read_flag(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _refused(table, column, kind, "0 or 1 as an integer", f'(df["{column.name}"] > threshold).astype("int8")')
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    values = array.cast(pa.float64(), safe=False)
    # NaN is what pandas writes for a missing number.
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    outside = pc.and_(pc.not_equal(values, 0.0), pc.not_equal(values, 1.0))
    reasons.add(outside, f"{column.name} is not 0 or 1")
    return values


def _read_integer(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _refused(table, column, kind, "an integer", f'df["{column.name}"].astype("Int32")')
    values = array.cast(pa.float64(), safe=False)
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**31))
    reasons.add(pc.invert(whole), f"{column.name} is no 32-bit integer")
    return values


def _read_number(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise _refused(table, column, kind, "a number", f'df["{column.name}"].astype("float32")')
    values = array.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float32()), values)
    reasons.add(pc.is_inf(values), f"{column.name} is infinite")
    return values


def _read_vector(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            array = pa.array([None if text is None else json.loads(text) for text in array.to_pylist()])
        except (json.JSONDecodeError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TableSchemaError(
                table, f"column {column.name!r} is text but no JSON list of numbers ({error})"
            ) from error
        kind = array.type
    inner = kind.value_type if hasattr(kind, "value_type") else None
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(inner) or pa.types.is_integer(inner) or pa.types.is_null(inner)):
        raise _refused(
            table, column, kind, "a list of float32 per row", f'df["{column.name}"] = list(matrix.astype("float32"))'
        )
    array = array.cast(pa.list_(pa.float32()), safe=False)
    reasons.add(_holds_no_finite_vector(array), f"{column.name} holds NaN, infinite or missing elements")
    reasons.add(pc.equal(pc.list_value_length(array), 0), f"{column.name} is an empty list")
    return array


def _holds_no_finite_vector(array: pa.ListArray) -> pa.Array:
    """True for each row whose list has an element that is null, NaN or infinite."""
    flat = array.flatten()  # skips null rows, whatever lies under them
    elements = pc.fill_null(flat, float("nan")).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    bad = np.concatenate([[0], np.cumsum(~np.isfinite(elements))])
    ends = np.cumsum(lengths)
    return pa.array((bad[ends] - bad[ends - lengths]) > 0)


def _is_text_view(kind: pa.DataType) -> bool:
    return bool(kind == pa.string_view())


def _refused(table: str, column: Column, found: object, needed: str, remedy: str) -> TableSchemaError:
    return TableSchemaError(table, f"column {column.name!r} holds {found}; {needed} is needed. For example: {remedy}")


_READERS = {
    "id": _read_id,
    "string": _read_string,
    "moment": _read_moment,
    "flag": _read_flag,
    "integer": _read_integer,
    "number": _read_number,
    "vector": _read_vector,
}


RESERVED_COLUMNS = frozenset({"reason", "nth", "first_seen", "file_row_number", "generation"})
"""Names that the checks themselves use."""


def check_columns(found: Sequence[str], table: Table, reserved: frozenset[str] = RESERVED_COLUMNS) -> None:
    """Refuse a table that lacks a required column, or whose column names cannot be used (``reserved`` ones among them).

    Raises
    ------
    TableSchemaError
        Naming the columns.
    """
    taken = sorted(set(found) & reserved)
    if taken:
        raise TableSchemaError(
            table.name, f"column {', '.join(map(repr, taken))} has a name that the checks use themselves; rename it"
        )
    twice = sorted({name for name in found if list(found).count(name) > 1})
    if twice:
        raise TableSchemaError(
            table.name,
            f"column {', '.join(map(repr, twice))} is there more than once; expected each name once, rename one",
        )
    by_folded: dict[str, str] = {}
    for name in found:
        other = by_folded.setdefault(name.lower(), name)  # SQL does not tell them apart
        if other != name:
            raise TableSchemaError(table.name, f"columns {other!r} and {name!r} differ in case only; rename one")
    missing = [column.name for column in table.columns if column.required and column.name not in found]
    if missing:
        raise TableSchemaError(
            table.name, f"column {', '.join(map(repr, missing))} is missing; the table has {', '.join(found)}"
        )
