"""What the tables of a source hold of each other: shares of the catalogue, not of whatever rows happen to be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from sidkit.config import Settings
from sidkit.engine import literal, quoted

if TYPE_CHECKING:
    from sidkit.contract.validator import TableReport


def with_shares(
    opened: duckdb.DuckDBPyConnection, reports: Sequence[TableReport], work: Path, settings: Settings
) -> list[TableReport]:
    """The reports with the facts that only several tables together show.

    For the catalogue: how many of its items have events, and how many were created after all of their events, which are
    then items without content at the time of their clicks. For each modality: the share of the catalogue's items that have
    a vector. For the log: the share of events of items that have any vector.

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
    catalogue, with_events, late = opened.execute(f"""
        WITH born AS (SELECT item_id, min(created_at) AS created FROM {items} GROUP BY item_id),
        seen AS (SELECT item_id, max(timestamp) AS last FROM {events} GROUP BY item_id)
        SELECT count(*), count(last), count(*) FILTER (created > last) FROM born LEFT JOIN seen USING (item_id)
    """).fetchone() or (0, 0, 0)
    shares = {}
    for name in settings.source.modalities:
        having = opened.execute(
            f"SELECT count(DISTINCT item_id) FROM {vectors} WHERE {quoted(name)} IS NOT NULL"
        ).fetchone()
        share = having[0] / max(catalogue, 1) if having else 0.0
        shares[f"{name} share"] = f"{share:.1%} of the catalogue's items"
    any_vector = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in settings.source.modalities)
    covered = opened.execute(f"""
        SELECT avg((item_id IN (SELECT item_id FROM {vectors} WHERE {any_vector}))::INT) FROM {events}
    """).fetchone()
    of_items = {"items with events": f"{with_events:,}"}
    if late:
        of_items["created after all their events"] = (
            f"{late:,} items. Their content counts from created_at on, after their clicks: correct created_at, or leave it "
            'empty and set source.missing_created_at = "first_interaction"'
        )
    added = {
        "items": of_items,
        "item_embeddings": shares,
        "interactions": {"events of items with a vector": f"{covered[0]:.1%}"}
        if covered and covered[0] is not None
        else {},
    }
    return [replace(report, facts={**report.facts, **added[report.table]}) for report in reports]
