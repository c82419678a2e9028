"""Validation of a source: single rows are checked per chunk, whole tables in SQL; rejected rows get a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.contract.attribute_values import Shape
from sidkit.contract.context import context_facts, log_types, read_context
from sidkit.contract.events import after_now, classify_interactions, first_events, one_row_per_event, undated
from sidkit.contract.placeholders import write_placeholders
from sidkit.contract.report import TableReport, with_forgotten
from sidkit.contract.row_remedies import row_remedy
from sidkit.contract.rows import REASON
from sidkit.contract.schemas import INTERACTIONS, ITEMS, USERS, WITH_ATTRIBUTES, Table, with_modalities
from sidkit.contract.shares import with_shares
from sidkit.contract.source import Source
from sidkit.contract.staging import LeftOut, stage
from sidkit.contract.units import refuse_wrong_units
from sidkit.contract.users import classify_users
from sidkit.core.clock import present_us
from sidkit.core.config import Settings
from sidkit.core.engine import literal, quoted, working_on
from sidkit.core.errors import ContractError, RejectedRowsError, TableSchemaError
from sidkit.core.files import written_beside
from sidkit.core.forgotten import Forgotten
from sidkit.core.ordered_rows import OrderedRows
from sidkit.core.sql_connection import columns_of
from sidkit.core.wide_rows import REFERENCE, reference, wide_columns


@dataclass(frozen=True)
class ValidatedTables:
    """Paths of the validated tables (Parquet; None for a missing optional table) and one report per table."""

    interactions: Path
    items: Path
    embeddings: Path
    reports: tuple[TableReport, ...]
    users: Path | None = None
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Context column -> shape of its values, to be reused by later ingests."""


def validate(
    source: Source,
    settings: Settings,
    opened: duckdb.DuckDBPyConnection,
    work: Path,
    rejects: Path | None,
    report: Callable[[Sequence[TableReport]], None] = lambda _: None,
    now_us: int | None = None,
    shapes: Mapping[str, Shape] | None = None,
    forgotten: Forgotten | None = None,
    catalogue: Sequence[Path] = (),
) -> ValidatedTables:
    """Read and validate a source, and split it into valid and rejected rows.

    Parameters
    ----------
    source : Source
        Source of the tables.
    settings : Settings
        Settings; ``[source]`` determines how strict the validation is.
    opened : duckdb.DuckDBPyConnection
        A connection of :func:`sidkit.core.engine.connection`.
    work : Path
        Folder for the staged and the valid tables.
    rejects : Path or None
        Folder for ``<table>.parquet`` with the rejected rows and their ``reason``; None only counts them.
    report : callable
        Called with the table reports before any error is raised.
    now_us : int, optional
        Current time, microseconds UTC: rows with a later ``timestamp``, ``created_at`` or ``updated_at`` are rejected.
        ``removed_at`` may be in the future.
    shapes : mapping, optional
        Shapes of context columns from an earlier ingest.
    forgotten : Forgotten, optional
        Users whose rows are left out, and counted in ``forgotten`` of the reports; they are not rejected either.
    catalogue : sequence of Path
        Files with ids of items that the source may lack, since they were pushed.

    Raises
    ------
    ContractError
        When a table is rejected as a whole, or more rows are rejected than ``max_reject_share`` allows. The rejected rows
        are written before.
    """
    work.mkdir(parents=True, exist_ok=True)
    now = present_us() if now_us is None else now_us
    embeddings = with_modalities(settings.source.modalities)
    has_users = source.has(USERS.name)
    vectors = [embeddings] if settings.source.modalities else []
    left_out = {table.name: LeftOut(forgotten) for table in (INTERACTIONS, USERS)}
    staged = {
        table.name: stage(
            source,
            table,
            settings.engine.chunk_rows,
            work / f"staged-{table.name}.parquet",
            settings.features.context if table is INTERACTIONS else (),
            left_out.get(table.name),
        )
        for table in (ITEMS, *vectors, INTERACTIONS, *([USERS] if has_users else []))
    }
    reports = []
    try:
        staged_events = f"read_parquet({literal(staged[INTERACTIONS.name])})"
        context = read_context(opened, staged_events, settings.features.context, shapes or {})
        types = log_types(settings.features.context)
        values = {name: column.sql(name) for name, column in context.items()}
        steps: list[tuple[Table, Callable[[Sequence[str], Settings, Path, int], str]]] = [
            (ITEMS, _classify_items),
            *((table, _classify_embeddings) for table in vectors),
            (INTERACTIONS, partial(classify_interactions, context=values, catalogue=catalogue)),
            *([(USERS, classify_users)] if has_users else []),
        ]
        for table, classify in steps:
            schema = pq.read_schema(staged[table.name])
            columns = schema.names
            wide = wide_columns(schema) if table is not INTERACTIONS else []
            lengths = ", ".join(f"len({quoted(name)}) AS {quoted(name)}" for name in wide)
            opened.execute(
                f"CREATE OR REPLACE TEMP VIEW staged AS SELECT * {f'REPLACE ({lengths})' if wide else ''} FROM "
                f"read_parquet({literal(staged[table.name])}, file_row_number = true)"
            )
            refuse_wrong_units(opened, table, source.columns(table.name), now)
            query = classify(columns, settings, work, now)
            with working_on(f"checking the table {table.name}"):
                kinds = {name: schema.field(name).type for name in wide}
                checked = _split(opened, table, query, staged[table.name], kinds, work, rejects, types)
            if table is INTERACTIONS:
                checked = replace(checked, facts={**checked.facts, **context_facts(opened, staged_events, context)})
            ignored = sorted(set(source.columns(table.name)) - set(columns)) if table in WITH_ATTRIBUTES else []
            if ignored:
                checked = replace(checked, facts={**checked.facts, "ignored columns": ", ".join(ignored)})
            if table.name in left_out and left_out[table.name].rows:
                checked = with_forgotten(checked, left_out[table.name].rows)
            checked = replace(checked, facts={**checked.facts, **source.facts(table.name)})
            checked = replace(checked, columns=source.uses(table.name, columns))
            reports.append(checked)
        if not settings.source.modalities:
            write_placeholders(opened, work)
        reports = with_shares(opened, reports, work, settings)
        report(reports)
        _check_shares(reports, settings)
        _check_feedback(opened, work, settings)
    finally:
        for file in staged.values():
            file.unlink(missing_ok=True)
    return ValidatedTables(
        interactions=work / "interactions.parquet",
        items=work / "items.parquet",
        embeddings=work / "item_embeddings.parquet",
        reports=tuple(reports),
        users=work / "users.parquet" if has_users else None,
        shapes={name: column.shape for name, column in context.items() if column.shape},
    )


