"""From the queue to the log: pushed events become parts of the log, pushed items join its snapshots.

An event is its key (:data:`sidkit.contract.events.EVENT_KEY`): pushed again, it changes nothing, unless it has become a
positive or a conversion, or has a value that was unknown. The manifest is written before the queue's files are removed, so a
killed step is repeated without effect.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract.context import log_types
from sidkit.contract.events import EVENT_KEY, one_row_per_event
from sidkit.core.engine import connection, literal, quoted, working_on
from sidkit.core.errors import ArtifactMissingError
from sidkit.core.files import remove
from sidkit.core.forgotten import Forgotten, read_forgotten
from sidkit.core.repo import Repo
from sidkit.tables.log import FORMAT, PARTS, ingests_of, listed_files, read_log, unlisted_files, write_log
from sidkit.tables.log_changes import (
    EVENTS,
    SOURCE,
    agree,
    names_of,
    origin_of,
    write_added,
    write_removed,
    write_without_removed,
)
from sidkit.tables.origins import OVERRIDDEN, folded, merged_columns, overridden_snapshot
from sidkit.tables.pushed_items import add_items
from sidkit.tables.queue import EVENTS as QUEUED_EVENTS
from sidkit.tables.queue import ITEMS, VECTORS, dequeue, queued
from sidkit.tables.snapshots import snapshot_path

_UNLISTED_SECONDS = 3600
"""How long files that left the log stay for readers that opened its manifest before."""


@dataclass(frozen=True)
class Absorbed:
    """What pushed rows changed in the log: new and changed events, events that it had already, and new items."""

    new: int = 0
    changed: int = 0
    duplicates: int = 0
    items: int = 0


def absorb(repo: Repo) -> Absorbed:
    """Move the queued rows to the log. Hold the repository's lock.

    Raises
    ------
    ArtifactMissingError
        When there is no log, or it was written by an older release and needs an ingest first.
    ArtifactCorruptError
        When a file of the log is missing or damaged.
    """
    files = {kind: queued(repo, kind) for kind in (QUEUED_EVENTS, ITEMS, VECTORS)}
    if not files[ITEMS]:
        files[VECTORS] = []  # those of items that are being pushed
    if not any(files.values()):
        return Absorbed()
    before = read_log(repo).manifest
    if before.get("format") != FORMAT:
        raise ArtifactMissingError(
            f"expected a log of this release, got an older one; run `sidkit data ingest --repo {repo.path}`"
        )
    manifest, work = dict(before), repo.data / "tmp" / "absorb"
    remove(work)
    work.mkdir(parents=True)
    try:
        with connection(repo.settings.engine, repo.data / "tmp" / "duckdb", shared=True) as opened:
            number, items = ingests_of(before), 0
            if files[ITEMS]:
                given = {"items": files[ITEMS], "item_embeddings": files[VECTORS]}
                snapshots, items = add_items(opened, repo.log, before["snapshots"], given, number, work)
                manifest |= {"snapshots": snapshots, "ingests": number + bool(items)}
            counts = _absorb_events(opened, repo, manifest, files[QUEUED_EVENTS]) if files[QUEUED_EVENTS] else (0, 0, 0)
    finally:
        remove(work)
    if manifest != before:
        write_log(repo, manifest)
        _remove_unlisted_later(repo.log, before, manifest)
    dequeue(repo, [path for each in files.values() for path in each])
    return Absorbed(*counts, items)


@working_on("adding pushed events to the log")
def _absorb_events(
    opened: duckdb.DuckDBPyConnection, repo: Repo, manifest: dict[str, Any], files: Sequence[Path]
) -> tuple[int, int, int]:
    """Change the manifest; return the numbers of new, of changed and of known events."""
    types = log_types(manifest.get("context", {}))
    folder, number = repo.log / PARTS, ingests_of(manifest)
    _read_pushed(opened, files, types, read_forgotten(repo.path))
    _read_known(opened, folder, manifest["parts"], types)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE merged AS
        SELECT {merged_columns(types, "known", "pushed")}, known._origin
        FROM known JOIN pushed ON {agree("known", "pushed", EVENT_KEY)} WHERE known._origin = {literal(SOURCE)}
        UNION ALL
        SELECT {merged_columns(types, "pushed", "known")}, known._origin
        FROM known JOIN pushed ON {agree("known", "pushed", EVENT_KEY)} WHERE known._origin = {literal(EVENTS)};
        CREATE OR REPLACE TEMP TABLE changed AS
        SELECT merged.* FROM merged ANTI JOIN known ON {agree("merged", "known", types)};
        CREATE OR REPLACE TEMP TABLE removed AS
        SELECT known.* EXCLUDE (_origin), 'replaced' AS cause
        FROM known SEMI JOIN changed ON {agree("known", "changed", EVENT_KEY)}
    """)
    new = _count(opened, f"pushed ANTI JOIN known ON {agree('pushed', 'known', EVENT_KEY)}")
    changed, pushed = _count(opened, "changed"), _count(opened, "pushed")
    if not new and not changed:
        return 0, 0, pushed
    parts = folded(opened, folder, manifest["parts"], number, "part")
    removed = folded(opened, folder, manifest.get("removed", []), number, "removed")
    columns = names_of(types)
    if changed:
        taken_out = write_removed(opened, folder / f"removed-{number:05d}.parquet")
        parts = write_without_removed(opened, folder, parts, number, types)
        removed += [taken_out] if taken_out else []
        manifest["snapshots"] = {**manifest["snapshots"], **_overridden(opened, repo, manifest, types)}
    corrected = f"SELECT {columns} FROM changed WHERE _origin"
    if changed:
        opened.execute(f"CREATE OR REPLACE TEMP VIEW added AS {corrected} = {literal(SOURCE)}")
        parts += filter(None, [write_added(opened, folder / f"part-{number:05d}.parquet")])
    opened.execute(
        f"CREATE OR REPLACE TEMP VIEW added AS {corrected} = {literal(EVENTS)} UNION ALL "
        f"SELECT {columns} FROM pushed ANTI JOIN known ON {agree('pushed', 'known', EVENT_KEY)}"
    )
    parts += filter(None, [write_added(opened, folder / f"part-{number + 1:05d}.parquet", EVENTS)])
    manifest |= {"parts": parts, "removed": removed, "ingests": number + 2}
    return new, changed, pushed - new - changed


