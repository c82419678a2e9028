"""Conversion of attribute and context columns to the type of their kind, as SQL expressions.

A value that cannot be converted becomes null; :func:`unreadable` counts such values. Missing values are null, NaN, empty texts
and empty lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import duckdb

from sidkit.core.engine import literal, quoted
from sidkit.core.feature_settings import AttributeKind

SQL_TYPES: dict[AttributeKind, str] = {
    "category": "VARCHAR",
    "categories": "VARCHAR[]",
    "number": "DOUBLE",
    "flag": "BOOLEAN",
    "date": "TIMESTAMPTZ",
    "vector": "FLOAT[]",
}
"""Type of the values of a kind in tables that sidkit writes."""
SEPARATORS = ("|", ";", ",")
"""Separators of texts that list several categories, in order of precedence."""

Shape = dict[str, Any]
"""What a column's conversion depends on besides its kind, as JSON values: ``separator`` of categories in one text (empty: none)
or ``width`` of vectors."""

_FIRST_DATE, _LAST_DATE = "TIMESTAMPTZ '0001-01-02 00:00:00Z'", "TIMESTAMPTZ '9999-12-31 00:00:00Z'"
"""Dates outside are in a wrong unit; many tools cannot represent them."""
_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")
_TIME = re.compile(r"DATE|TIMESTAMP.*")


def value_sql(column: str, kind: AttributeKind, stored: str, shape: Shape) -> str:
    """SQL for the values of a column in the type of its kind.

    Parameters
    ----------
    column : str
        SQL expression of the column.
    kind : AttributeKind
        Kind of the column.
    stored : str
        DuckDB's name of the column's type; :func:`accepts` must hold.
    shape : Shape
        From :func:`shape_of`.
    """
    return f"({_VALUES[kind](column, stored, shape)})::{SQL_TYPES[kind]}"


def accepts(kind: AttributeKind, stored: str) -> bool:
    """Whether values of a DuckDB type can be converted to a kind."""
    if kind == "vector":
        return stored == "VARCHAR" or (_is_list(stored) and bool(_NUMBER.fullmatch(stored[:-2])))
    if kind == "categories":
        return stored == "VARCHAR" or (_is_list(stored) and _is_plain(stored[:-2]))
    if kind == "date":
        return stored == "VARCHAR" or bool(_TIME.fullmatch(stored))
    if kind == "category":
        return _is_plain(stored)
    return stored in {"VARCHAR", "BOOLEAN"} or bool(_NUMBER.fullmatch(stored))


def shape_of(opened: duckdb.DuckDBPyConnection, relation: str, column: str, kind: AttributeKind, stored: str) -> Shape:
    """Determine the separator of categories in texts, or the width of vectors, from all values of a column.

    The separator is the one that most values contain; ties go to the first of :data:`SEPARATORS`. The width is the most
    frequent one.
    """
    name = quoted(column)
    if kind == "categories" and stored == "VARCHAR":
        counts = ", ".join(f"count(*) FILTER (contains({name}, {literal(each)}))" for each in SEPARATORS)
        found = opened.execute(f"SELECT {counts} FROM {relation} WHERE NOT starts_with({name}, '[')").fetchone() or ()
        most = max(found, default=0)
        return {"separator": SEPARATORS[found.index(most)] if most else ""}
    if kind == "vector":
        lists = name if _is_list(stored) else f"TRY_CAST({name} AS FLOAT[])"
        row = opened.execute(f"SELECT mode(len({lists})) FROM {relation} WHERE len({lists}) > 0").fetchone()
        return {"width": int(row[0]) if row and row[0] is not None else 0}
    return {}


def unreadable(
    opened: duckdb.DuckDBPyConnection, relation: str, values: Mapping[str, tuple[AttributeKind, str, Shape]]
) -> dict[str, int]:
    """Count the values per column that are not missing and cannot be converted; columns without any are left out.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Any connection.
    relation : str
        SQL relation with the columns.
    values : mapping
        Column -> kind, DuckDB type and shape.
    """
    if not values:
        return {}
    counts = ", ".join(
        f"count(*) FILTER (NOT {_missing(quoted(name), stored)} AND {value_sql(quoted(name), kind, stored, shape)} IS NULL)"
        for name, (kind, stored, shape) in values.items()
    )
    row = opened.execute(f"SELECT {counts} FROM {relation}").fetchone() or ()
    return {name: int(count) for name, count in zip(values, row, strict=True) if count}


def types_of(opened: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """DuckDB's names of the types of a relation's columns."""
    return {row[0]: row[1] for row in opened.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}


def _category(column: str, stored: str, shape: Shape) -> str:
    if stored in {"FLOAT", "DOUBLE"} or stored.startswith("DECIMAL"):  # pandas stores integers with nulls as floats
        number = f"{column}::DOUBLE"
        whole = f"isfinite({number}) AND {number} = trunc({number}) AND abs({number}) < 9e15"
        return f"CASE WHEN {whole} THEN {number}::BIGINT::VARCHAR WHEN NOT isnan({number}) THEN {column}::VARCHAR END"
    return f"nullif({column}::VARCHAR, '')"


def _categories(column: str, stored: str, shape: Shape) -> str:
    if stored == "VARCHAR":
        separator = shape.get("separator")
        split = f"string_split({column}, {literal(separator)})" if separator else f"[{column}]"
        listed = f"CASE WHEN starts_with({column}, '[') THEN TRY_CAST({column} AS VARCHAR[]) ELSE {split} END"
    else:
        listed = f"{column}::VARCHAR[]"
    trimmed = f"list_filter(list_transform({listed}, lambda part: trim(part)), lambda part: part <> '')"
    return f"CASE WHEN len({trimmed}) > 0 THEN {trimmed} END"


def _number(column: str, stored: str, shape: Shape) -> str:
    number = f"TRY_CAST({column} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _flag(column: str, stored: str, shape: Shape) -> str:
    if stored == "BOOLEAN":
        return column
    if stored == "VARCHAR":
        return (
            f"CASE WHEN lower(trim({column})) IN ('true', 't', 'yes', 'y', '1') THEN true "
            f"WHEN lower(trim({column})) IN ('false', 'f', 'no', 'n', '0') THEN false END"
        )
    return f"CASE {column} WHEN 1 THEN true WHEN 0 THEN false END"


def _date(column: str, stored: str, shape: Shape) -> str:
    moment = f"TRY_CAST({column} AS TIMESTAMPTZ)"
    return f"CASE WHEN {moment} >= {_FIRST_DATE} AND {moment} < {_LAST_DATE} THEN {moment} END"


def _vector(column: str, stored: str, shape: Shape) -> str:
    vector = f"TRY_CAST({column} AS FLOAT[])"
    usable = f"list_filter({vector}, lambda part: part IS NOT NULL AND isfinite(part))"
    return f"CASE WHEN len({usable}) = {shape.get('width', 0)} AND len({vector}) = len({usable}) THEN {vector} END"


def _missing(column: str, stored: str) -> str:
    if stored in {"FLOAT", "DOUBLE"}:
        return f"({column} IS NULL OR isnan({column}))"
    if stored == "VARCHAR":
        return f"({column} IS NULL OR trim({column}) = '')"
    return f"({column} IS NULL OR len({column}) = 0)" if _is_list(stored) else f"({column} IS NULL)"


def _is_list(stored: str) -> bool:
    return stored.endswith("[]")


def _is_plain(stored: str) -> bool:
    return stored in {"VARCHAR", "BOOLEAN", "UUID"} or bool(_NUMBER.fullmatch(stored) or _TIME.fullmatch(stored))


_VALUES: dict[AttributeKind, Callable[[str, str, Shape], str]] = {
    "category": _category,
    "categories": _categories,
    "number": _number,
    "flag": _flag,
    "date": _date,
    "vector": _vector,
}