def _classify_items(columns: Sequence[str], settings: Settings, work: Path, now_us: int) -> str:
    fallback = settings.source.missing_created_at == "first_interaction"
    optional = {name: name if name in columns else "NULL::TIMESTAMPTZ" for name in ("updated_at", "removed_at")}
    key = ["item_id", "coalesce(updated_at, created_at)"] if "updated_at" in columns else ["item_id"]
    seen = (
        f"({first_events(work / 'staged-interactions.parquet', now_us)})"
        if fallback
        else "(SELECT NULL::VARCHAR AS item_id)"
    )
    attributes = ", ".join(quoted(name) for name in columns if name not in {REASON, "created_at", "item_id"})
    return f"""
        WITH dated AS (
            SELECT staged.item_id, {undated("created_at", columns) if fallback else "created_at"} AS created_at,
                   {attributes + "," if attributes else ""} reason, file_row_number
            FROM staged LEFT JOIN {seen} AS seen ON seen.item_id = staged.item_id
        ), checked AS (
            SELECT * EXCLUDE (reason), CASE
                WHEN reason IS NOT NULL THEN reason
                WHEN created_at IS NULL THEN 'created_at is missing'
                WHEN epoch_us(created_at) > {now_us} THEN {literal(after_now("created_at"))}
                WHEN epoch_us({optional["updated_at"]}) > {now_us} THEN {literal(after_now("updated_at"))}
                WHEN {optional["updated_at"]} < created_at THEN 'updated_at is before created_at'
                WHEN {optional["removed_at"]} < created_at THEN 'removed_at is before created_at'
            END AS reason FROM dated
        ), numbered AS (
            SELECT *, row_number() OVER (PARTITION BY reason IS NULL, {", ".join(key)} ORDER BY file_row_number) AS nth
            FROM checked
        )
        SELECT * EXCLUDE (reason, nth, file_row_number), CASE
            WHEN reason IS NOT NULL THEN reason
            WHEN nth > 1 THEN 'a second row of this item{" and updated_at" if len(key) > 1 else ""}'
        END AS reason, file_row_number
        FROM numbered
    """


