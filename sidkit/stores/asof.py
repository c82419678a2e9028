"""Point-in-time joins as as-of joins: which feature row does each entity row see?

The answer of a join is an index per row into the feature rows that were seen at all. Wide features (lists) are then read
once per distinct feature row, and copied per row only where someone asks for a plain table.

Rules, as Feast's own stores have them where they agree: a feature row is seen from its event timestamp on, inclusive;
with a TTL until event timestamp + TTL, inclusive; the newest event timestamp wins, then the newest created timestamp (a
missing one loses), then the last row of the file; null features of the winning row stay null; with the
created-timestamp cut-off only rows created by the entity row's time take part; a null key or time sees nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.engine import quoted

Index = npt.NDArray[np.int64]

ROW = "__row"
AT = "__at_us"
_ID = "__id"


@dataclass(frozen=True)
class ViewPlan:
    """What one feature view contributes to a retrieval.

    ``source`` is SQL that reads the view's rows with a unique integer column ``__id`` that grows in file order.
    """

    name: str
    source: str
    keys: tuple[tuple[str, str], ...]  # (column of the source, column of the entity rows)
    timestamp: str
    created: str | None
    features: tuple[tuple[str, str], ...]  # (column of the source, column of the result)
    ttl_us: int | None


@dataclass(frozen=True)
class ViewRows:
    """The feature rows that one view gave to a set of entity rows.

    ``index`` is ``int64 [rows]`` into ``table``, -1 where the view had nothing; ``table`` holds each feature row that
    was seen once.
    """

    name: str
    index: Index
    table: pa.Table

    def plain(self) -> pa.Table:
        """The features as one row per entity row, null where the view had nothing."""
        taken = pa.array(self.index, mask=self.index < 0)
        columns = [_take(column, taken) for column in self.table.columns]
        return pa.table(columns, names=self.table.column_names)


def entity_rows(keys: dict[str, pa.Array | pa.ChunkedArray], at_us: pa.Array) -> pa.Table:
    """The narrow table that joins run on: key columns, time in microseconds UTC, row number."""
    return pa.table({**keys, AT: at_us, ROW: pa.array(np.arange(len(at_us), dtype=np.int64))})


def look_up(
    opened: duckdb.DuckDBPyConnection, plan: ViewPlan, rows: pa.Table, *, filter_by_created: bool = False
) -> ViewRows:
    """Find for each entity row the feature row that it sees, and read the distinct ones.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        A connection of :func:`sidkit.engine.connection`.
    plan : ViewPlan
        The view.
    rows : pyarrow.Table
        As :func:`entity_rows` makes it.
    filter_by_created : bool
        Also require that the feature row was created by the entity row's time.
    """
    opened.register("entity_rows", rows)
    try:
        opened.execute(f"CREATE OR REPLACE TEMP TABLE candidates AS {_candidates(plan, filter_by_created)}")
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
            f"SELECT {_ID}{features} FROM ({plan.source}) SEMI JOIN seen USING ({_ID}) ORDER BY {_ID}"
        ).to_arrow_table()
    finally:
        opened.unregister("seen")
    index = np.where(ids >= 0, np.searchsorted(seen, ids), -1)
    return ViewRows(plan.name, index, table.drop_columns([_ID]))


def _candidates(plan: ViewPlan, filter_by_created: bool) -> str:
    """Feature rows by key and the moment from which they can win: one row per key and moment."""
    keys = [quoted(column) for column, _ in plan.keys]
    moment = _micros(plan.timestamp)
    created = _micros(plan.created) if plan.created else "NULL::BIGINT"
    by_key = f"PARTITION BY {', '.join(keys)}" if keys else ""
    by_key_and = f"PARTITION BY {', '.join([*keys, 'at_us'])}"
    present = " AND ".join([*(f"{key} IS NOT NULL" for key in keys), "at_us IS NOT NULL"])
    listed = "".join(f"{key}, " for key in keys)
    rows = f"SELECT {listed}{moment} AS at_us, {created} AS created_us, {_ID} FROM ({plan.source})"
    if not (filter_by_created and plan.created):
        return f"""
            SELECT {listed}at_us, at_us AS event_us, {_ID} FROM ({rows}) WHERE {present}
            QUALIFY row_number() OVER ({by_key_and} ORDER BY created_us DESC NULLS LAST, {_ID} DESC) = 1
        """
    # With the cut-off a row can win only once it exists: from the later of its two times on. What wins from then on is
    # the best of all rows that exist by then, so each moment carries the best row so far.
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


def _take(column: pa.ChunkedArray, index: pa.Array) -> pa.ChunkedArray:
    """Take rows; lists are taken in slices so that no slice overflows Arrow's 32-bit list offsets."""
    if not pa.types.is_list(column.type) or len(index) == 0:
        return column.take(index)
    widest = max(int(pc.max(pc.list_value_length(column)).as_py() or 0), 1)
    step = max(1, (2**31 - 1) // widest)
    pieces: Sequence[pa.ChunkedArray] = [column.take(index.slice(start, step)) for start in range(0, len(index), step)]
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], type=column.type)
