"""Changes of an ingest: which rows of the source are new, and which rows of the log are outdated.

An event is identified by :data:`sidkit.contract.events.EVENT_KEY`. A row with a known key and other values replaces the old
row. Parts of the log are never modified in place: a part that loses rows is rewritten under another name, and its removed
rows go to a ``removed`` file, so that builds know which keys to rebuild from which time on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract.events import EVENT_KEY, one_row_per_event
from sidkit.core.engine import into, literal, quoted, working_on
from sidkit.core.files import remove, written_beside

_KEY = ", ".join(EVENT_KEY)
SOURCE, EVENTS = "source", "events"
"""Origins of parts: rows that the source has or had, and rows that were pushed and that it does not have yet."""


@dataclass(frozen=True)
class Changes:
    """Differences between the valid rows of a source and the log, in events.

    ``new`` events are not in the log yet, ``changed`` ones replace a row. ``vanished`` ones are in the log but not in the
    source, and stay; ``removed`` ones leave the log without replacement.
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
    types: Mapping[str, str],
) -> Changes:
    """Compare valid rows with the parts of a log, and create the relations ``added`` and ``removed``.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Connection in which the relations are created.
    valid : Path
        File of valid interactions, one row per event.
    parts : sequence of Path
        Parts of the log; empty at the first ingest.
    now_us : int
        Rows of the log after this time (microseconds UTC) are removed: older releases accepted them.
    remove_vanished : bool
        Remove events that are no longer in the source.
    keyed : bool
        Whether the log has one row per event. In logs of older releases the rows of an event are merged.
    types : mapping
        Columns of the log and of ``valid``, with their types.
    """
    columns = names_of(types)
    opened.execute(f"CREATE OR REPLACE TEMP VIEW valid AS SELECT {columns} FROM read_parquet({literal(valid)})")
    if not parts:
        opened.execute("CREATE OR REPLACE TEMP VIEW added AS SELECT * FROM valid")
        opened.execute("CREATE OR REPLACE TEMP TABLE removed AS SELECT *, '' AS cause FROM valid LIMIT 0")
        return Changes(_count(opened, "added"), 0, 0, 0)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE difference AS
        SELECT {columns}, any_value(_fresh) AS _fresh FROM (
            SELECT *, true AS _fresh FROM valid
            UNION ALL
            SELECT {columns}, false AS _fresh FROM {rows_of(parts)}
        ) GROUP BY {columns} HAVING count(*) = 1
    """)
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE outdated AS
        SELECT difference.* EXCLUDE (_fresh), CASE
            WHEN epoch_us(difference.timestamp) > {now_us} THEN 'after now'
            WHEN _in_source THEN 'replaced'
            ELSE 'vanished'
        END AS cause
        FROM difference LEFT JOIN (SELECT {_KEY}, true AS _in_source FROM valid) AS known
            ON {agree("difference", "known", EVENT_KEY)}
        WHERE NOT _fresh
    """)
    merged = 0 if keyed or remove_vanished else _merge_vanished(opened, types)
    condition = "" if remove_vanished else "WHERE cause <> 'vanished'"
    opened.execute(f"CREATE OR REPLACE TEMP TABLE removed AS SELECT * FROM outdated {condition}")
    opened.execute(f"CREATE OR REPLACE TEMP VIEW added AS SELECT {columns} FROM difference WHERE _fresh")
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE replaced AS SELECT DISTINCT {_KEY} FROM removed WHERE cause = 'replaced'"
    )
    return Changes(
        new=_count(opened, f"added ANTI JOIN replaced ON {agree('added', 'replaced', EVENT_KEY)}"),
        changed=_count(opened, "replaced"),
        vanished=0 if remove_vanished else merged + _count(opened, "outdated WHERE cause = 'vanished'"),
        removed=_count(opened, f"(SELECT DISTINCT {_KEY} FROM removed WHERE cause <> 'replaced')"),
    )


def _merge_vanished(opened: duckdb.DuckDBPyConnection, types: Mapping[str, str]) -> int:
    """Merge several rows of one event that is no longer in the source; return the number of such events."""
    opened.execute(f"""
        CREATE OR REPLACE TEMP TABLE repeated AS
        SELECT {_KEY} FROM outdated WHERE cause = 'vanished' GROUP BY {_KEY} HAVING count(*) > 1
    """)
    same = agree("outdated", "repeated", EVENT_KEY)
    several = f"(SELECT {names_of(types)} FROM outdated SEMI JOIN repeated ON {same})"
    opened.execute(f"INSERT INTO difference SELECT *, true FROM ({one_row_per_event(several, types)})")
    opened.execute(f"UPDATE outdated SET cause = 'replaced' FROM repeated WHERE {same}")
    return _count(opened, "repeated")


def write_added(opened: duckdb.DuckDBPyConnection, path: Path, origin: str = SOURCE) -> dict[str, Any] | None:
    """Write the relation ``added`` as a part; return its manifest entry, or None if it is empty."""
    return write_part(opened, "SELECT * FROM added", path, origin)


def write_removed(opened: duckdb.DuckDBPyConnection, path: Path) -> dict[str, Any] | None:
    """Write the relation ``removed``, with its ``cause``; return its manifest entry, or None if it is empty."""
    return write_part(opened, "SELECT * FROM removed", path)


