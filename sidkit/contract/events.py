"""Interactions: the event key, the rules for rejecting rows, and the merging of duplicate rows of an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sidkit.core.clock import FIRST_EVENT_US
from sidkit.core.config import Settings
from sidkit.core.engine import literal, quoted

LOG_TYPES = {
    "user_id": "VARCHAR",
    "item_id": "VARCHAR",
    "timestamp": "TIMESTAMPTZ",
    "label": "TINYINT",
    "request_id": "VARCHAR",
    "position": "INTEGER",
    "converted": "TINYINT",
    "query": "VARCHAR",
    "rating": "FLOAT",
}
"""Columns of every validated log with DuckDB's names of their types; columns missing from the source are null. Columns of
``[features.context]`` follow them (:func:`sidkit.contract.context.log_types`)."""

EVENT_KEY = ("user_id", "item_id", "timestamp", "request_id", "position")
"""The columns that identify an event (nulls are equal). All other columns may be corrected later."""

COPY = "an exact copy of another row"
UNKNOWN_ITEM = "the item is not in the catalogue"
IN_1970 = "timestamp is in 1970 (an unset clock or a wrong unit)"


def after_now(column: str) -> str:
    """Rejection reason of a row with a time in the future."""
    return f"{column} is in the future"


def first_events(staged: Path, now_us: int) -> str:
    """SQL for (item_id, first_seen, log_end) of the staged interactions with plausible times."""
    return (
        f"SELECT item_id, min(timestamp) AS first_seen, max(max(timestamp)) OVER () AS log_end "
        f"FROM read_parquet({literal(staged)}) "
        f"WHERE reason IS NULL AND epoch_us(timestamp) BETWEEN {FIRST_EVENT_US} AND {now_us} GROUP BY item_id"
    )


def undated(column: str, columns: Sequence[str]) -> str:
    """SQL for the creation time of a staged item joined to ``seen`` (:func:`first_events`): its own, or its first event.

    If no item has a creation time, it is the first event or the first version, whichever comes first; an item without
    either counts as created at the end of the log, since the source has it by then.
    """
    version = "min(updated_at) OVER (PARTITION BY staged.item_id)" if "updated_at" in columns else "NULL::TIMESTAMPTZ"
    none = f"(SELECT count({column}) FROM staged) = 0"
    return (
        f"CASE WHEN {none} THEN coalesce(least(first_seen, {version}), max(log_end) OVER ()) "
        f"ELSE coalesce({column}, first_seen) END"
    )


def classify_interactions(
    columns: Sequence[str],
    settings: Settings,
    work: Path,
    now_us: int,
    context: Mapping[str, str],
    catalogue: Sequence[Path] = (),
) -> str:
    """SQL for the staged interactions with a rejection reason per row, or null.

    ``context`` maps the columns of ``[features.context]`` to SQL for their values. ``catalogue`` are further files with the
    ids of known items, besides the valid items in ``work``.
    """
    known_items = " UNION ALL ".join(
        f"SELECT item_id FROM read_parquet({literal(path)})"
        for path in (work / "items.parquet", *catalogue)
        if path.exists()
    )
    listed = ", ".join([*(name for name in LOG_TYPES if name in columns), *map(quoted, context)])
    known = (
        f"WHEN item_id NOT IN ({known_items}) THEN {literal(UNKNOWN_ITEM)}"
        if settings.source.unknown_items == "reject"
        else ""
    )
    typed = ", ".join(
        f"{name if name in columns else 'NULL'}::{LOG_TYPES[name]} AS {name}"
        for name in LOG_TYPES
        if name not in {"label", "converted", "position"}
    )
    flags = ", ".join(
        # A rejected row preserves the original value; valid rows become TINYINT when they are written.
        f"{name if name in columns else 'NULL'}::DOUBLE AS {name}"
        for name in ("label", "converted", "position")
    )
    carried = "".join(f", {value} AS {quoted(name)}" for name, value in context.items())
    return f"""
        WITH examined AS (
            SELECT * EXCLUDE (reason), CASE
                WHEN reason IS NOT NULL THEN reason
                WHEN epoch_us(timestamp) > {now_us} THEN {literal(after_now("timestamp"))}
                WHEN epoch_us(timestamp) < {FIRST_EVENT_US} THEN {literal(IN_1970)}
                {known}
            END AS reason FROM staged
        ), numbered AS (
            SELECT *, row_number() OVER (PARTITION BY reason IS NULL, {listed} ORDER BY file_row_number) AS nth
            FROM examined
        )
        SELECT {typed}, {flags}{carried}, CASE
            WHEN reason IS NOT NULL THEN reason
            WHEN nth > 1 THEN {literal(COPY)}
        END AS reason, file_row_number
        FROM numbered
    """


def one_row_per_event(relation: str, types: Mapping[str, str], order: str | None = None) -> str:
    """SQL that merges a relation to one row per event, with the columns and types of the log.

    Among rows with the same key a positive label and a conversion win; queries, ratings and context columns take the last
    known value in the order of the column ``order``, or the largest value without one.
    """
    last = f"arg_max({{0}}, {order})" if order else "max({0})"
    values = dict.fromkeys(EVENT_KEY, "{0}") | {"label": "max({0})", "converted": "max({0})"}
    chosen = ", ".join(
        f"{values.get(name, last).format(quoted(name))}::{kind} AS {quoted(name)}" for name, kind in types.items()
    )
    return f"SELECT {chosen} FROM {relation} GROUP BY {', '.join(EVENT_KEY)}"
