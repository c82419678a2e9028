"""The tables ``item_attributes`` and ``user_attributes``: columns of ``items`` and ``users`` in the types of their kinds.

They depend on ``[features]`` alone among the settings, and are rebuilt from scratch when it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract.attribute_values import SQL_TYPES, Shape, accepts, shape_of, types_of, unreadable, value_sql
from sidkit.core.code_stats import user_code_stats_view
from sidkit.core.engine import connection, literal, quoted, set_variables
from sidkit.core.errors import ConfigError
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, ITEM_ID, USER_ATTRIBUTES, AttributeKind
from sidkit.core.repo import Repo
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.affinity import affinity_tables
from sidkit.tables.log import Log

ATTRIBUTE_TABLES = (ITEM_ATTRIBUTES, USER_ATTRIBUTES)


@dataclass(frozen=True)
class AttributeTable:
    """A table of attributes: its columns with their kinds, and what their conversion depends on."""

    name: str
    columns: Mapping[str, AttributeKind]
    shapes: dict[str, Shape]
    unreadable: dict[str, int]
    """Column -> number of values that could not be converted and are null."""

    @property
    def notes(self) -> list[str]:
        """A sentence per column with values that could not be converted."""
        return [
            f"{self.name}: {count:,} values of {column} are not of the kind {self.columns[column]!r}; they are null"
            for column, count in self.unreadable.items()
        ]


def defined_tables(settings: Mapping[str, Any]) -> dict[str, dict[str, AttributeKind]]:
    """The tables that ``FeatureSettings.table_settings`` define, each with its columns and their kinds."""
    tables = {ITEM_ATTRIBUTES: dict(settings["items"]), USER_ATTRIBUTES: dict(settings["users"])}
    return {name: columns for name, columns in tables.items() if columns}


def changes_of(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The tables to rebuild after a change of ``FeatureSettings.table_settings``, each with what changed."""
    changed = {}
    for name, section in ((ITEM_ATTRIBUTES, "items"), (USER_ATTRIBUTES, "users")):
        before, after = was.get(section, {}), now.get(section, {})
        if before == after:
            continue
        words = {
            "added": [column for column in after if column not in before],
            "removed": [column for column in before if column not in after],
            "changed": [column for column in after if column in before and before[column] != after[column]],
        }
        listed = "; ".join(f"{word} {', '.join(columns)}" for word, columns in words.items() if columns)
        changed[name] = f"features.{section}: {listed or 'another order'}"
    of_items = changed.get(ITEM_ATTRIBUTES)
    for name, attribute in {**affinity_tables(was), **affinity_tables(now)}.items():
        lists = [attribute in settings.get("affinity", ()) for settings in (was, now)]
        if lists[0] != lists[1]:
            changed[name] = f"features.affinity: {'added' if lists[1] else 'removed'} {attribute}"
        elif of_items and attribute != ITEM_ID:  # its values come from that table
            changed[name] = of_items
    return changed


def kept_columns(was: Mapping[str, Any], now: Mapping[str, Any], name: str) -> list[str]:
    """The columns of a table whose kind is the same under two ``FeatureSettings.table_settings``."""
    before, after = (defined_tables(settings).get(name, {}) for settings in (was, now))
    return [column for column, kind in after.items() if before.get(column) == kind]


