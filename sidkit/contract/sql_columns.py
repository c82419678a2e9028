"""Conversion of database columns to Arrow arrays, including columns with values of several types."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from sidkit.contract.rows import ODD
from sidkit.core.errors import TableSchemaError

_NUMBERS = frozenset({bool, int, float})


def sql_column(table: str, name: str, values: list[Any], kind: str | None) -> tuple[pa.Field, pa.Array]:
    """Convert the values of one column to a field and an array; ``kind`` is the contract's kind, None for another column.

    If types are mixed, the most frequent one wins. A value of another type is converted if it means the same
    (7 among texts becomes "7", "7" among numbers becomes 7); otherwise it is null here, its row is noted in the field's
    metadata, and :func:`sidkit.contract.rows.normalise` rejects the row. In a column that is not part of the contract all
    values become text.

    Raises
    ------
    TableSchemaError
        When the values have one type that Arrow does not support.
    """
    kinds = Counter(type(value) for value in values if value is not None)
    if len(kinds) > 1 and not set(kinds) <= {int, float}:
        if kind is None:
            return _field(name, pa.array([_text(value) for value in values], pa.string()))
        return _by_majority(name, values, str if kind in {"id", "string"} else kinds.most_common(1)[0][0])
    try:
        return _field(name, pa.array(values))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        if set(kinds) <= {int, float}:
            return _field(name, pa.array([None if value is None else float(value) for value in values], pa.float64()))
        if set(kinds) == {str}:
            return _field(name, pa.array([_text(value) for value in values], pa.string()))
        listed = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TableSchemaError(
            table,
            f"expected values that Arrow supports in column {name!r}, got {listed} ({error}); cast the column in the database",
        ) from error


def _by_majority(name: str, values: list[Any], kind: type) -> tuple[pa.Field, pa.Array]:
    numbers = kind in _NUMBERS
    converted = [None if value is None else _as_number(value) if numbers else _as(kind, value) for value in values]
    odd = [
        row for row, (value, new) in enumerate(zip(values, converted, strict=True)) if value is not None and new is None
    ]
    field, array = _field(name, pa.array(converted, pa.float64()) if numbers else pa.array(converted))
    return field.with_metadata({ODD: json.dumps(odd)}), array


def _as_number(value: Any) -> float | None:
    if type(value) not in {*_NUMBERS, str}:
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _as(kind: type, value: Any) -> Any:
    if type(value) is kind:
        return value
    return str(value) if kind is str and type(value) is int else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _field(name: str, array: pa.Array) -> tuple[pa.Field, pa.Array]:
    return pa.field(name, array.type), array
