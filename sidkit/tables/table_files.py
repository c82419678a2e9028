"""Writing of the files of the feature tables, sorted by time and key."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import duckdb
import pyarrow.parquet as pq

from sidkit.core.engine import into, literal, memory_bytes, quoted
from sidkit.core.integrity import MANIFEST, replaced
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.content import ContentVectors
from sidkit.tables.keys import key_columns

_EVENT_BYTES = 150
"""Memory to compute the rows of one event: 10 million need no more than 1,500 MB, 100 million more than 3,000 MB."""
_MOST_PARTS = 256


def write_all(
    opened: SqlConnection,
    name: str,
    path: Path,
    rows_of: Callable[[str], str],
    parts: int,
    spill: Path,
    vectors: ContentVectors | None = None,
    manifest: Path | None = None,
    replacing: Callable[[str], None] | None = None,
) -> int:
    """Write a table of new rows alone, without a copy of them in memory; return their number.

    Parameters
    ----------
    opened : SqlConnection
        Of DuckDB.
    name : str
        The table.
    path : Path
        Its file, which is replaced.
    rows_of : callable
        The query of the rows of the keys for which a condition holds, of all with ``"true"``.
    parts : int
        The rows are computed in so many parts by a hash of their first key, and more if memory does not suffice; 0 if they
        can only be computed together.
    spill : Path
        Folder for the parts.
    vectors : ContentVectors, optional
        Where the vectors of the rows lie, if they refer to them.
    manifest : Path, optional
        The manifest that lists the file; default: that of the tables.
    replacing : callable, optional
        Called with the relation of the new rows before they replace the file.
    """

    def compute(temporary: Path, parts: int) -> None:
        try:
            if parts > 1:
                _copy_parts(opened, name, temporary, rows_of, parts, spill)
            else:
                _copy(opened, name, temporary, f"({rows_of('true')})", vectors)
        except duckdb.OutOfMemoryException:
            if parts >= _MOST_PARTS:
                raise
            if parts:
                compute(temporary, 4 * parts)
                return
            # To compute the rows and to sort them, one after the other, needs less.
            opened.execute(f"CREATE OR REPLACE TEMP TABLE written AS {rows_of('true')}")
            _copy(opened, name, temporary, "written", vectors)
            opened.execute("DROP TABLE written")

    with replaced(path, manifest or path.parent / MANIFEST) as temporary:
        compute(temporary, parts)
        if replacing is not None:
            replacing(f"read_parquet({literal(temporary)})")
    return int(pq.read_metadata(path).num_rows)


def parts_of(events: int, memory_limit: str) -> int:
    """The parts in which the rows of a table are computed from so many events, ``parts`` of :func:`write_all`."""
    return max(1, -(-events * _EVENT_BYTES // memory_bytes(memory_limit)))


def conditions_of(key: str, parts: int) -> list[str]:
    """Conditions on a key column, each true for the keys of one part."""
    return [f"hash({quoted(key)}) % {parts} = {part}" for part in range(parts)] if parts > 1 else ["true"]


def _copy_parts(
    opened: SqlConnection, name: str, path: Path, rows_of: Callable[[str], str], parts: int, spill: Path
) -> None:
    """Write the rows of each part in any order, then sort them all."""
    with tempfile.TemporaryDirectory(dir=spill, prefix="parts-") as folder:
        for part, only in enumerate(conditions_of(key_columns(name)[0], parts)):
            opened.execute(f"COPY ({rows_of(only)}) {into(Path(folder) / f'{part}.parquet', 'snappy')}")
        _copy(opened, name, path, f"read_parquet({literal(Path(folder) / '*.parquet')})", None)


def write_table(
    opened: SqlConnection,
    name: str,
    path: Path,
    rows_before: int | None,
    vectors: ContentVectors | None = None,
    manifest: Path | None = None,
) -> tuple[int, int]:
    """Write the relation ``written`` if it differs from the table; return its number of rows and of new rows.

    ``rows_before`` is the table's number of rows, None if all are written; the others are those of :func:`write_all`.
    """
    counts = opened.execute("SELECT count(*), count(*) FILTER (_fresh) FROM written").fetchone() or (0, 0)
    if counts[1] or counts[0] != rows_before:
        with replaced(path, manifest or path.parent / MANIFEST) as temporary:
            _copy(opened, name, temporary, "written", vectors)
    opened.execute("DROP TABLE written")
    return int(counts[0]), int(counts[1])


def _copy(opened: SqlConnection, name: str, path: Path, relation: str, vectors: ContentVectors | None) -> None:
    """Write the rows of a relation into a new file, in the order of a table."""
    order = ", ".join(map(quoted, key_columns(name)))
    if vectors is not None:
        query, by = f"SELECT * EXCLUDE (_fresh) FROM {relation}", f"event_timestamp, {order}"
        with vectors.ordered(cast(duckdb.DuckDBPyConnection, opened), query, by) as rows:
            rows.write(path)
        return
    opened.execute(f"COPY (SELECT * EXCLUDE (_fresh) FROM {relation} ORDER BY event_timestamp, {order}) {into(path)}")
