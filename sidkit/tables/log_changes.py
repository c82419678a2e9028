"""What an ingest changes in the log: which rows of the source are new, and which rows of the log are true no more.

An event is identified by :data:`sidkit.contract.events.EVENT_KEY`. A row whose key is known and whose other columns differ
replaces the old row. Parts of the log are never changed in place: a part that loses rows is written anew under another
name, and the rows that it lost are kept in a ``removed`` file, so that builders know whose past changed and from when on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract.events import EVENT_KEY, LOG_COLUMNS, one_row_per_event
from sidkit.core.engine import literal, working_on
from sidkit.core.files import remove, written_beside

_COLUMNS = ", ".join(LOG_COLUMNS)
_KEY = ", ".join(EVENT_KEY)


@dataclass(frozen=True)
class Changes:
    """How the valid rows of a source differ from the log, in events.

    ``new`` have no row in the log yet, ``changed`` replace one. ``vanished`` are in the log but not in the source, and
    stay; ``removed`` leave the log without a successor.
    """

    new: int
    changed: int
    vanished: int
    removed: int


@working_on("comparing the source with the log")
def compare(
    opened: duckdb.DuckDBPyConnection,
    valid: Path,
    parts: Sequence[Path],
    now_us: int,
    *,
    remove_vanished: bool,
    keyed: bool,
) -> Changes:
    """Compare valid rows with the parts of a log; the relations ``added`` and ``removed`` hold what is to be done.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        The relations are made here.
    valid : Path
        The valid interactions, one row per event.
    parts : sequence of Path
        The parts of the log; none at the first ingest.
    now_us : int
        Rows of the log after this moment (microseconds UTC) are removed: older releases took them.
    remove_vanished : bool
        Remove what the source no longer holds.
    keyed : bool
        Whether the log holds one row per event. In logs of older releases the rows of one event become one.
    """
    opened.execute(f"CREATE OR REPLACE TEMP VIEW valid AS SELECT {_COLUMNS} FROM read_parquet({literal(valid)})")
    if not parts:
        opened.execute("CREATE OR REPLACE TEMP VIEW added AS SELECT * FROM valid")
        opened.execute("CREATE OR REPLACE TEMP TABLE removed AS SELECT *, '' AS cause FROM valid LIMIT 0")
        return Changes(_count(opened, "added"), 0, 0, 0)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE difference AS
        SELECT {_COLUMNS}, any_value(fresh) AS fresh FROM (
            SELECT *, true AS fresh FROM valid
            UNION ALL
            SELECT {_COLUMNS}, false AS fresh FROM {_relation(parts)}
        ) GROUP BY {_COLUMNS} HAVING count(*) = 1
    """)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE gone AS
        SELECT difference.* EXCLUDE (fresh), CASE
            WHEN epoch_us(difference.timestamp) > {now_us} THEN 'after now'
            WHEN there THEN 'replaced'
            ELSE 'vanished'
        END AS cause
        FROM difference LEFT JOIN (SELECT {_KEY}, true AS there FROM valid) AS known
            ON {_same("difference", "known", EVENT_KEY)}
        WHERE NOT fresh
    """)
    merged = 0 if keyed or remove_vanished else _merge_vanished(opened)
    kept = "" if remove_vanished else "WHERE cause <> 'vanished'"
    opened.execute(f"CREATE OR REPLACE TEMP TABLE removed AS SELECT * FROM gone {kept}")
    opened.execute(f"CREATE OR REPLACE TEMP VIEW added AS SELECT {_COLUMNS} FROM difference WHERE fresh")
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE replaced AS SELECT DISTINCT {_KEY} FROM removed WHERE cause = 'replaced'"
    )
    return Changes(
        new=_count(opened, f"added ANTI JOIN replaced ON {_same('added', 'replaced', EVENT_KEY)}"),
        changed=_count(opened, "replaced"),
        vanished=0 if remove_vanished else merged + _count(opened, "gone WHERE cause = 'vanished'"),
        removed=_count(opened, f"(SELECT DISTINCT {_KEY} FROM removed WHERE cause <> 'replaced')"),
    )


def _merge_vanished(opened: duckdb.DuckDBPyConnection) -> int:
    """Let several rows of one event that the source no longer holds become one; returns how many such events there are."""
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE repeated AS
        SELECT {_KEY} FROM gone WHERE cause = 'vanished' GROUP BY {_KEY} HAVING count(*) > 1
    """)
    same = _same("gone", "repeated", EVENT_KEY)
    several = f"(SELECT {_COLUMNS} FROM gone SEMI JOIN repeated ON {same})"
    opened.execute(f"INSERT INTO difference SELECT *, true FROM ({one_row_per_event(several)})")
    opened.execute(f"UPDATE gone SET cause = 'replaced' FROM repeated WHERE {same}")
    return _count(opened, "repeated")


