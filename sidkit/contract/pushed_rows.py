"""Validation of pushed rows: events and new items that arrive while the service runs, checked like those of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from sidkit.contract.attribute_values import Shape
from sidkit.contract.column_names import check_columns
from sidkit.contract.context import further_columns, log_types, read_context
from sidkit.contract.events import COPY, after_now, classify_interactions, one_row_per_event
from sidkit.contract.rows import REASON, normalise
from sidkit.contract.schemas import INTERACTIONS, ITEMS, Table, with_modalities
from sidkit.core.config import NO_VECTORS, Settings
from sidkit.core.engine import literal, quoted
from sidkit.core.errors import TableSchemaError

POSITIVES_ONLY = 'label is 0, but source.feedback is "positives_only"'
EXISTS = "the item exists already, with other values"


@dataclass(frozen=True)
class RejectedRow:
    """A rejected row: its position, counted from 0, and the reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class CheckedRows:
    """Valid rows in the types of the log, and the rejected ones; ``duplicates`` counts rows that repeat another."""

    valid: pa.Table
    rejected: tuple[RejectedRow, ...]
    duplicates: int = 0


@dataclass(frozen=True)
class CheckedItems:
    """Valid items and their vectors, each of them with equally many rows or fewer."""

    items: pa.Table
    vectors: pa.Table | None
    rejected: tuple[RejectedRow, ...]
    duplicates: int = 0


def check_events(
    opened: duckdb.DuckDBPyConnection,
    rows: pa.Table,
    settings: Settings,
    items: Path,
    shapes: Mapping[str, Shape],
    now_us: int,
) -> CheckedRows:
    """Check events like the rows of ``interactions`` in a source.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        A connection of :func:`sidkit.core.engine.connection`.
    rows : pyarrow.Table
        Columns of ``interactions`` by the contract's names; context columns may be missing.
    settings : Settings
        Settings of the repository.
    items : Path
        The log's items, the catalogue.
    shapes : mapping
        Shapes of context columns from the last ingest.
    now_us : int
        Current time, microseconds UTC: later events are rejected.

    Raises
    ------
    TableSchemaError
        When a required column is missing, or a column has a type that cannot be converted.
    """
    context = settings.features.context
    known = [name for name in rows.column_names if INTERACTIONS.column(name) or name in further_columns(context)]
    unknown = sorted(set(rows.column_names) - set(known))
    if unknown:
        raise TableSchemaError(
            INTERACTIONS.name,
            f"expected columns of the log ({', '.join(log_types(context))}), got {', '.join(unknown)}; leave them out, or "
            "declare them in [features.context]",
        )
    check_columns(rows.column_names, INTERACTIONS)
    for name in further_columns(context):
        if name not in known:
            rows = rows.append_column(name, pa.nulls(len(rows)))
    staged = _staged(rows, INTERACTIONS)
    opened.register("pushed_rows", staged)
    opened.execute("CREATE OR REPLACE TEMP VIEW staged AS SELECT * FROM pushed_rows")
    columns = read_context(opened, "staged", context, shapes)
    values = {name: column.sql(name) for name, column in columns.items()}
    query = classify_interactions(staged.column_names, settings, items.parent / "none", now_us, values, (items,))
    opened.execute(f"CREATE OR REPLACE TEMP TABLE classified AS {query}")
    if settings.source.feedback == "positives_only":
        opened.execute(
            f"UPDATE classified SET reason = {literal(POSITIVES_ONLY)} WHERE reason IS NULL AND label IS DISTINCT FROM 1"
        )
    types = log_types(context)
    valid = opened.execute(
        one_row_per_event("(SELECT * FROM classified WHERE reason IS NULL)", types, "file_row_number")
    ).to_arrow_table()
    rejected, _ = _rejected(opened)
    opened.execute("DROP TABLE classified; DROP VIEW staged")
    opened.unregister("pushed_rows")
    return CheckedRows(valid, rejected, len(rows) - len(rejected) - len(valid))


