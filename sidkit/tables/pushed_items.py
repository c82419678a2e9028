"""Items that were pushed: they join the log's snapshots, and stay there when a later source lacks them.

The snapshot ``pushed_items`` has their ids, each with the number of the ingest or push that brought it, so that ticks know
which items are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from sidkit.core.engine import literal
from sidkit.core.files import sha256, written_beside
from sidkit.tables.log_changes import agree, mark_of, number_of
from sidkit.tables.origins import say_lost
from sidkit.tables.snapshots import merge_snapshot, snapshot_path

PUSHED_ITEMS = "pushed_items"
"""Name of the snapshot."""


def pushed_path(folder: Path, manifest: dict[str, Any] | None) -> Path | None:
    """File with the ids of pushed items; None if there is none."""
    path = snapshot_path(folder, manifest, PUSHED_ITEMS)
    return path if path and path.exists() else None


def add_items(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    snapshots: Mapping[str, dict[str, str]],
    given: Mapping[str, Sequence[Path]],
    number: int,
    work: Path,
) -> tuple[dict[str, dict[str, str]], int]:
    """Add items that the log does not have; those that it has stay as they are.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Any connection.
    folder : Path
        Folder of the log.
    snapshots : mapping
        Entries of the log's snapshots.
    given : mapping
        ``items`` and ``item_embeddings`` -> files with rows of that table.
    number : int
        Number of the push.
    work : Path
        An existing folder for a temporary file.

    Returns
    -------
    tuple
        Entries of the snapshots, and the number of item versions that are new.
    """
    added, new = dict(snapshots), 0
    for name in ("items", "item_embeddings"):
        if not given.get(name):
            continue
        stored = f"read_parquet({literal(folder / added[name]['file'])})"
        rows = f"read_parquet([{', '.join(map(literal, given[name]))}], union_by_name = true)"
        has, have = (
            {row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM {each}").fetchall()} for each in (stored, rows)
        )
        key = ["item_id", *(["updated_at"] if "updated_at" in has & have else [])]
        opened.execute(
            f"CREATE OR REPLACE TEMP TABLE fresh_rows AS SELECT fresh.* FROM (SELECT * FROM {rows} QUALIFY "
            f"row_number() OVER (PARTITION BY {', '.join(key)}) = 1) AS fresh "
            f"ANTI JOIN {stored} AS stored ON {agree('fresh', 'stored', key)}"
        )
        count = opened.execute("SELECT count(*) FROM fresh_rows").fetchone()
        if not count or not count[0]:
            continue
        opened.execute(f"COPY fresh_rows TO {literal(work / 'fresh.parquet')} (FORMAT parquet)")
        added[name] = merge_snapshot(opened, folder, name, work / "fresh.parquet", added[name], number)
        if name == "items":
            new = int(count[0])
            added[PUSHED_ITEMS] = _noted(opened, folder, added.get(PUSHED_ITEMS), number)
    return added, new


def _noted(
    opened: duckdb.DuckDBPyConnection, folder: Path, last: Mapping[str, str] | None, number: int
) -> dict[str, str]:
    """Write the next snapshot of ids: the earlier ones, and those of ``fresh_rows``."""
    query = f"SELECT DISTINCT item_id, {number} AS number FROM fresh_rows"
    if last:
        query = f"{query} UNION ALL SELECT item_id, number FROM read_parquet({literal(folder / last['file'])})"
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE noted AS SELECT item_id, max(number) AS number FROM ({query}) GROUP BY ALL"
    )
    path = folder / f"{PUSHED_ITEMS}-{number_of(dict(last)) + 1 if last else number:05d}.parquet"
    with written_beside(path) as temporary:
        opened.execute(f"COPY (SELECT * FROM noted ORDER BY ALL) TO {literal(temporary)} (FORMAT parquet)")
    return {"file": path.name, "mark": mark_of(opened, "noted")}


def keep_pushed_items(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    before: dict[str, Any],
    snapshots: dict[str, dict[str, str]],
    number: int,
    work: Path,
) -> dict[str, dict[str, str]]:
    """Add the pushed items of a log that is discarded, as far as its files are intact.

    Parameters
    ----------
    opened, folder, snapshots, number, work
        As in :func:`add_items`.
    before : dict
        Manifest of the log that is discarded.
    """
    pushed = pushed_path(folder, before)
    if pushed is None:
        return snapshots
    names = ("items", "item_embeddings", PUSHED_ITEMS)
    paths = {name: folder / before["snapshots"][name]["file"] for name in names}
    if any(not path.is_file() or sha256(path) != before["files"].get(path.name) for path in paths.values()):
        say_lost(pushed, "pushed items are lost")
        return snapshots
    given = {}
    for name in names[:2]:
        given[name] = [work / f"kept-{name}.parquet"]
        opened.execute(
            f"COPY (SELECT held.* FROM read_parquet({literal(paths[name])}) AS held "
            f"SEMI JOIN read_parquet({literal(pushed)}) AS ids ON held.item_id = ids.item_id) "
            f"TO {literal(given[name][0])} (FORMAT parquet)"
        )
    return add_items(opened, folder, snapshots, given, number, work)[0]