def _classify_embeddings(columns: Sequence[str], settings: Settings, work: Path, now_us: int) -> str:
    dated = "updated_at" in columns
    key = "item_id, updated_at" if dated else "item_id"
    future = f"WHEN epoch_us(updated_at) > {now_us} THEN {literal(after_now('updated_at'))}" if dated else ""
    modalities = settings.source.modalities
    widths = ", ".join(f"mode({quoted(name)}) FILTER (reason IS NULL) AS {quoted(name)}" for name in modalities)
    wrong = "\n".join(
        f"""WHEN numbered.{quoted(name)} <> widths.{quoted(name)}
            THEN format('{name} has {{}} elements, the column has {{}}', numbered.{quoted(name)},
                        widths.{quoted(name)})"""
        for name in modalities
    )
    return f"""
        WITH known AS (
            SELECT * EXCLUDE (reason), CASE
                WHEN reason IS NOT NULL THEN reason
                {future}
                WHEN item_id NOT IN (SELECT item_id FROM read_parquet({literal(work / "items.parquet")}))
                    THEN 'the item is not in the catalogue'
            END AS reason FROM staged
        ), widths AS (SELECT {widths} FROM known), measured AS (
            SELECT numbered.* EXCLUDE (reason), CASE
                WHEN reason IS NOT NULL THEN reason
                {wrong}
            END AS reason FROM known AS numbered, widths
        ), numbered AS (
            SELECT *, row_number() OVER (PARTITION BY reason IS NULL, {key} ORDER BY file_row_number) AS nth FROM measured
        )
        SELECT * EXCLUDE (reason, nth, file_row_number), CASE
            WHEN reason IS NOT NULL THEN reason
            WHEN nth > 1 THEN 'a second row of this {"item and updated_at" if dated else "item"}'
        END AS reason, file_row_number
        FROM numbered
    """


def _split(
    opened: duckdb.DuckDBPyConnection,
    table: Table,
    query: str,
    staged: Path,
    wide: Mapping[str, pa.DataType],
    work: Path,
    rejects: Path | None,
    types: Mapping[str, str],
) -> TableReport:
    """Write the valid and the rejected rows. ``wide`` columns are in ``staged`` only; ``query`` has their lengths."""
    valid = work / f"{table.name}.parquet"
    opened.execute(f"CREATE OR REPLACE TEMP TABLE classified AS {query}")
    reasons = dict(
        opened.execute(
            "SELECT reason, count(*) FROM classified WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, 1"
        ).fetchall()
    )
    counted = opened.execute("SELECT count(*) FROM classified").fetchone()
    rows = int(counted[0]) if counted else 0
    columns = {
        name: wide.get(name) for name in columns_of(opened, "SELECT * EXCLUDE (file_row_number) FROM classified")
    }
    left_out = f"* EXCLUDE ({', '.join(map(quoted, wide))})" if wide else "*"
    referred = f"SELECT {left_out}, {reference(0)} AS {REFERENCE} FROM classified"
    if rejects is not None:
        query = f"{referred} WHERE reason IS NOT NULL"
        with (
            written_beside(rejects / f"{table.name}.parquet") as temporary,
            OrderedRows(opened, query, "file_row_number", columns, [staged], work) as rejected_rows,
        ):
            rejected_rows.write(temporary, "snappy")
    del columns[REASON]
    if table is INTERACTIONS:
        query = one_row_per_event("(SELECT * FROM classified WHERE reason IS NULL)", types, "file_row_number")
        order = "timestamp, user_id, item_id, request_id NULLS FIRST, position NULLS FIRST"
        columns = dict.fromkeys(columns_of(opened, query))
    else:
        query = f"{referred} WHERE reason IS NULL"
        order = f"{'user_id' if table is USERS else 'item_id'}, file_row_number"
    with (
        written_beside(valid) as temporary,
        OrderedRows(opened, query, order, columns, [staged], work) as valid_rows,
    ):
        valid_rows.write(temporary)
    facts = _facts(opened, table, valid)
    future_us = _earliest_future(opened, table)
    opened.execute("DROP TABLE classified")
    rejected = sum(reasons.values())
    merged = rows - rejected - pq.read_metadata(valid).num_rows
    return TableReport(table.name, rows, rejected, reasons, facts, merged, future_us)