def check_items(
    opened: duckdb.DuckDBPyConnection, rows: pa.Table, settings: Settings, items: Path, vectors: Path, now_us: int
) -> CheckedItems:
    """Check new items like the rows of ``items`` and ``item_embeddings`` in a source.

    An item that exists with the same values is a duplicate; with other values it is rejected, unless the log's items have
    ``updated_at`` and the row is a newer version.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        A connection of :func:`sidkit.core.engine.connection`.
    rows : pyarrow.Table
        Columns of ``items`` and the vector columns, by the contract's names.
    settings : Settings
        Settings of the repository.
    items, vectors : Path
        The log's items and vectors; their columns and types are those of the result.
    now_us : int
        Current time, microseconds UTC.

    Raises
    ------
    TableSchemaError
        When a required column is missing, a column is unknown, or one has a type that cannot be converted.
    """
    modalities = [name for name in settings.source.modalities if name in rows.column_names]
    stored = {name: _types(opened, path) for name, path in (("items", items), ("vectors", vectors))}
    own = [name for name in rows.column_names if name not in modalities]
    unknown = sorted(set(own) - set(stored["items"]))
    if unknown:
        raise TableSchemaError(
            ITEMS.name,
            f"expected columns of the log's items ({', '.join([*stored['items'], *settings.source.modalities])}), got "
            f"{', '.join(unknown)}; leave them out, or add them to the source and run `sidkit data ingest`",
        )
    check_columns(own, ITEMS)
    staged = _staged(rows.select(own), ITEMS)
    if modalities:
        embeddings = with_modalities(tuple(modalities))
        of_vectors = _staged(rows.select(["item_id", *modalities]), embeddings)
        reasons = [a or b for a, b in zip(*(each[REASON].to_pylist() for each in (staged, of_vectors)), strict=True)]
        staged = staged.set_column(staged.column_names.index(REASON), REASON, pa.array(reasons, pa.string()))
        for name in modalities:
            staged = staged.append_column(name, of_vectors[name])
    opened.register("pushed_rows", staged)
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE classified AS {_classify_items(opened, staged, stored, vectors, now_us)}"
    )
    version = "coalesce(updated_at, created_at)" if "updated_at" in stored["items"] else "TIMESTAMPTZ 'epoch'"
    compared = [name for name in own if name != "item_id"]
    same = " AND ".join(f"new.{quoted(name)} IS NOT DISTINCT FROM old.{quoted(name)}" for name in compared)
    opened.execute(f"""
        UPDATE classified AS new SET reason = CASE WHEN {same or "true"} THEN {literal(COPY)} ELSE {literal(EXISTS)} END
        FROM (SELECT *, {version} AS _version FROM read_parquet({literal(items)})) AS old
        WHERE new.reason IS NULL AND new.item_id = old.item_id AND new._version = old._version
    """)
    listed = ", ".join(map(quoted, own))
    found = opened.execute(
        f"SELECT {listed} FROM classified WHERE reason IS NULL ORDER BY file_row_number"
    ).to_arrow_table()
    given = None
    if modalities:
        updated = ", updated_at" if "updated_at" in stored["vectors"] and "updated_at" in own else ""
        any_vector = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in modalities)
        given = opened.execute(
            f"SELECT item_id, {', '.join(map(quoted, modalities))}{updated} FROM classified "
            f"WHERE reason IS NULL AND ({any_vector}) ORDER BY file_row_number"
        ).to_arrow_table()
    elif not settings.source.modalities:
        given = opened.execute(
            f"SELECT DISTINCT item_id, [0.0]::FLOAT[] AS {NO_VECTORS} FROM classified WHERE reason IS NULL ORDER BY item_id"
        ).to_arrow_table()
    rejected, copies = _rejected(opened)
    opened.execute("DROP TABLE classified")
    opened.unregister("pushed_rows")
    return CheckedItems(found, given, rejected, copies)


