"""What the tables of a source hold of each other: shares of the catalogue, not of whatever rows happen to be there."""

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
    """The reports with the facts that only several tables together show.

    For the catalogue: how many of its items have events, and how many were created after all of their events, which are
    then items without content at the time of their clicks (a warning). For each modality: the share of the catalogue's items
    that have a vector, and how many vectors are distinct or zero where not all tell items apart. For the log: the share of
    events of items that have any vector, and where there are such, events before their item was created, without a request
    among others with one, and positives of unknown conversion.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Any connection.
    reports : sequence of TableReport
        One per table of the valid tables in ``work``.
    work : Path
        The folder of the valid tables.
    settings : Settings
        ``source.modalities`` names the vector columns.
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
            f"{late:,} items were created after all of their events: their content counts from created_at on, so these events "
            "have none. Correct created_at, or leave it empty and set "
            'source.missing_created_at = "first_interaction" in sidkit.toml'
        )
    of_events = {}
    if early_events:
        of_events["before their item's created_at"] = _of(early_events, total, "the events")
    if 0 < no_request < total:
        of_events["without request_id"] = _of(no_request, total, "the events")
    if settings.source.conversions and unknown:
        of_events["positives of unknown conversion"] = f"{unknown:,}"
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


def _of(count: int, total: int, what: str) -> str:
    """A share that is 100.0% or 0.0% only where it is exactly that."""
    share = f"{count / total:.1%}" if total else "0.0%"
    if share == "100.0%" and count < total:
        share = "over 99.9%"
    if share == "0.0%" and count:
        share = "under 0.1%"
    return f"{share} of {what} ({count:,} of {total:,})"
