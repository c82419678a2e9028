"""Writing of the files of the feature tables, sorted by time and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from sidkit.core.engine import literal, quoted
from sidkit.core.integrity import MANIFEST, replaced
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.keys import key_columns


def write_first(opened: SqlConnection, name: str, path: Path, merged: str) -> int:
    """Write a table that does not exist yet, without a copy of its rows in memory or on disk; return their number."""
    try:
        _copy(opened, name, path, f"({merged})")
    except duckdb.OutOfMemoryException:  # computing the rows and sorting them one after the other needs less
        opened.execute(f"CREATE OR REPLACE TEMP TABLE written AS {merged}")
        _copy(opened, name, path, "written")
        opened.execute("DROP TABLE written")
    return int(pq.read_metadata(path).num_rows)


def write_table(opened: SqlConnection, name: str, path: Path, before: dict[str, Any] | None) -> tuple[int, int]:
    """Write the relation ``written`` if it differs from the table; return its number of rows and of new rows."""
    counts = opened.execute("SELECT count(*), count(*) FILTER (_fresh) FROM written").fetchone() or (0, 0)
    if before is None or counts[1] or counts[0] != before["rows"].get(name):
        _copy(opened, name, path, "written")
    opened.execute("DROP TABLE written")
    return int(counts[0]), int(counts[1])


def _copy(opened: SqlConnection, name: str, path: Path, relation: str) -> None:
    """Write the rows of a relation in the order of a table."""
    order = ", ".join(map(quoted, key_columns(name)))
    with replaced(path, path.parent / MANIFEST) as temporary:
        opened.execute(
            f"COPY (SELECT * EXCLUDE (_fresh) FROM {relation} ORDER BY event_timestamp, {order}) "
            f"TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