def write_without_removed(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    parts: Sequence[dict[str, Any]],
    number: int,
    types: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Remove the rows of ``removed`` from the parts; return their entries. A part that loses rows gets a new file."""
    files = [folder / part["file"] for part in parts]
    same = agree("part", "removed", types)
    touched = {
        Path(row[0]).name
        for row in opened.execute(
            f"SELECT DISTINCT _file FROM read_parquet([{', '.join(map(literal, files))}], filename = '_file') AS part "
            f"SEMI JOIN removed ON {same}"
        ).fetchall()
    }
    entries: list[dict[str, Any] | None] = []
    for part, file in zip(parts, files, strict=True):
        if part["file"] not in touched:
            entries.append(part)
            continue
        left = f"SELECT {names_of(types)} FROM read_parquet({literal(file)}) AS part ANTI JOIN removed ON {same}"
        path = folder / f"part-{number_of(part):05d}-{number:05d}{'e' if of_events(part) else ''}.parquet"
        entries.append(write_part(opened, left, path, origin_of(part)))
    return [entry for entry in entries if entry is not None]


def with_columns(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    parts: Sequence[dict[str, Any]],
    valid: Path,
    types: Mapping[str, str],
    from_source: Collection[str],
    mark: str,
) -> list[dict[str, Any]]:
    """Rewrite parts with other context columns; return their entries, which keep their numbers.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Any connection.
    folder : Path
        Folder of the parts.
    parts : sequence of dict
        Entries of the parts.
    valid : Path
        File of valid interactions, one row per event.
    types : mapping
        Columns of the new parts, with their types.
    from_source : collection of str
        Columns whose values come from ``valid``, by event; null for an event that it lacks. The others are preserved.
    mark : str
        Suffix of the new files; differs from that of the old ones.
    """
    opened.execute(f"CREATE OR REPLACE TEMP VIEW valid AS SELECT {names_of(types)} FROM read_parquet({literal(valid)})")
    values = ", ".join(
        f"{'valid' if name in from_source else 'part'}.{quoted(name)}::{kind} AS {quoted(name)}"
        for name, kind in types.items()
    )
    entries = []
    for part in parts:
        number, source = number_of(part), f"read_parquet({literal(folder / part['file'])})"
        query = f"SELECT {values} FROM {source} AS part LEFT JOIN valid ON {agree('part', 'valid', EVENT_KEY)}"
        path = folder / f"part-{number:05d}-{mark}{'e' if of_events(part) else ''}.parquet"
        entries.append(write_part(opened, query, path, origin_of(part)))
    return [entry for entry in entries if entry is not None]


def number_of(entry: dict[str, Any]) -> int:
    """Number of the ingest that wrote a part or a ``removed`` file, counted from 0."""
    return int(entry["file"].removesuffix(".parquet").split("-")[1])


def mark_of(opened: duckdb.DuckDBPyConnection, relation: str) -> str:
    """Fingerprint of a relation's set of rows."""
    row = opened.execute(f"SELECT count(*), bit_xor(hash(held)) FROM {relation} AS held").fetchone()
    return "-".join(map(str, row or ()))


def origin_of(part: Mapping[str, Any]) -> str:
    """Where the rows of a part came from: :data:`SOURCE` or :data:`EVENTS`. Parts of older releases have no origin."""
    return str(part.get("origin", SOURCE))


def of_events(part: Mapping[str, Any]) -> bool:
    """Whether the rows of a part were pushed and are not in the source yet."""
    return origin_of(part) == EVENTS


def write_part(
    opened: duckdb.DuckDBPyConnection, query: str, path: Path, origin: str = SOURCE
) -> dict[str, Any] | None:
    """Write the rows of a query as a part; return its manifest entry, or None if there are none."""
    with written_beside(path) as temporary:
        opened.execute(
            f"COPY (SELECT * FROM ({query}) ORDER BY timestamp, user_id, item_id, label, request_id NULLS FIRST, "
            f"position NULLS FIRST) {into(temporary)}"
        )
    facts = opened.execute(
        f"SELECT count(*), min(epoch_us(timestamp)), max(epoch_us(timestamp)) FROM {rows_of([path])}"
    ).fetchone()
    if not facts or not facts[0]:
        remove(path)
        return None
    return {
        "file": path.name,
        "rows": facts[0],
        "first_us": facts[1],
        "last_us": facts[2],
        "mark": mark_of(opened, rows_of([path])),
        **({"origin": origin} if origin != SOURCE else {}),
    }


def rows_of(files: Sequence[Path]) -> str:
    """SQL for the rows of some files."""
    return f"read_parquet([{', '.join(map(literal, files))}])"


def agree(left: str, right: str, columns: Iterable[str]) -> str:
    """SQL condition that two relations agree in some columns; nulls are equal."""
    return " AND ".join(f"{left}.{quoted(name)} IS NOT DISTINCT FROM {right}.{quoted(name)}" for name in columns)


def names_of(columns: Iterable[str]) -> str:
    """Quoted column names, separated by commas."""
    return ", ".join(map(quoted, columns))


def _count(opened: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = opened.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0
