"""Inputs of ``trailing_counts.sql``: the events of entities, and from where on their rows are computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from sidkit.core.engine import literal, set_variables
from sidkit.tables.keys import entity_sql

_SQL = Path(__file__).parent / "trailing_counts.sql"


def count_events(
    opened: duckdb.DuckDBPyConnection,
    keys: Sequence[str],
    old: Path | None,
    restart_us: int,
    events: tuple[str, str],
    *,
    conversions: bool,
) -> None:
    """Create the table ``trailing_counts`` of all rows that are new since the previous build.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Connection with the variables ``delay_us``, ``cadence_us`` and ``as_of_us`` (microseconds).
    keys : sequence of str
        Key columns of the events and of the table.
    old : Path or None
        The previous table.
    restart_us : int
        First window end to compute, microseconds UTC, of entities whose past did not change; 0 computes all rows.
    events : tuple of str
        Relations with the keys, ``ts_us``, ``label`` and ``converted``: all events, and those added or removed since then.
    conversions : bool
        Whether the table has conversions.
    """
    set_variables(opened, {"default_restart_us": restart_us})
    entity = entity_sql(keys)
    opened.execute(f"""
        CREATE OR REPLACE TEMP VIEW entity_events AS
        SELECT {entity} AS entity_id, ts_us, 1 AS exposures, label AS clicks, coalesce(converted, 0) AS conversions
        FROM {events[0]}
    """)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE restart AS
        SELECT {entity} AS entity_id,
               (min(ts_us) + getvariable('cadence_us') - 1) // getvariable('cadence_us') * getvariable('cadence_us')
                   AS restart_us
        FROM {events[1]} GROUP BY 1
        HAVING restart_us < getvariable('default_restart_us')
    """)
    converted = "conversions_all" if conversions else "NULL::BIGINT AS conversions_all"
    previous = (
        f"SELECT {entity} AS entity_id, epoch_us(event_timestamp) - getvariable('delay_us') AS window_end_us, "
        f"exposures_all, clicks_all, {converted} FROM read_parquet({literal(old)})"
        if old
        else "SELECT entity_id, NULL::BIGINT AS window_end_us, NULL::BIGINT AS exposures_all, "
        "NULL::BIGINT AS clicks_all, NULL::BIGINT AS conversions_all FROM restart WHERE false"
    )
    opened.execute(f"CREATE OR REPLACE TEMP VIEW previous AS {previous}")
    opened.execute(_SQL.read_text(encoding="utf-8"))
