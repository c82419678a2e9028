"""Conversion of a batch to the contract's types, with a rejection reason per row."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.outputs import REASONS
from sidkit.contract.remedies import is_iso, remedy
from sidkit.contract.schemas import Column, Table
from sidkit.contract.units import outside_range
from sidkit.core.clock import to_us
from sidkit.core.errors import TableSchemaError, TimeError

REASON = "reason"
PART = b"sidkit.part"
"""Key of a batch's metadata: the name of its file, if a table has several."""
ODD = b"sidkit.odd"
"""Key of a field's metadata: JSON list of the rows with a value of another type, which is null in the array."""
MOMENT = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "moment": MOMENT,
    "flag": pa.float64(),  # until after the row check, so that a rejected row shows its original value
    "integer": pa.float64(),  # as the flags
    "number": pa.float32(),
    "string": pa.string(),
    "vector": pa.list_(pa.float32()),
}
_EARLIEST = pa.scalar(0, MOMENT)
_LATEST = pa.scalar(7_258_118_400_000_000, MOMENT)  # 2200-01-01
_LARGEST = 1e15
"""Upper bound on vector elements: squares and sums of larger ones overflow float32."""
_ZONE_HINT = (
    'write assume_timezone = "UTC", or your zone, below [source.times] in sidkit.toml (next to the data, or in the '
    "repository), or convert them"
)
_ZONED = r"(?:[zZ]|[+-]\d{2}:?\d{2})$"


def normalise(batch: pa.RecordBatch, table: Table) -> pa.Table:
    """Convert one batch to the contract's types.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows as read from the source.
    table : Table
        The contract's table.

    Returns
    -------
    pyarrow.Table
        The same rows and columns; ids as strings, times as ``timestamp[us, UTC]``, vectors as ``list<float32>``; and
        a string column ``reason``, null for rows that pass all checks of single rows.

    Raises
    ------
    TableSchemaError
        When a column has a type that cannot be converted (naive timestamps, text labels, ...).
    """
    reasons = _Reasons(batch.num_rows)
    arrays, names = [], []
    part = (batch.schema.metadata or {}).get(PART)
    for field, array in zip(batch.schema, batch.columns, strict=True):
        column = table.column(field.name)
        names.append(field.name)
        if column is None:
            arrays.append(carried(array))
            continue
        for reason, rows in json.loads((field.metadata or {}).get(REASONS, b"{}")).items():
            reasons.add(_mask(rows, len(array)), reason)
        odd = json.loads((field.metadata or {}).get(ODD, b"[]"))
        if odd:
            reasons.add(_mask(odd, len(array)), f"{field.name} has another type than in the other rows")
        try:
            arrays.append(_normalised(array, column, table.name, reasons))
        except TableSchemaError as error:
            if part is None:
                raise
            raise TableSchemaError(table.name, f"{part.decode()}: {error.problem}") from error
    return pa.table([*arrays, reasons.array()], names=[*names, REASON])


def _mask(rows: list[int], length: int) -> pa.Array:
    mask = np.zeros(length, dtype=bool)
    mask[rows] = True
    return pa.array(mask)


class _Reasons:
    def __init__(self, rows: int) -> None:
        self._texts = np.full(rows, None, dtype=object)

    def add(self, broken: pa.Array, text: str) -> None:
        """Set a reason for the ``broken`` rows that have none yet."""
        mask = np.asarray(pc.fill_null(broken, False)) & (self._texts == None)  # noqa: E711 (elementwise)
        self._texts[mask] = text

    def array(self) -> pa.Array:
        return pa.array(self._texts, type=pa.string())