def read_versions(
    opened: duckdb.DuckDBPyConnection,
    name: str,
    columns: Mapping[str, AttributeKind],
    log: Log,
    shapes: Mapping[str, Shape],
) -> AttributeTable:
    """Create the view ``item_attribute_versions`` or ``user_attribute_versions``, which the table's SQL file reads.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Connection with the variables ``delay_us`` and ``as_of_us``.
    name : str
        ``item_attributes`` or ``user_attributes``.
    columns : mapping
        Column -> kind.
    log : Log
        The log.
    shapes : mapping
        Shapes of the previous build, so that an incremental one converts alike; others are determined.

    Raises
    ------
    ConfigError
        When the log lacks the table or a column, or a column's type cannot be converted to its kind.
    """
    side = "item" if name == ITEM_ATTRIBUTES else "user"
    relation, types = _snapshot(opened, side, columns, log)
    kinds = {column: (kind, types[column]) for column, kind in columns.items()}
    empty = {column for column in columns if not _count(opened, relation, column)}
    for column, (kind, stored) in kinds.items():
        if column not in empty and not accepts(kind, stored):
            raise ConfigError(
                f"features.{side}s.{column}: expected values that can become the kind {kind!r}, got {stored}; choose another "
                "kind, or remove the line"
            )
    known = {
        column: shape_of(opened, relation, column, *kind) for column, kind in kinds.items() if column not in empty
    } | dict(shapes)
    filled = {
        column: (kind, stored, known.get(column, {})) for column, (kind, stored) in kinds.items() if column not in empty
    }
    values = ", ".join(
        f"{_stored(value_sql(quoted(column), *filled[column]), kind) if column in filled else _nothing(kind)} "
        f"AS {quoted(column)}"
        for column, kind in columns.items()
    )
    times = [time for time in ("updated_at", "created_at") if time in types]
    version = f"epoch_us(coalesce({', '.join(times)}))" if times else "NULL::BIGINT"
    opened.execute(f"""
        CREATE OR REPLACE TEMP VIEW {side}_attribute_versions AS
        SELECT {side}_id, {version} AS _version_us, {values} FROM {relation}
        WHERE coalesce(_version_us + getvariable('delay_us') <= getvariable('as_of_us'), true)
    """)
    return AttributeTable(name, columns, known, unreadable(opened, relation, filled))


def read_versions_of(
    repo: Repo,
    opened: SqlConnection,
    name: str,
    columns: Mapping[str, AttributeKind],
    log: Log,
    shapes: Mapping[str, Shape],
) -> AttributeTable:
    """Like :func:`read_versions` for a connection of any engine: DuckDB converts the values, which are one row per version."""
    if isinstance(opened, duckdb.DuckDBPyConnection):
        return read_versions(opened, name, columns, log, shapes)
    view = f"{'item' if name == ITEM_ATTRIBUTES else 'user'}_attribute_versions"
    path = repo.data / "tmp" / "spark" / f"{view}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as local:
        row = opened.execute("SELECT getvariable('delay_us'), getvariable('as_of_us')").fetchone()
        set_variables(local, dict(zip(("delay_us", "as_of_us"), row, strict=True)))
        table = read_versions(local, name, columns, log, shapes)
        local.execute(f"COPY {view} TO {literal(path)} (FORMAT parquet)")
    opened.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM read_parquet({literal(path)})")
    return table


def remove_undefined(tables: Path, defined: Mapping[str, Any]) -> None:
    """Remove attribute tables that the settings no longer define; call it after the manifest was written."""
    for path in (*(tables / f"{name}.parquet" for name in ATTRIBUTE_TABLES), *tables.glob("user_*_stats.parquet")):
        of_codes = path.stem.startswith(user_code_stats_view(""))
        if path.stem not in defined and not of_codes and path.exists():
            path.unlink()


def _snapshot(
    opened: duckdb.DuckDBPyConnection, side: str, columns: Mapping[str, AttributeKind], log: Log
) -> tuple[str, dict[str, str]]:
    path = log.items if side == "item" else log.users
    if path is None:
        raise ConfigError(
            f"features.users: expected a table users in the source for {', '.join(columns)}, got none; add the table and run "
            "`sidkit data ingest`, or remove [features.users]"
        )
    relation = f"read_parquet({literal(path)})"
    types = types_of(opened, relation)
    missing = [column for column in columns if column not in types]
    if missing:
        available = (
            ", ".join(name for name in types if name not in {f"{side}_id", "created_at", "updated_at"}) or "none"
        )
        raise ConfigError(
            f"features.{side}s: expected columns of the table {side}s ({available}), got {', '.join(missing)}; remove the "
            "line, or add the column to the source and run `sidkit data ingest`"
        )
    return relation, types


def _stored(value: str, kind: AttributeKind) -> str:
    """Dates are stored as microseconds: Feast's own timestamps lose the fraction."""
    return f"epoch_us({value})" if kind == "date" else value


def _nothing(kind: AttributeKind) -> str:
    return f"NULL::{'BIGINT' if kind == 'date' else SQL_TYPES[kind]}"


def _count(opened: duckdb.DuckDBPyConnection, relation: str, column: str) -> int:
    row = opened.execute(f"SELECT count({quoted(column)}) FROM {relation}").fetchone()
    return int(row[0]) if row else 0
