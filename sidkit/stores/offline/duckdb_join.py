"""The as-of join in DuckDB, for feature tables that do not fit in memory or that only DuckDB can read.

DuckDB respects its memory limit and spills to disk.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from sidkit.core.engine import quoted
from sidkit.stores.offline.plan import AT, ROW, ViewPlan, ViewRows

_ID = "__id"


def look_up(
    opened: duckdb.DuckDBPyConnection, plan: ViewPlan, rows: pa.Table, *, filter_by_created: bool = False
) -> ViewRows:
    """Find the feature row of each entity row, and read the distinct ones.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        A connection of :func:`sidkit.core.engine.connection`.
    plan : ViewPlan
        Plan of the view.
    rows : pyarrow.Table
        Table from :func:`entity_rows`.
    filter_by_created : bool
        Use only feature rows created by the entity row's time.
    """
    source = plan.source()
    opened.register("entity_rows", rows)
    try:
        opened.execute(f"CREATE OR REPLACE TEMP TABLE candidates AS {_candidates(plan, source, filter_by_created)}")
        matched = opened.execute(_join(plan)).to_arrow_table()
        opened.execute("DROP TABLE candidates")
    finally:
        opened.unregister("entity_rows")
    ids = np.full(len(rows), -1, dtype=np.int64)
    ids[matched[ROW].to_numpy()] = matched[_ID].to_numpy()
    seen = np.unique(ids[ids >= 0])
    opened.register("seen", pa.table({_ID: seen}))
    try:
        features = "".join(f", {quoted(column)} AS {quoted(name)}" for column, name in plan.features)
        table = opened.execute(
            f"SELECT {_ID}{features} FROM ({source}) SEMI JOIN seen USING ({_ID}) ORDER BY {_ID}"
        ).to_arrow_table()
    finally:
        opened.unregister("seen")
    index = np.where(ids >= 0, np.searchsorted(seen, ids), -1)
    return ViewRows(plan.name, index, table.drop_columns([_ID]))


def _candidates(plan: ViewPlan, source: str, filter_by_created: bool) -> str:
    """SQL for feature rows by key and the time from which they can win, one row per key and time."""
    keys = [quoted(column) for column, _ in plan.keys]
    moment = _micros(plan.timestamp)
    created = _micros(plan.created) if plan.created else "NULL::BIGINT"
    by_key = f"PARTITION BY {', '.join(keys)}" if keys else ""
    by_key_and = f"PARTITION BY {', '.join([*keys, 'at_us'])}"
    present = " AND ".join([*(f"{key} IS NOT NULL" for key in keys), "at_us IS NOT NULL"])
    listed = "".join(f"{key}, " for key in keys)
    rows = f"SELECT {listed}{moment} AS at_us, {created} AS created_us, {_ID} FROM ({source})"
    if not (filter_by_created and plan.created):
        return f"""
            SELECT {listed}at_us, at_us AS event_us, {_ID} FROM ({rows}) WHERE {present}
            QUALIFY row_number() OVER ({by_key_and} ORDER BY created_us DESC NULLS LAST, {_ID} DESC) = 1
        """
    # With the created cut-off a row can win only from the later of its two times on. The winner is the best of all rows that
    # exist by then, so each time carries the best row so far.
    better = "struct_pack(event_us := event_us, created_us := created_us, id := " + _ID + ")"
    return f"""
        SELECT {listed}at_us, best.event_us AS event_us, best.id AS {_ID} FROM (
            SELECT {listed}at_us, {_ID}, max({better}) OVER (
                {by_key} ORDER BY at_us RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS best
            FROM (
                SELECT {listed}at_us AS event_us, created_us, greatest(at_us, created_us) AS at_us, {_ID}
                FROM ({rows}) WHERE {present} AND created_us IS NOT NULL
            )
        )
        QUALIFY row_number() OVER ({by_key_and} ORDER BY {_ID} DESC) = 1
    """


def _join(plan: ViewPlan) -> str:
    equal = [f"entity_rows.{quoted(row)} = candidates.{quoted(column)}" for column, row in plan.keys]
    conditions = " AND ".join([*equal, f"entity_rows.{AT} >= candidates.at_us"])
    alive = f"WHERE candidates.event_us >= entity_rows.{AT} - {plan.ttl_us}" if plan.ttl_us else ""
    return f"""
        SELECT entity_rows.{ROW} AS {ROW}, candidates.{_ID} AS {_ID}
        FROM (SELECT * FROM entity_rows WHERE {AT} IS NOT NULL) AS entity_rows
        ASOF JOIN candidates ON {conditions} {alive}
    """


def _micros(column: str) -> str:
    return f"epoch_us({quoted(column)}::TIMESTAMPTZ)"
