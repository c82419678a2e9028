"""Trailing counts of the log's events: the inputs of ``trailing_counts.sql``, and its rows after those of a previous build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidkit.core.engine import literal, quoted, set_variables
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.keys import entity_sql
from sidkit.tables.log import Log

_SQL = Path(__file__).parent / "trailing_counts.sql"


def read_events(opened: SqlConnection, log: Log, before: Mapping[str, Any] | None, only: str = "true") -> None:
    """Create the views ``events`` (up to ``as_of``) and ``new_events`` (added or removed since the last build), of those for
    which the condition ``only`` holds.
    """
    columns = "user_id, item_id, epoch_us(timestamp) AS ts_us, label, converted"
    bounded = "epoch_us(timestamp) + getvariable('delay_us') <= getvariable('as_of_us')"
    bounded += "" if only == "true" else f" AND {only}"
    changed = log.since(before["log"]) if before else log.parts
    for view, files in (("events", log.parts), ("new_events", changed)):
        listed = ", ".join(map(literal, files or log.parts))
        where = bounded if files else "false"
        opened.execute(
            f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT {columns} FROM read_parquet([{listed}]) WHERE {where}"
        )


def next_window_us(before: Mapping[str, Any] | None, delay_us: int, cadence_us: int) -> int:
    """First window end after those of the previous build, microseconds UTC."""
    return ((before["as_of_us"] - delay_us) // cadence_us + 1) * cadence_us if before else 0


def count_events(
    opened: SqlConnection,
    keys: Sequence[str],
    old: str | None,
    restart_us: int,
    events: tuple[str, str],
    *,
    conversions: bool,
    short_windows: bool = True,
) -> None:
    """Create the view ``trailing_counts`` of all rows that are new since the previous build.

    Parameters
    ----------
    opened : SqlConnection
        Connection with the variables ``delay_us``, ``cadence_us`` and ``as_of_us`` (microseconds).
    keys : sequence of str
        Key columns of the events and of the table.
    old : str or None
        Relation of the previous table's rows, with the keys.
    restart_us : int
        First window end to compute, microseconds UTC, of entities whose past did not change; 0 computes all rows.
    events : tuple of str
        Relations with the keys, ``ts_us``, ``label`` and ``converted``: all events, and those added or removed since then.
    conversions : bool
        Whether the table has conversions.
    short_windows : bool
        Whether changes of the counts of 1d and 7d have rows; without them, those counts are wrong.
    """
    set_variables(opened, {"default_restart_us": restart_us, "short_windows": short_windows})
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
        f"exposures_all, clicks_all, {converted} FROM {old}"
        if old
        else "SELECT entity_id, NULL::BIGINT AS window_end_us, NULL::BIGINT AS exposures_all, "
        "NULL::BIGINT AS clicks_all, NULL::BIGINT AS conversions_all FROM restart WHERE false"
    )
    opened.execute(f"CREATE OR REPLACE TEMP VIEW previous AS {previous}")
    opened.execute(_SQL.read_text(encoding="utf-8"))


def merge_by_restart(new: str, key: Sequence[str], old: str | None, columns: Sequence[str]) -> str:
    """SQL for the rows of the relation ``old`` before each key's restart time, and new rows after it; ``_fresh`` marks these.

    Parameters
    ----------
    new : str
        SQL query of the new rows.
    key : sequence of str
        Key columns.
    old : str or None
        Relation of the previous table's rows.
    columns : sequence of str
        The columns of both.
    """
    listed = ", ".join(map(quoted, columns))
    preserved = (
        f"SELECT {listed}, false AS _fresh FROM {old} AS old "
        f"LEFT JOIN restart ON restart.entity_id = {entity_sql(key, 'old')} "
        "WHERE epoch_us(event_timestamp) - getvariable('delay_us') < coalesce(restart_us, getvariable('default_restart_us')) "
        "UNION ALL "
        if old
        else ""
    )
    return f"{preserved}SELECT {listed}, true AS _fresh FROM ({new})"
