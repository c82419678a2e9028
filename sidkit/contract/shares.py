"""Facts across the tables of a source, as shares of the catalogue's items or of the events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from sidkit.contract.report import TableReport
from sidkit.core.config import Settings
from sidkit.core.engine import literal, quoted, working_on


@working_on("comparing the tables of the source")
def with_shares(
    opened: duckdb.DuckDBPyConnection, reports: Sequence[TableReport], work: Path, settings: Settings
) -> list[TableReport]:
    """Add facts to the reports that need several tables.

    Catalogue: the number of items with events, and of items created after all of their events, which thus have no content
    at the time of their clicks (a warning). Each modality: the share of the catalogue's items with a vector, and the number
    of distinct and of zero vectors if not all vectors are distinct. Log: the share of events whose item has any vector and,
    where they exist, events before their item's creation, events without a request while others have one, and positives
    whose conversion is unknown.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Any connection.
    reports : sequence of TableReport
        One report per table.
    work : Path
        Folder of the valid tables.
    settings : Settings
        Settings with the vector columns in ``source.modalities``.
    """
    items, vectors, events = (
        f"read_parquet({literal(work / f'{name}.parquet')})" for name in ("items", "item_embeddings", "interactions")
    )
    catalogue, with_events, late, early_events = opened.execute(f"""
        WITH born AS (SELECT item_id, min(created_at) AS created FROM {items} GROUP BY item_id),
        seen AS (
            SELECT item_id, max(timestamp) AS last, count(*) FILTER (timestamp < created) AS early
            FROM {events} LEFT JOIN born USING (item_id) GROUP BY item_id
        )
        SELECT count(*), count(last), count(*) FILTER (created > last), coalesce(sum(early), 0)::BIGINT
        FROM born LEFT JOIN seen USING (item_id)
    """).fetchone() or (0, 0, 0, 0)
    total, no_request, unknown = opened.execute(f"""
        SELECT count(*), count(*) FILTER (request_id IS NULL), count(*) FILTER (label = 1 AND converted IS NULL) FROM {events}
    """).fetchone() or (0, 0, 0)
    of_items = {"items with events": _of(with_events, catalogue, "the catalogue's items")}
    warnings = []
    if late:
        of_items["created after all their events"] = _of(late, catalogue, "the catalogue's items")
        warnings.append(
            f"{late:,} items were created after all of their events: content is available from created_at on, so these events "
            "have none. Correct created_at, or leave it empty and set "
            'source.missing_created_at = "first_interaction" in sidkit.toml'
        )
    of_events = {}
    if early_events:
        of_events["before their item's created_at"] = _of(early_events, total, "the events")
    if 0 < no_request < total:
        of_events["without request_id"] = _of(no_request, total, "the events")
    if settings.source.conversions and unknown:
        of_events["positives with unknown conversion"] = f"{unknown:,}"
    if settings.source.modalities:
        any_vector = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in settings.source.modalities)
        covered = opened.execute(f"""
            SELECT count(*) FROM {events} WHERE item_id IN (SELECT item_id FROM {vectors} WHERE {any_vector})
        """).fetchone() or (0,)
        of_events["of items with a vector"] = _of(covered[0], total, "the events")
    added = {
        "items": of_items,
        "item_embeddings": _of_vectors(opened, vectors, catalogue, settings),
        "interactions": of_events,
    }
    if any(report.table == "users" for report in reports):
        users, described = opened.execute(f"""
            SELECT count(*), count(*) FILTER (user_id IN (SELECT user_id FROM read_parquet({literal(work / "users.parquet")})))
            FROM (SELECT DISTINCT user_id FROM {events})
        """).fetchone() or (0, 0)
        added["users"] = {"users with events": _of(described, users, "the log's users")}
    return [
        replace(
            report,
            facts={**report.facts, **added[report.table]},
            warnings=warnings if report.table == "items" else report.warnings,
        )
        for report in reports
    ]


def _of_vectors(opened: duckdb.DuckDBPyConnection, vectors: str, catalogue: int, settings: Settings) -> dict[str, str]:
    facts = {}
    for name in settings.source.modalities:
        column = quoted(name)
        items, rows, distinct, zero = opened.execute(f"""
            SELECT count(DISTINCT item_id), count(*), count(DISTINCT hash({column})),
                   count(*) FILTER (list_max({column}) = 0 AND list_min({column}) = 0)
            FROM {vectors} WHERE {column} IS NOT NULL
        """).fetchone() or (0, 0, 0, 0)
        facts[f"{name} share"] = _of(items, catalogue, "the catalogue's items")
        if distinct < rows:
            facts[f"{name} distinct"] = _of(distinct, rows, "the vectors")
        if zero:
            facts[f"{name} all zero"] = _of(zero, rows, "the vectors")
    return facts


def _of(count: int, total: int, of_what: str) -> str:
    """Format a share; 100.0% and 0.0% only if exact."""
    share = f"{count / total:.1%}" if total else "0.0%"
    if share == "100.0%" and count < total:
        share = "over 99.9%"
    if share == "0.0%" and count:
        share = "under 0.1%"
    return f"{share} of {of_what} ({count:,} of {total:,})"