def write_added(opened: duckdb.DuckDBPyConnection, path: Path) -> dict[str, Any] | None:
    """Write the relation ``added`` as a part; returns its entry in the manifest, None where there is nothing."""
    return _write_part(opened, f"SELECT {_COLUMNS} FROM added", path)


def write_removed(opened: duckdb.DuckDBPyConnection, path: Path) -> dict[str, Any] | None:
    """Write the relation ``removed``, with its ``cause``; returns its entry in the manifest, None where there is nothing."""
    return _write_part(opened, f"SELECT {_COLUMNS}, cause FROM removed", path)


def write_without_removed(
    opened: duckdb.DuckDBPyConnection, folder: Path, parts: Sequence[dict[str, Any]], number: int
) -> list[dict[str, Any]]:
    """The entries of the parts after the rows of ``removed`` were taken out; a part that loses rows gets a new file."""
    files = [folder / part["file"] for part in parts]
    same = _same("part", "removed", tuple(LOG_COLUMNS))
    touched = {
        Path(row[0]).name
        for row in opened.execute(
            f"SELECT DISTINCT filename FROM read_parquet([{', '.join(map(literal, files))}], filename = true) AS part "
            f"SEMI JOIN removed ON {same}"
        ).fetchall()
    }
    entries: list[dict[str, Any] | None] = []
    for part, file in zip(parts, files, strict=True):
        if part["file"] not in touched:
            entries.append(part)
            continue
        left = f"SELECT {_COLUMNS} FROM read_parquet({literal(file)}) AS part ANTI JOIN removed ON {same}"
        entries.append(_write_part(opened, left, folder / f"part-{number_of(part):05d}-{number:05d}.parquet"))
    return [entry for entry in entries if entry is not None]


def number_of(entry: dict[str, Any]) -> int:
    """Which ingest read the rows of a part, or removed those of a ``removed`` file; counted from 0."""
    return int(entry["file"].removesuffix(".parquet").split("-")[1])


def mark_of(opened: duckdb.DuckDBPyConnection, relation: str) -> str:
    """Text that is the same for the same set of rows."""
    row = opened.execute(f"SELECT count(*), bit_xor(hash(held)) FROM {relation} AS held").fetchone()
    return "-".join(map(str, row or ()))


def _write_part(opened: duckdb.DuckDBPyConnection, query: str, path: Path) -> dict[str, Any] | None:
    with written_beside(path) as temporary:
        opened.execute(
            f"COPY (SELECT * FROM ({query}) ORDER BY timestamp, user_id, item_id, label, request_id NULLS FIRST, "
            f"position NULLS FIRST) TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
    facts = opened.execute(
        f"SELECT count(*), min(epoch_us(timestamp)), max(epoch_us(timestamp)) FROM {_relation([path])}"
    ).fetchone()
    if not facts or not facts[0]:
        remove(path)
        return None
    return {
        "file": path.name,
        "rows": facts[0],
        "first_us": facts[1],
        "last_us": facts[2],
        "mark": mark_of(opened, _relation([path])),
    }


def _relation(files: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(map(literal, files))}])"


def _same(left: str, right: str, columns: Sequence[str]) -> str:
    return " AND ".join(f"{left}.{name} IS NOT DISTINCT FROM {right}.{name}" for name in columns)


def _count(opened: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = opened.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0