def carried(array: pa.Array) -> pa.Array:
    """Convert an additional attribute to a type that can be stored: invalid UTF-8 is replaced, and times outside the range of
    microseconds become null.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.unit in {"s", "ms"}:
        furthest = 2**62 // (1_000_000 if kind.unit == "s" else 1_000)
        numbers = array.cast(pa.int64())
        return pc.if_else(pc.less(pc.abs_checked(pc.max_element_wise(numbers, -furthest)), furthest), array, None)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _valid_text(array, kind)[0]
    if pa.types.is_decimal256(kind):  # DuckDB misreads its bytes as a number of another size
        return array.cast(pa.string())
    return array


def can_be_carried(kind: pa.DataType | None) -> bool:
    """Whether Arrow and DuckDB can store and read any values of this type."""
    if kind is None:
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return can_be_carried(kind.storage_type)
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_has_no_wild_values(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _has_no_wild_values(kind.key_type) and _has_no_wild_values(kind.item_type)
    if pa.types.is_fixed_size_list(kind):  # Arrow cannot read back one with a null
        return False
    return not is_list(kind) or _has_no_wild_values(kind.value_type)


def _has_no_wild_values(kind: pa.DataType) -> bool:
    temporal = pa.types.is_timestamp(kind) or pa.types.is_date64(kind)
    return not temporal and not pa.types.is_decimal256(kind) and can_be_carried(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list type."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_list(kind.storage_type)
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _normalised(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.type in {pa.string_view(), pa.large_string()}:
        array = array.cast(pa.string())
    if pa.types.is_string(array.type):
        array, wrong = _valid_text(array, array.type)
        if wrong is not None:
            reasons.add(wrong, f"{column.name} is not UTF-8")
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), _TYPES[column.kind])
    else:
        array = _READERS[column.kind](array, column, table, reasons)
    if not column.nullable:
        reasons.add(pc.is_null(array), f"{column.name} is missing")
    if column.kind == "id" and not column.nullable:
        reasons.add(pc.equal(array, ""), f"{column.name} is empty")
    return array


def _valid_text(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
    """Replace invalid UTF-8 in texts; also return a mask of the affected rows, or None if all texts are valid."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raw = array.cast(pa.large_binary()).to_pylist()
        texts = [None if value is None else value.decode("utf-8", "replace") for value in raw]
        wrong = [text is not None and value != text.encode() for value, text in zip(raw, texts, strict=True)]
        return pa.array(texts, kind), pa.array(wrong)
    return array, None


def _read_id(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_integer(kind):
        return array.cast(pa.string())
    if pa.types.is_string(kind):
        return array
    raise _refused(table, column, array, "a string or an integer")


def _read_string(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind):
        return array
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return array.cast(pa.string())
    raise _refused(table, column, array, "a string")


def _read_moment(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind):
        zoned = pc.match_substring_regex(array, _ZONED)
        naive = array.filter(pc.invert(pc.fill_null(zoned, True)))
        if any(is_iso(text) for text in naive.unique().to_pylist()):
            raise _refused(table, column, array, "ISO 8601 text with a zone", f"text without a time zone; {_ZONE_HINT}")
        try:
            if len(naive):
                raise pa.ArrowInvalid
            return _in_range(pc.cast(array, MOMENT), column, reasons)
        except pa.ArrowInvalid:
            moments = _parsed_one_by_one(array, column, reasons)
            if moments.null_count == len(moments):
                raise _refused(
                    table, column, array, "ISO 8601 text with a zone", "text that is not an ISO 8601 time"
                ) from None
            return _in_range(moments, column, reasons)
    if not pa.types.is_timestamp(kind):
        got = f"{kind}; {_ZONE_HINT}" if pa.types.is_date(kind) else ""
        raise _refused(table, column, array, "a timestamp in UTC", got)
    if kind.tz is None:
        raise _refused(table, column, array, "timestamp[us, UTC]", f"naive timestamps (no time zone); {_ZONE_HINT}")
    if kind.unit in {"s", "ms"}:
        # Extreme values in coarse units would overflow when converted to microseconds.
        furthest = 2**62 // (1_000_000 if kind.unit == "s" else 1_000)
        bounded = pc.max_element_wise(array.cast(pa.int64()), -furthest, skip_nulls=False)
        bounded = pc.min_element_wise(bounded, furthest, skip_nulls=False)
        array = bounded.cast(pa.timestamp(kind.unit)).cast(kind)
    return _in_range(pc.cast(array, MOMENT, safe=False), column, reasons)


def _parsed_one_by_one(array: pa.Array, column: Column, reasons: _Reasons) -> pa.Array:
    """Parse times one by one; rows that are not ISO 8601 times are rejected."""
    moments: list[int | None] = []
    wrong = np.zeros(len(array), dtype=bool)
    for place, text in enumerate(array.to_pylist()):
        try:
            moments.append(None if text is None else to_us(datetime.fromisoformat(text)))
        except (ValueError, OverflowError, TimeError):
            moments.append(None)
            wrong[place] = True
    reasons.add(pa.array(wrong), f"{column.name} is not an ISO 8601 time")
    return pa.array(moments, pa.int64()).cast(MOMENT)


def _in_range(moments: pa.Array, column: Column, reasons: _Reasons) -> pa.Array:
    # Values outside the range have a wrong unit, such as seconds read as microseconds.
    outside = pc.or_(pc.less(moments, _EARLIEST), pc.greater_equal(moments, _LATEST))
    reasons.add(outside, outside_range(column.name))
    return moments


def _read_flag(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _refused(table, column, array, "0 or 1 as an integer")
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    values = array.cast(pa.float64(), safe=False)
    # pandas writes missing numbers as NaN.
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    outside = pc.and_(pc.not_equal(values, 0.0), pc.not_equal(values, 1.0))
    reasons.add(outside, f"{column.name} is not 0 or 1")
    return values


def _read_integer(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _refused(table, column, array, "an integer")
    values = array.cast(pa.float64(), safe=False)
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**31))
    reasons.add(pc.invert(whole), f"{column.name} is not a 32-bit integer")
    return values


def _read_number(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise _refused(table, column, array, "a number")
    values = array.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float32()), values)
    reasons.add(pc.is_inf(values), f"{column.name} is infinite")
    return values