def _read_pushed(
    opened: duckdb.DuckDBPyConnection, files: Sequence[Path], types: Mapping[str, str], forgotten: Forgotten | None
) -> None:
    """Create the table ``pushed``: one row per event, the last known values of those that were pushed several times.

    Users who were forgotten after their events were queued are left out.
    """
    source = f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true, filename = true, file_row_number = true)"
    present = {row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    columns = ", ".join(
        f"{quoted(name) if name in present else 'NULL'}::{kind} AS {quoted(name)}" for name, kind in types.items()
    )
    rows = f"(SELECT {columns}, row_number() OVER (ORDER BY filename, file_row_number) AS _order FROM {source})"
    opened.execute(f"CREATE OR REPLACE TEMP TABLE pushed AS {one_row_per_event(rows, types, '_order')}")
    if forgotten is not None:
        users = opened.execute("SELECT DISTINCT user_id FROM pushed").to_arrow_table().column(0).combine_chunks()
        for user in users.filter(forgotten.among(users)).to_pylist():
            opened.execute("DELETE FROM pushed WHERE user_id = ?", [user])


def _read_known(
    opened: duckdb.DuckDBPyConnection, folder: Path, parts: Sequence[Mapping[str, Any]], types: Mapping[str, str]
) -> None:
    """Create the table ``known``: rows of the log of the same events, with the origin of their part."""
    first, last = opened.execute("SELECT min(timestamp), max(timestamp) FROM pushed").fetchone() or (None, None)
    opened.execute(f"CREATE OR REPLACE TEMP TABLE known AS SELECT {names_of(types)}, '' AS _origin FROM pushed LIMIT 0")
    for origin in (SOURCE, EVENTS):
        files = [folder / part["file"] for part in parts if origin_of(part) == origin]
        if files:
            listed = ", ".join(map(literal, files))
            opened.execute(
                f"INSERT INTO known SELECT part.*, {literal(origin)} FROM (SELECT {names_of(types)} FROM "
                f"read_parquet([{listed}]) WHERE timestamp BETWEEN $first AND $last) AS part "
                f"SEMI JOIN pushed ON {agree('part', 'pushed', EVENT_KEY)}",
                {"first": first, "last": last},
            )


def _overridden(
    opened: duckdb.DuckDBPyConnection, repo: Repo, manifest: dict[str, Any], types: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The snapshot of the source's rows that the log no longer has as they are, with those that a push changes now."""
    path = snapshot_path(repo.log, manifest, OVERRIDDEN)
    own = f"SELECT {names_of(types)} FROM known WHERE _origin = {literal(SOURCE)}"
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE replaced AS SELECT held.* FROM ({own}) AS held "
        f"SEMI JOIN changed ON {agree('held', 'changed', EVENT_KEY)}"
    )
    query = "SELECT * FROM replaced"
    if path:
        before = f"read_parquet({literal(path)})"
        query = (
            f"SELECT replaced.* FROM replaced ANTI JOIN {before} AS earlier ON {agree('replaced', 'earlier', EVENT_KEY)} "
            f"UNION ALL BY NAME SELECT * FROM {before}"
        )
    opened.execute(f"CREATE OR REPLACE TEMP TABLE overridden AS {query}")
    return overridden_snapshot(opened, repo.log, manifest["snapshots"].get(OVERRIDDEN), ingests_of(manifest))


def _remove_unlisted_later(folder: Path, before: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Remove files that left the log an hour ago: a push every second must not take a file from a job that reads it."""
    for name in set(listed_files(before)) - set(listed_files(manifest)):
        with contextlib.suppress(OSError):
            os.utime(folder / name)  # when it left the log
    now = time.time()
    for file in unlisted_files(folder, manifest):
        if now - file.stat().st_mtime > _UNLISTED_SECONDS:
            remove(file)


def _count(opened: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = opened.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0
