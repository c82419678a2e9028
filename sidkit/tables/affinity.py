"""The tables ``user_<attribute>_stats``: trailing counts per user and value of an item attribute (``features.affinity``).

An event counts for the value that serving could have read at the event's time: that of the row of ``item_attributes`` with the
newest event timestamp at or before it. An event of an item with several values counts once for each; one without a value
counts nowhere. For the attribute ``item_id``, an event counts for its item.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidkit.core.engine import literal, quoted
from sidkit.core.feature_settings import COUNTS, ITEM_ID, affinity_view
from sidkit.core.sql_connection import SqlConnection

EVENTS, NEW_EVENTS = "valued_events", "new_valued_events"


def affinity_tables(settings: Mapping[str, Any]) -> dict[str, str]:
    """The tables that ``FeatureSettings.table_settings`` define, each with its attribute."""
    return {affinity_view(attribute): attribute for attribute in settings.get("affinity", ())}


def read_valued_events(opened: SqlConnection, attribute: str, kind: str, attributes: Path) -> None:
    """Create the views ``valued_events`` and ``new_valued_events``: ``events`` and ``new_events`` with their items' values.

    Parameters
    ----------
    opened : SqlConnection
        Connection with both views of events.
    attribute : str
        Column of the attribute; its name in the views too.
    kind : str
        ``category`` or ``categories``; of no effect for ``item_id``.
    attributes : Path
        The table ``item_attributes``.
    """
    name = quoted(attribute)
    if attribute == ITEM_ID:
        for view, events in ((EVENTS, "events"), (NEW_EVENTS, "new_events")):
            opened.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM {events}")
        return
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE known_values AS
        SELECT item_id, epoch_us(event_timestamp) AS known_us, {name}
        FROM read_parquet({literal(attributes)}, file_row_number = true)
        QUALIFY row_number() OVER (PARTITION BY item_id, event_timestamp ORDER BY file_row_number DESC) = 1
    """)
    value = name if kind == "category" else f"unnest(list_distinct({name})) AS {name}"
    for view, events in ((EVENTS, "events"), (NEW_EVENTS, "new_events")):
        opened.execute(f"""
            CREATE OR REPLACE TEMP VIEW {view} AS
            SELECT user_id, ts_us, label, converted, {value}
            FROM {events} ASOF JOIN known_values
                ON {events}.item_id = known_values.item_id AND ts_us >= known_us
            WHERE {name} IS NOT NULL
        """)


def rows_query(attribute: str) -> str:
    """SQL for the rows of the table: those of ``user_stats.sql``, whose key is a user and a value here."""
    counts = (Path(__file__).parent / "user_stats.sql").read_text(encoding="utf-8")
    keys = f"struct_extract(user_id, '_0') AS user_id, struct_extract(user_id, '_1') AS {quoted(attribute)}"
    columns = ", ".join(("event_timestamp", "created_timestamp", *COUNTS))
    return f"SELECT {keys}, {columns} FROM ({counts})"


def has_late_rows(opened: SqlConnection, before: Mapping[str, Any]) -> bool:
    """Whether the relation ``written``, the new ``item_attributes``, has rows that the previous build would have had.

    They change the values of events that were counted already. The previous table may be lost to a killed build, so rows are
    counted: all of them were due by its as-of time.
    """
    row = opened.execute(
        "SELECT count(*) FROM written WHERE epoch_us(event_timestamp) <= $as_of_us", {"as_of_us": before["as_of_us"]}
    ).fetchone()
    return bool(row and row[0] > before["rows"]["item_attributes"])