def _read_vector(array: pa.Array, column: Column, table: str, reasons: _Reasons) -> pa.Array:
    kind = array.type
    if pa.types.is_string(kind):
        vectors = [vector_of(text) for text in array.to_pylist()]
        wrong = [vector is None and text is not None for vector, text in zip(vectors, array.to_pylist(), strict=True)]
        if all(vector is None for vector in vectors) and any(wrong):
            raise _refused(
                table,
                column,
                array,
                "a list of float32 per row, or its JSON text",
                "text that is not a JSON list of numbers",
            )
        reasons.add(pa.array(wrong), f"{column.name} is not a JSON list of numbers")
        array = pa.array(vectors, pa.list_(pa.float64()))
        kind = array.type
    inner = kind.value_type if is_list(kind) else None
    if inner is None or not (pa.types.is_floating(inner) or pa.types.is_integer(inner) or pa.types.is_null(inner)):
        raise _refused(table, column, array, "a list of float32 per row")
    array = array.cast(pa.list_(pa.float32()), safe=False)
    if not _all_below(array, _LARGEST):
        reasons.add(_rows_beyond(array, np.inf), f"{column.name} has NaN, infinite or missing elements")
        reasons.add(_rows_beyond(array, _LARGEST), f"{column.name} has elements beyond {_LARGEST:g}")
    reasons.add(pc.equal(pc.list_value_length(array), 0), f"{column.name} is an empty list")
    return array


def vector_of(text: str | None) -> list[float | None] | None:
    """Parse a JSON list of numbers, which may contain nulls; None if the text is anything else."""
    if text is None:
        return None
    try:
        parsed = json.loads(text)
        if not isinstance(parsed, list) or not all(
            element is None or type(element) in {int, float} for element in parsed
        ):
            return None
        return [None if element is None else float(element) for element in parsed]
    except (ValueError, RecursionError, OverflowError):
        return None


def _all_below(array: pa.ListArray, most: float) -> bool:
    """Whether no element is missing, NaN, or not below ``most`` in magnitude; looks at some at a time."""
    flat = array.flatten()
    if flat.null_count:
        return False
    elements = flat.to_numpy()
    return all(bool((np.abs(elements[at : at + 2**18]) < most).all()) for at in range(0, len(elements), 2**18))


def _rows_beyond(array: pa.ListArray, most: float) -> pa.Array:
    """Mask of rows whose list has an element that is missing, NaN, or not below ``most`` in magnitude."""
    flat = array.flatten()  # skips null rows and their hidden values
    elements = pc.fill_null(flat, float("nan")).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    bad = np.concatenate([[0], np.cumsum(~(np.abs(elements) < most))])
    ends = np.cumsum(lengths)
    return pa.array((bad[ends] - bad[ends - lengths]) > 0)


def _refused(table: str, column: Column, array: pa.Array, expected: str, got: str = "") -> TableSchemaError:
    return TableSchemaError(
        table,
        f"expected {expected} in column {column.name!r}, got {got or array.type}. For example: "
        f"{remedy(column.kind, column.name, array)}",
    )


_READERS = {
    "id": _read_id,
    "string": _read_string,
    "moment": _read_moment,
    "flag": _read_flag,
    "integer": _read_integer,
    "number": _read_number,
    "vector": _read_vector,
}