def _classify_items(
    opened: duckdb.DuckDBPyConnection,
    staged: pa.Table,
    stored: Mapping[str, Mapping[str, str]],
    vectors: Path,
    now_us: int,
) -> str:
    """SQL for the staged items in the types of the log, with a rejection reason per row, or null."""
    columns = [name for name in staged.column_names if name not in {REASON, "file_row_number"}]
    of_items, of_vectors = stored["items"], stored["vectors"]
    kinds = {name: of_items.get(name) or of_vectors[name] for name in columns}
    typed = ", ".join(f"TRY_CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in kinds.items())
    checks = [
        "WHEN created_at IS NULL THEN 'created_at is missing'",
        f"WHEN epoch_us(created_at) > {now_us} THEN {literal(after_now('created_at'))}",
    ]
    if "updated_at" in columns:
        checks.append(f"WHEN epoch_us(updated_at) > {now_us} THEN {literal(after_now('updated_at'))}")
        checks.append("WHEN updated_at < created_at THEN 'updated_at is before created_at'")
    if "removed_at" in columns:
        checks.append("WHEN removed_at < created_at THEN 'removed_at is before created_at'")
    for name, kind in kinds.items():
        checks.append(
            f"WHEN {quoted(name)} IS NOT NULL AND TRY_CAST({quoted(name)} AS {kind}) IS NULL "
            f"THEN {literal(f'{name} does not fit its column in the log, {kind}')}"
        )
    for name in (name for name in columns if name not in of_items):
        width = opened.execute(
            f"SELECT len({quoted(name)}) FROM read_parquet({literal(vectors)}) WHERE {quoted(name)} IS NOT NULL LIMIT 1"
        ).fetchone()
        if width:
            wrong = f"format('{name} has {{}} elements, the column has {width[0]}', len({quoted(name)}))"
            checks.append(f"WHEN len({quoted(name)}) <> {width[0]} THEN {wrong}")
    updated = "coalesce(updated_at, created_at)" if "updated_at" in columns else "created_at"
    version = updated if "updated_at" in of_items else "TIMESTAMPTZ 'epoch'"
    return f"""
        WITH checked AS (
            SELECT * EXCLUDE (reason), CASE WHEN reason IS NOT NULL THEN reason {" ".join(checks)} END AS reason
            FROM pushed_rows
        ), numbered AS (
            SELECT *, {version} AS _version,
                   row_number() OVER (PARTITION BY reason IS NULL, item_id, {version} ORDER BY file_row_number) AS nth
            FROM checked
        )
        SELECT {typed}, _version, file_row_number, CASE
            WHEN reason IS NOT NULL THEN reason WHEN nth > 1 THEN 'a second row of this item'
        END AS reason
        FROM numbered
    """


def _staged(rows: pa.Table, table: Table) -> pa.Table:
    """Rows in the contract's types with a rejection reason and their number."""
    batches = rows.combine_chunks().to_batches()
    parts = [normalise(batch, table) for batch in batches]
    staged = pa.concat_tables(parts, promote_options="permissive") if parts else _empty(table)
    return staged.append_column("file_row_number", pa.array(range(len(staged)), pa.int64()))


def _empty(table: Table) -> pa.Table:
    names = [column.name for column in table.columns if column.required]
    return normalise(pa.RecordBatch.from_pylist([], pa.schema([(name, pa.null()) for name in names])), table)


def _rejected(opened: duckdb.DuckDBPyConnection) -> tuple[tuple[RejectedRow, ...], int]:
    """The rejected rows, and the number of exact copies, which are no errors."""
    rows: Sequence[tuple[int, str]] = opened.execute(
        f"SELECT file_row_number, reason FROM classified WHERE reason IS NOT NULL AND reason <> {literal(COPY)} ORDER BY 1"
    ).fetchall()
    copies = opened.execute(f"SELECT count(*) FROM classified WHERE reason = {literal(COPY)}").fetchone()
    return tuple(RejectedRow(*row) for row in rows), int(copies[0]) if copies else 0


def _types(opened: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    described = opened.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(path)})").fetchall()
    return {row[0]: row[1] for row in described}
