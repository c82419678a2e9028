"""Rows that left the feature tables: an online store may hold them, and no older row would replace them there.

``data/tables/withdrawn.parquet`` lists them (``view``, ``key``, ``event_us`` microseconds UTC) from the build that dropped
them until they were taken out of the online store.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from sidkit.core.engine import literal
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import remove
from sidkit.core.integrity import checked, hashes_of, replaced, say_discarded, write_sealed

_FILE = "withdrawn.parquet"


@dataclass(frozen=True)
class Withdrawn:
    """The rows of one view that left its table: keys, and the event time of each in microseconds UTC."""

    keys: list[str]
    events_us: list[int]


def withdraw(opened: duckdb.DuckDBPyConnection, tables: Path, view: str, key: str, old_rows: str) -> None:
    """Note the rows of ``old_rows`` (SQL) that the relation ``written``, the view's next table, no longer has."""
    gone = (
        f"SELECT {literal(view)} AS view, {key} AS key, epoch_us(event_timestamp) AS event_us "
        f"FROM ({old_rows}) AS old ANTI JOIN written USING ({key}, event_timestamp)"
    )
    opened.execute(f"CREATE OR REPLACE TEMP TABLE withdrawn AS {gone}")
    counted = opened.execute("SELECT count(*) FROM withdrawn").fetchone()
    if not counted or not counted[0]:
        return
    path = tables / _FILE
    if _is_there(path):
        opened.execute(f"INSERT INTO withdrawn SELECT view, key, event_us FROM read_parquet({literal(path)})")
    _write(opened, "(SELECT DISTINCT * FROM withdrawn ORDER BY ALL)", path)


def read_withdrawn(tables: Path, view: str) -> Withdrawn:
    """The rows of a view that are to be taken out of the online store."""
    path = tables / _FILE
    if not _is_there(path):
        return Withdrawn([], [])
    with duckdb.connect() as opened:
        rows = opened.execute(
            "SELECT key, event_us FROM read_parquet($path) WHERE view = $view ORDER BY ALL",
            {"path": str(path), "view": view},
        ).fetchall()
    return Withdrawn([key for key, _ in rows], [event_us for _, event_us in rows])


def forget_withdrawn(tables: Path, views: list[str]) -> None:
    """Forget the rows of these views: they are in the online store no more."""
    path = tables / _FILE
    if not _is_there(path):
        return
    listed = ", ".join(map(literal, views))
    with duckdb.connect() as opened:
        opened.execute(
            f"CREATE TEMP TABLE kept AS SELECT * FROM read_parquet({literal(path)}) WHERE NOT view IN ({listed})"
        )
        counted = opened.execute("SELECT count(*) FROM kept").fetchone()
        if counted and counted[0]:
            _write(opened, "kept", path)
        else:
            _remove(path)


def _is_there(path: Path) -> bool:
    """Whether there is a list; a damaged one is discarded: what it listed stays in the online store until it changes."""
    if not path.exists():
        return False
    try:
        checked(path)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        _remove(path)
        return False
    return True


def _write(opened: duckdb.DuckDBPyConnection, relation: str, path: Path) -> None:
    with replaced(path, path.with_suffix(".json")) as temporary:
        opened.execute(f"COPY {relation} TO {literal(temporary)} (FORMAT parquet)")
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})


def _remove(path: Path) -> None:
    remove(path.with_suffix(".json"))
    remove(path)
