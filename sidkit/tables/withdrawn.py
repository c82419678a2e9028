"""Rows removed from the feature tables that the online store may still have, where no older row would replace them.

``data/tables/withdrawn.parquet`` lists them (``view``, ``key``, ``event_us`` microseconds UTC) from the build that removed
them until they are deleted from the online store. A key of several columns is a JSON array of their values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb

from sidkit.core.engine import literal, quoted
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import remove
from sidkit.core.integrity import checked, hashes_of, replaced, say_discarded, write_sealed
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.keys import key_columns

_FILE = "withdrawn.parquet"


@dataclass(frozen=True)
class Withdrawn:
    """Withdrawn rows of one view: keys, with one value per key column, and the event time of each in microseconds UTC."""

    keys: list[tuple[str, ...]]
    events_us: list[int]


def withdraw(opened: SqlConnection, tables: Path, view: str, old_rows: str, new: str = "written") -> None:
    """Record the rows of ``old_rows`` (SQL) that are missing from the relation ``new``, the view's new table."""
    columns = ", ".join(map(quoted, key_columns(view)))
    key = f"to_json([{columns}])::VARCHAR" if len(key_columns(view)) > 1 else columns
    missing = (
        f"SELECT {literal(view)} AS view, {key} AS key, epoch_us(event_timestamp) AS event_us "
        f"FROM ({old_rows}) AS old ANTI JOIN {new} USING ({columns}, event_timestamp)"
    )
    opened.execute(f"CREATE OR REPLACE TEMP TABLE withdrawn AS {missing}")
    counted = opened.execute("SELECT count(*) FROM withdrawn").fetchone()
    if not counted or not counted[0]:
        return
    path = tables / _FILE
    known = f"UNION SELECT view, key, event_us FROM read_parquet({literal(path)}) " if _is_intact(path) else ""
    _write(opened, f"(SELECT DISTINCT view, key, event_us FROM withdrawn {known}ORDER BY ALL)", path)


def read_withdrawn(tables: Path, view: str) -> Withdrawn:
    """Read the withdrawn rows of a view, which must be deleted from the online store."""
    path = tables / _FILE
    if not _is_intact(path):
        return Withdrawn([], [])
    with duckdb.connect() as opened:
        rows = opened.execute(
            "SELECT key, event_us FROM read_parquet($path) WHERE view = $view ORDER BY ALL",
            {"path": str(path), "view": view},
        ).fetchall()
    several = len(key_columns(view)) > 1
    return Withdrawn(
        [tuple(json.loads(key)) if several else (key,) for key, _ in rows], [event_us for _, event_us in rows]
    )


def forget_withdrawn(tables: Path, views: list[str]) -> None:
    """Clear the withdrawn rows of these views after they were deleted from the online store."""
    path = tables / _FILE
    if not _is_intact(path):
        return
    listed = ", ".join(map(literal, views))
    with duckdb.connect() as opened:
        opened.execute(
            f"CREATE TEMP TABLE remaining AS SELECT * FROM read_parquet({literal(path)}) WHERE NOT view IN ({listed})"
        )
        counted = opened.execute("SELECT count(*) FROM remaining").fetchone()
        if counted and counted[0]:
            _write(opened, "remaining", path)
        else:
            _remove(path)


def _is_intact(path: Path) -> bool:
    """Whether the list exists; a damaged one is discarded, and its rows stay online until they change."""
    if not path.exists():
        return False
    try:
        checked(path)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        _remove(path)
        return False
    return True


def _write(opened: SqlConnection, relation: str, path: Path) -> None:
    with replaced(path, path.with_suffix(".json")) as temporary:
        opened.execute(f"COPY {relation} TO {literal(temporary)} (FORMAT parquet)")
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})


def _remove(path: Path) -> None:
    remove(path.with_suffix(".json"))
    remove(path)
