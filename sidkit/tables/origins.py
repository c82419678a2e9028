"""Events that were pushed before the source has them: how an ingest and the pushed rows become one row per event.

A part of the log has an origin. Parts of ``events`` have the pushed rows that the source does not have: they are not compared
with the source, so they do not vanish from it. When the source has such an event too, its row moves to a part of ``source``:
a positive label and a conversion win, other columns are those of the source where it has them. If that differs from the
source's row, the latter is noted in the snapshot ``overridden``, so that the same row of the source changes nothing later, and
another one replaces the event.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract.events import EVENT_KEY
from sidkit.core.engine import into, literal, quoted, working_on
from sidkit.core.files import sha256, written_beside
from sidkit.tables.log_changes import EVENTS, agree, mark_of, names_of, number_of, of_events, rows_of, write_part

OVERRIDDEN = "overridden"
"""Snapshot of the source's rows that differ from the log's because of a push."""
_POSITIVES = ("label", "converted")
_LEAST_PARTS = 16
"""Parts of pushed events that are left apart."""


@dataclass(frozen=True)
class Reconciled:
    """What an ingest compares with the log: ``valid`` rows, ``parts`` of the log, and rows that the source had before."""

    valid: Path
    parts: list[dict[str, Any]]


@working_on("comparing the source with pushed events")
def reconcile(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    parts: Sequence[dict[str, Any]],
    overridden: Path | None,
    valid: Path,
    types: Mapping[str, str],
    number: int,
) -> Reconciled:
    """Move pushed events that the source has to parts of the source, and merge their rows.

    Creates the relation ``overridden``: the rows of the source that differ from the log's because of a push.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Any connection.
    folder : Path
        Folder of the parts.
    parts : sequence of dict
        Entries of the parts.
    overridden : Path or None
        The last snapshot of that name.
    valid : Path
        File of the source's valid interactions, one row per event; the result is written beside it.
    types : mapping
        Columns of the log and of ``valid``, with their types.
    number : int
        Number of the ingest.
    """
    columns = names_of(types)
    pushed = [folder / part["file"] for part in parts if of_events(part)]
    opened.execute(f"CREATE OR REPLACE TEMP VIEW source_rows AS SELECT {columns} FROM {rows_of([valid])}")
    _read_overridden(opened, overridden, types)
    if not pushed and overridden is None:
        return Reconciled(valid, list(parts))
    key = agree("pushed", "source_rows", EVENT_KEY)
    seen = f"SELECT pushed.* FROM {rows_of(pushed)} AS pushed SEMI JOIN source_rows ON {key}" if pushed else ""
    opened.execute(f"CREATE OR REPLACE TEMP TABLE pushed AS {seen or f'SELECT {columns} FROM source_rows LIMIT 0'}")
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE merged AS
        SELECT {merged_columns(types, "source_rows", "pushed")} FROM source_rows JOIN pushed ON {key};
        CREATE OR REPLACE TEMP TABLE unchanged AS
        SELECT overridden.* FROM overridden SEMI JOIN source_rows ON {agree("overridden", "source_rows", types)}
    """)
    known = [folder / part["file"] for part in parts if not of_events(part)]
    in_log = (
        f"SELECT {columns} FROM {rows_of(known)} AS logged SEMI JOIN unchanged "
        f"ON {agree('logged', 'unchanged', EVENT_KEY)}"
        if known
        else f"SELECT {columns} FROM source_rows LIMIT 0"
    )
    opened.execute(f"CREATE OR REPLACE TEMP TABLE settled AS SELECT * FROM merged UNION ALL ({in_log})")
    result = valid.with_name("reconciled.parquet")
    with written_beside(result) as temporary:
        opened.execute(
            f"COPY (SELECT {columns} FROM source_rows ANTI JOIN settled ON {agree('source_rows', 'settled', EVENT_KEY)} "
            f"UNION ALL SELECT {columns} FROM settled) {into(temporary)}"
        )
    vanished = agree("overridden", "source_rows", EVENT_KEY)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE kept AS
        SELECT * FROM unchanged
        UNION ALL SELECT overridden.* FROM overridden ANTI JOIN source_rows ON {vanished}
        UNION ALL SELECT source_rows.* FROM source_rows SEMI JOIN merged ON {agree("source_rows", "merged", EVENT_KEY)}
            ANTI JOIN merged AS alike ON {agree("source_rows", "alike", types)};
        CREATE OR REPLACE TEMP TABLE overridden AS SELECT * FROM kept
    """)
    return Reconciled(result, _moved(opened, folder, parts, number))


def merged_columns(types: Mapping[str, str], first: str, second: str) -> str:
    """SQL for the columns of two rows of one event: positives win, else those of ``first`` unless they are null."""
    return ", ".join(
        f"{'greatest' if name in _POSITIVES else 'coalesce'}({first}.{quoted(name)}, {second}.{quoted(name)})::{kind} "
        f"AS {quoted(name)}"
        for name, kind in types.items()
    )


def _read_overridden(opened: duckdb.DuckDBPyConnection, path: Path | None, types: Mapping[str, str]) -> None:
    """Create the table ``overridden``; columns that the log has since then are null."""
    if path is None:
        opened.execute("CREATE OR REPLACE TEMP TABLE overridden AS SELECT * FROM source_rows LIMIT 0")
        return
    present = {row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM {rows_of([path])}").fetchall()}
    listed = ", ".join(
        f"{quoted(name) if name in present else 'NULL'}::{kind} AS {quoted(name)}" for name, kind in types.items()
    )
    opened.execute(f"CREATE OR REPLACE TEMP TABLE overridden AS SELECT {listed} FROM {rows_of([path])}")


def _moved(
    opened: duckdb.DuckDBPyConnection, folder: Path, parts: Sequence[dict[str, Any]], number: int
) -> list[dict[str, Any]]:
    """The parts, those of events without the rows in ``pushed``, which get parts of the source with the same numbers."""
    entries: list[dict[str, Any] | None] = []
    for part in parts:
        held = f"{rows_of([folder / part['file']])} AS held"
        key = agree("held", "pushed", EVENT_KEY)
        count = (
            opened.execute(f"SELECT count(*) FROM {held} SEMI JOIN pushed ON {key}").fetchone()
            if of_events(part)
            else None
        )
        if not count or not count[0]:
            entries.append(part)
            continue
        stem = f"part-{number_of(part):05d}-{number:05d}"
        entries.append(
            write_part(opened, f"SELECT held.* FROM {held} SEMI JOIN pushed ON {key}", folder / f"{stem}s.parquet")
        )
        left = f"SELECT held.* FROM {held} ANTI JOIN pushed ON {key}"
        entries.append(write_part(opened, left, folder / f"{stem}l.parquet", EVENTS))
    return [entry for entry in entries if entry is not None]


def overridden_snapshot(
    opened: duckdb.DuckDBPyConnection, folder: Path, last: Mapping[str, str] | None, first_number: int = 0
) -> dict[str, dict[str, str]]:
    """Write the relation ``overridden`` as a snapshot of the log, unless it did not change; empty if there never was any."""
    count = opened.execute("SELECT count(*) FROM overridden").fetchone()
    if not last and not (count and count[0]):
        return {}
    mark = mark_of(opened, "overridden")
    if last and last["mark"] == mark:
        return {OVERRIDDEN: dict(last)}
    number = number_of(dict(last)) + 1 if last else first_number
    path = folder / f"{OVERRIDDEN}-{number:05d}.parquet"
    with written_beside(path) as temporary:
        opened.execute(f"COPY (SELECT * FROM overridden ORDER BY ALL) TO {literal(temporary)} (FORMAT parquet)")
    return {OVERRIDDEN: {"file": path.name, "mark": mark}}


def folded(
    opened: duckdb.DuckDBPyConnection, folder: Path, entries: Sequence[dict[str, Any]], number: int, stem: str
) -> list[dict[str, Any]]:
    """Join the newest of many small files of pushed events, or of removed rows; the result keeps the largest number.

    A build that knows some of them rebuilds the keys of all, which changes no value. Sizes grow geometrically, so that a row
    is rewritten a number of times that grows with the logarithm of the rows.
    """
    own = sorted((entry for entry in entries if stem != "part" or of_events(entry)), key=number_of)
    if len(own) <= _LEAST_PARTS:
        return list(entries)
    group = [own.pop()]
    while own and (len(group) < _LEAST_PARTS or own[-1]["rows"] <= 2 * sum(entry["rows"] for entry in group)):
        group.insert(0, own.pop())
    files = [folder / entry["file"] for entry in group]
    path = folder / f"{stem}-{number_of(group[-1]):05d}-{number:05d}f.parquet"
    joined = f"SELECT * FROM read_parquet([{', '.join(map(literal, files))}], union_by_name = true)"
    one = write_part(opened, joined, path, EVENTS if stem == "part" else "source")
    names = {entry["file"] for entry in group}
    return [entry for entry in entries if entry["file"] not in names] + ([one] if one else [])


def kept_events(folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The intact parts of pushed events of a log that is discarded: no source has their rows."""
    kept = []
    for part in manifest.get("parts", []):
        if not of_events(part):
            continue
        path = folder / part["file"]
        if path.is_file() and sha256(path) == manifest["files"].get(f"{folder.name}/{part['file']}"):
            kept.append(part)
        else:
            say_lost(path, "pushed events are lost")
    return kept


def say_lost(path: Path, what: str) -> None:
    """Say on stderr that a damaged file could not be kept."""
    sys.stderr.write(f"sidkit: {path}: {what}, because the file is missing or does not match its SHA-256\n")
