"""Writing of the files of the feature tables, sorted by time and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow.parquet as pq

from sidkit.core.engine import literal, quoted
from sidkit.core.integrity import MANIFEST, replaced
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.content import ContentVectors
from sidkit.tables.keys import key_columns


def write_first(
    opened: SqlConnection, name: str, path: Path, merged: str, vectors: ContentVectors | None = None
) -> int:
    """Write a table that does not exist yet, without a copy of its rows in memory or on disk; return their number.

    ``vectors`` is where those of rows of ``merged`` lie, if they refer to them.
    """
    try:
        _copy(opened, name, path, f"({merged})", vectors)
    except duckdb.OutOfMemoryException:  # computing the rows and sorting them one after the other needs less
        opened.execute(f"CREATE OR REPLACE TEMP TABLE written AS {merged}")
        _copy(opened, name, path, "written", vectors)
        opened.execute("DROP TABLE written")
    return int(pq.read_metadata(path).num_rows)


def write_table(
    opened: SqlConnection,
    name: str,
    path: Path,
    before: dict[str, Any] | None,
    vectors: ContentVectors | None = None,
) -> tuple[int, int]:
    """Write the relation ``written`` if it differs from the table; return its number of rows and of new rows.

    ``vectors`` is where those of its rows lie, if they refer to them.
    """
    counts = opened.execute("SELECT count(*), count(*) FILTER (_fresh) FROM written").fetchone() or (0, 0)
    if before is None or counts[1] or counts[0] != before["rows"].get(name):
        _copy(opened, name, path, "written", vectors)
    opened.execute("DROP TABLE written")
    return int(counts[0]), int(counts[1])


def _copy(opened: SqlConnection, name: str, path: Path, relation: str, vectors: ContentVectors | None) -> None:
    """Write the rows of a relation in the order of a table."""
    order = ", ".join(map(quoted, key_columns(name)))
    with replaced(path, path.parent / MANIFEST) as temporary:
        if vectors is not None:
            query, by = f"SELECT * EXCLUDE (_fresh) FROM {relation}", f"event_timestamp, {order}"
            with vectors.ordered(cast(duckdb.DuckDBPyConnection, opened), query, by) as rows:
                rows.write(temporary)
            return
        opened.execute(
            f"COPY (SELECT * EXCLUDE (_fresh) FROM {relation} ORDER BY event_timestamp, {order}) "
            f"TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
