"""Context columns: further columns of ``interactions`` that ``[features.context]`` lists, carried through the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from sidkit.contract.attribute_values import SQL_TYPES, Shape, accepts, shape_of, types_of, unreadable, value_sql
from sidkit.contract.events import LOG_TYPES
from sidkit.contract.schemas import INTERACTIONS
from sidkit.core.engine import quoted
from sidkit.core.errors import TableSchemaError
from sidkit.core.feature_settings import AttributeKind

_EMPTY = ""
"""Stored type of a column without any value."""


@dataclass(frozen=True)
class ContextColumn:
    """How a context column is converted: its kind, DuckDB's type of the source's values, and its shape."""

    kind: AttributeKind
    stored: str
    shape: Shape

    def sql(self, name: str) -> str:
        """SQL for the values in the type of the kind."""
        if self.stored == _EMPTY:
            return f"NULL::{SQL_TYPES[self.kind]}"
        return value_sql(quoted(name), self.kind, self.stored, self.shape)


def further_columns(context: Mapping[str, AttributeKind]) -> dict[str, AttributeKind]:
    """The context columns that the log does not have anyway; ``query`` is one of its own columns."""
    return {name: kind for name, kind in context.items() if name not in LOG_TYPES}


def log_types(context: Mapping[str, AttributeKind]) -> dict[str, str]:
    """Columns of the log with DuckDB's names of their types; context columns have the types of their kinds."""
    return {**LOG_TYPES, **{name: SQL_TYPES[kind] for name, kind in further_columns(context).items()}}


def read_context(
    opened: duckdb.DuckDBPyConnection,
    relation: str,
    context: Mapping[str, AttributeKind],
    shapes: Mapping[str, Shape],
) -> dict[str, ContextColumn]:
    """Determine how the context columns of a relation are converted.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Connection with the relation.
    relation : str
        The staged interactions.
    context : mapping
        ``features.context`` of the settings.
    shapes : mapping
        Shapes of earlier ingests, which are reused.

    Raises
    ------
    TableSchemaError
        When a column is missing, or its type cannot be converted to its kind.
    """
    columns = further_columns(context)
    types = types_of(opened, relation) if columns else {}
    missing = [name for name in columns if name not in types]
    if missing:
        raise TableSchemaError(
            INTERACTIONS.name,
            f"expected the context column {', '.join(map(repr, missing))} of [features.context], got no such column, or one of "
            "a type that is not stored; add it to the source, or remove its line from [features.context]",
        )
    result = {}
    for name, kind in columns.items():
        stored, name_ = types[name], quoted(name)
        row = opened.execute(f"SELECT count({name_}) FROM {relation}").fetchone()
        if not (row and row[0]):
            result[name] = ContextColumn(kind, _EMPTY, {})
            continue
        if not accepts(kind, stored):
            raise TableSchemaError(
                INTERACTIONS.name,
                f"expected values that can become the kind {kind!r} in the context column {name!r}, got {stored}; choose "
                "another kind in [features.context], or remove the line",
            )
        shape = shapes.get(name) or shape_of(opened, relation, name, kind, stored)
        result[name] = ContextColumn(kind, stored, shape)
    return result


def context_facts(
    opened: duckdb.DuckDBPyConnection, relation: str, columns: Mapping[str, ContextColumn]
) -> dict[str, str]:
    """Facts for the table's report: values that are null because they cannot be converted to their column's kind."""
    values = {
        name: (column.kind, column.stored, column.shape) for name, column in columns.items() if column.stored != _EMPTY
    }
    counts = unreadable(opened, relation, values)
    return {f"{name} not a {columns[name].kind}": f"{count:,} values are null" for name, count in counts.items()}