def _earliest_future(opened: duckdb.DuckDBPyConnection, table: Table) -> int | None:
    present = {row[0] for row in opened.execute("DESCRIBE classified").fetchall()}
    times = [column.name for column in table.columns if column.kind == "moment" and column.name in present]
    cases = " ".join(f"WHEN {literal(after_now(name))} THEN epoch_us({quoted(name)})" for name in times)
    row = opened.execute(f"SELECT min(CASE reason {cases} END) FROM classified").fetchone() if times else None
    return int(row[0]) if row and row[0] is not None else None


def _facts(opened: duckdb.DuckDBPyConnection, table: Table, valid: Path) -> dict[str, str]:
    if table is INTERACTIONS:
        query = """
            SELECT count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items, avg(label) AS positive_share,
                   min(timestamp)::VARCHAR AS first, max(timestamp)::VARCHAR AS last,
                   nullif(count(DISTINCT request_id), 0) AS requests, sum(converted)::BIGINT AS conversions"""
    elif table is ITEMS:
        query = """
            SELECT count(DISTINCT item_id) AS items, min(created_at)::VARCHAR AS first_created,
                   max(created_at)::VARCHAR AS last_created"""
    elif table is USERS:
        query = "SELECT count(DISTINCT user_id) AS users"
    else:
        vectors = [column.name for column in table.columns if column.kind == "vector"]
        query = "SELECT " + ", ".join(f"max(len({quoted(name)})) AS {quoted(f'{name} width')}" for name in vectors)
    result = opened.execute(f"{query} FROM read_parquet({literal(valid)})")
    names = [column[0].replace("_", " ") for column in result.description or []]
    values = result.fetchone() or ()
    return {name: _shown(name, value) for name, value in zip(names, values, strict=True) if value is not None}


def _shown(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _check_shares(reports: list[TableReport], settings: Settings) -> None:
    limit = settings.source.max_reject_share
    for report in reports:
        if not report.rows:  # all of them are rows of forgotten users
            if report.table == INTERACTIONS.name:
                raise ContractError(
                    report.table,
                    f"expected rows of users who are not forgotten, got only {report.forgotten:,} of forgotten ones; delete "
                    "the repository, or add rows of others to the source",
                )
            continue
        if report.valid == 0 or report.rejected / report.rows > limit:
            reason, count = next(iter(report.reasons.items()))
            line = row_remedy(reason, count / report.rows)
            raise RejectedRowsError(
                report.table,
                report.rejected,
                report.rows,
                limit,
                report.reasons,
                f"for example: {line}" if line else "",
            )


def _check_feedback(opened: duckdb.DuckDBPyConnection, work: Path, settings: Settings) -> None:
    interactions = f"read_parquet({literal(work / 'interactions.parquet')})"
    embeddings = f"read_parquet({literal(work / 'item_embeddings.parquet')})"
    for name in settings.source.modalities:
        if not _one(opened, f"SELECT count({quoted(name)}) FROM {embeddings}"):
            raise TableSchemaError(
                "item_embeddings",
                f"expected vectors in modality {name!r}, got none; fill it, or remove it from source.modalities",
            )
    positives = _one(opened, f"SELECT count(*) FILTER (label = 1) FROM {interactions}")
    negatives = _one(opened, f"SELECT count(*) FILTER (label = 0) FROM {interactions}")
    if not positives:
        raise ContractError(
            "interactions", "expected rows with label 1 (a click or other positive), got none; a ranker needs positives"
        )
    if settings.source.feedback == "positives_only" and negatives:
        raise ContractError(
            "interactions",
            f'expected no row with label 0, since source.feedback is "positives_only", got {negatives:,}; set it to '
            '"impressions" in a new repository (counts would change their meaning in this one)',
        )
    if settings.source.feedback == "impressions" and not negatives:
        raise ContractError(
            "interactions",
            'expected rows with label 0, since source.feedback is "impressions", got none; set it to "positives_only" in a '
            "new repository to sample negatives",
        )
    if settings.source.conversions and not _one(opened, f"SELECT count(converted) FROM {interactions}"):
        raise ContractError(
            "interactions", "expected values in 'converted' (source.conversions is true), got none; fill the column"
        )


def _one(opened: duckdb.DuckDBPyConnection, query: str) -> int:
    row = opened.execute(query).fetchone()
    return int(row[0]) if row else 0
