"""Upgrade and repair of files of packed rows from an earlier release or with damage.

Every change is one SQLite transaction, so a killed one leaves the file unchanged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sidkit.core.engine import quoted
from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.checksums import all_intact, record_check, sealed
from sidkit.stores.online.codec import layout_number
from sidkit.stores.online.connection import FORMAT, LAYOUTS, VERSION, open_to_read, version_of
from sidkit.stores.online.layout import layout_from_json
from sidkit.stores.online.marks import write_marks
from sidkit.stores.online.sql import table_of, table_statement

_ROWS = 20_000
_PATIENCE_SECONDS = 60.0
_COPY = "packed~copy"  # not a valid view name; removed before the transaction ends

KeyedRows = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Damage:
    """Damage of a file.

    ``unreadable`` is True if SQLite cannot read the file at all; ``rows`` counts damaged rows per view, at least one for a
    view whose layouts are damaged, which makes its rows unreadable.
    """

    unreadable: bool
    rows: dict[str, int]

    def __bool__(self) -> bool:
        return self.unreadable or bool(self.rows)


_UNREADABLE = Damage(unreadable=True, rows={})


def upgrade_online_file(path: Path) -> int:
    """Convert a file of an earlier release to the current format, in place.

    Parameters
    ----------
    path : Path
        File of an online store. It is left unchanged if missing, current, or without tables of this store.

    Returns
    -------
    int
        Number of converted rows.

    Raises
    ------
    OnlineStoreError
        When the file has an unknown version, is damaged, or is being written; it is then unchanged.
    """
    if not path.exists():
        return 0
    try:
        with closing(_opened(path)) as opened:
            opened.execute("BEGIN IMMEDIATE")
            try:
                count = _convert(opened, path)
                opened.execute("COMMIT")
            finally:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")
            if count:
                opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return count
    except sqlite3.DatabaseError as error:
        raise OnlineStoreError(
            f"the online store {path} cannot be upgraded ({error}): stop its users, or delete it and run `sidkit apply` "
            "and `sidkit materialize`"
        ) from error


def _convert(opened: sqlite3.Connection, path: Path) -> int:
    version = version_of(opened)
    if version in {None, VERSION}:
        return 0
    if version != 1:
        raise OnlineStoreError(
            f"expected version 1 or {VERSION} of the online store {path}, got {version!r}; use the release that wrote it"
        )
    count = 0
    for view in _views(opened):
        count += _rewrite(opened, view, _converted(opened, view))
    opened.execute(f"ALTER TABLE {LAYOUTS} ADD COLUMN checked INTEGER NOT NULL DEFAULT 0")
    for view, number, columns in opened.execute(f"SELECT view, number, columns FROM {LAYOUTS}").fetchall():
        opened.execute(
            f"UPDATE {LAYOUTS} SET checked = ? WHERE view = ? AND number = ?",
            (record_check(view, number, columns), view, number),
        )
    opened.execute(f"UPDATE {FORMAT} SET version = {VERSION}")
    return count


def _converted(opened: sqlite3.Connection, view: str) -> Iterator[tuple[bytes, bytes]]:
    """Convert the rows of a version 1 table to the current version."""
    read = opened.execute(f"SELECT key, event_us, created_us, row FROM {table_of(view)}")
    while part := read.fetchmany(_ROWS):
        keys, events, created, rows = zip(*part, strict=True)
        yield from zip(keys, sealed(view, keys, events, created, rows), strict=True)


def find_damage(path: Path) -> Damage:
    """Read a whole file and find damage; a missing file has none.

    Raises
    ------
    OnlineStoreError
        When the file has another version or is locked.
    """
    if not path.exists():
        return Damage(unreadable=False, rows={})
    try:
        opened, _ = open_to_read(path, _PATIENCE_SECONDS)
        with closing(opened):
            return _damage(opened)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "unable to open" in str(error):
            raise OnlineStoreError(
                f"the online store {path} cannot be read ({error}): another writer may be using it; try again"
            ) from error
        return _UNREADABLE
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return _UNREADABLE


def repair(path: Path) -> Damage:
    """Delete damaged rows, so that they are missing instead of wrong and can be materialized again.

    A table whose layouts are damaged is dropped; a file that SQLite cannot read is deleted.

    Returns
    -------
    Damage
        Result of :func:`find_damage` before the repair.
    """
    damage = find_damage(path)
    if damage.unreadable:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    elif damage:
        with closing(_opened(path)) as opened:
            opened.execute("BEGIN IMMEDIATE")
            for view in damage.rows:
                if _known_layouts(opened, view) is None:
                    opened.execute(f"DROP TABLE IF EXISTS {table_of(view)}")
                    opened.execute(f"DELETE FROM {LAYOUTS} WHERE view = ?", (view,))
                else:
                    _rewrite(opened, view, _sound(opened, view))
            with suppress(sqlite3.OperationalError):  # a file of an earlier release has no marks
                write_marks(opened, damage.rows)
            opened.execute("COMMIT")
    return damage


def _damage(opened: sqlite3.Connection) -> Damage:
    if version_of(opened) is None:
        return Damage(unreadable=False, rows={})
    if opened.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        return _UNREADABLE
    damage = {}
    for view in _views(opened):
        rows = opened.execute(f"SELECT count(*) FROM {table_of(view)}").fetchone()[0]
        damaged = rows - sum(1 for _ in _sound(opened, view))
        if damaged or _known_layouts(opened, view) is None or not _indexed(opened, view):
            damage[view] = max(damaged, 1)
    return Damage(unreadable=False, rows=damage)


def _indexed(opened: sqlite3.Connection, view: str) -> bool:
    """Whether the indices of a view's table, if it has any, are those of its rows."""
    found = opened.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", (f"packed:{view}",)
    )
    [count] = found.fetchone()
    return not count or opened.execute(f"PRAGMA integrity_check({table_of(view)})").fetchone() == ("ok",)


def _sound(opened: sqlite3.Connection, view: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the intact rows of a table, in file order."""
    layouts = _known_layouts(opened, view) or set()
    read = opened.execute(f"SELECT key, row FROM {table_of(view)}")
    while part := read.fetchmany(_ROWS):
        keys, rows = zip(*part, strict=True)
        with suppress(TypeError):
            if all_intact(view, keys, rows) and {*map(layout_number, rows)} <= layouts:
                yield from part
                continue
        for key, row in part:
            with suppress(TypeError):
                if all_intact(view, [key], [row]) and layout_number(row) in layouts:
                    yield key, row


def _known_layouts(opened: sqlite3.Connection, view: str) -> set[int] | None:
    """Numbers of a view's layouts; None if one is damaged or there are none."""
    records = opened.execute(f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ?", (view,)).fetchall()
    if not records or any(record_check(view, number, columns) != checked for number, columns, checked in records):
        return None
    for _, columns, _ in records:
        layout_from_json(columns)
    return {int(number) for number, _, _ in records}


def _views(opened: sqlite3.Connection) -> list[str]:
    names = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'packed:*_*'")
    return sorted(name.removeprefix("packed:") for (name,) in names.fetchall())


def _rewrite(opened: sqlite3.Connection, view: str, rows: KeyedRows) -> int:
    """Replace the rows of a view's table."""
    opened.execute(f"DROP TABLE IF EXISTS {quoted(_COPY)}")
    opened.execute(table_statement(quoted(_COPY)))
    before = opened.total_changes
    opened.executemany(f"INSERT OR IGNORE INTO {quoted(_COPY)} (key, row) VALUES (?, ?)", rows)
    count = opened.total_changes - before
    opened.execute(f"DROP TABLE {table_of(view)}")
    opened.execute(f"ALTER TABLE {quoted(_COPY)} RENAME TO {table_of(view)}")
    return count


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, timeout=_PATIENCE_SECONDS
    )
