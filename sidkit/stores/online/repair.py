"""Repair of files of packed rows with damage.

Every change is one SQLite transaction, so a killed one leaves the file unchanged.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.checksums import all_intact, record_check
from sidkit.stores.online.codec import layout_number
from sidkit.stores.online.connection import BY_KEY, LAYOUTS, open_to_read, version_of, views_of
from sidkit.stores.online.conversion import PATIENCE_SECONDS, ROWS, convert_by_key, opened_in_place, rewrite
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.layout import layout_from_json
from sidkit.stores.online.marks import write_marks
from sidkit.stores.online.sql import table_of

_MESSAGES = 1_000
_UNORDERED = re.compile(r"Rowid -?\d+ out of order")
"""What SQLite says of a number that changed in a table: the rows can still be read one after the other."""


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
        opened, _ = open_to_read(path, PATIENCE_SECONDS)
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
        with closing(opened_in_place(path)) as opened:
            opened.execute("BEGIN IMMEDIATE")
            for view in damage.rows:
                if _known_layouts(opened, view) is None:
                    opened.execute(f"DROP TABLE IF EXISTS {table_of(view)}")
                    opened.execute(f"DELETE FROM {LAYOUTS} WHERE view = ?", (view,))
                else:
                    rewrite(opened, view, _sound(opened, view))
            convert_by_key(opened, _still_damaged)
            with suppress(sqlite3.OperationalError):  # a file of an earlier release has no marks
                write_marks(opened, damage.rows)
            opened.execute("COMMIT")
    return damage


def _still_damaged(view: str, problem: str) -> OnlineStoreError:
    return OnlineStoreError(f"expected packed:{view} without damage after its repair, but {problem}; delete the file")


def _damage(opened: sqlite3.Connection) -> Damage:
    if version_of(opened) is None:
        return Damage(unreadable=False, rows={})
    if not _readable(opened.execute(f"PRAGMA quick_check({_MESSAGES})").fetchall()):
        return _UNREADABLE
    damage = {}
    for view in views_of(opened):
        rows = opened.execute(f"SELECT count(*) FROM {table_of(view)}").fetchone()[0]
        damaged = rows - sum(1 for _ in _sound(opened, view))
        if damaged or _known_layouts(opened, view) is None or not _ordered(opened, view):
            damage[view] = max(damaged, 1)
    return Damage(unreadable=False, rows=damage)


def _readable(messages: list[tuple[str]]) -> bool:
    """Whether all rows of all tables can be read one after the other, from the messages of SQLite's check."""
    lines = [line for (message,) in messages for line in message.splitlines()]
    return all(line == "ok" or line.startswith("***") or _UNORDERED.search(line) for line in lines)


def _ordered(opened: sqlite3.Connection, view: str) -> bool:
    """Whether the rows of a view's table are in order, and its indices, if it has any, are those of its rows."""
    found = opened.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", (f"packed:{view}",)
    )
    check = "integrity_check" if found.fetchone()[0] else "quick_check"
    return bool(opened.execute(f"PRAGMA {check}({table_of(view)})").fetchone() == ("ok",))


def _sound(opened: sqlite3.Connection, view: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and row of the intact rows of a table, in file order."""
    layouts = _known_layouts(opened, view) or set()
    number = "NULL" if version_of(opened) == BY_KEY else "hash"
    read = opened.execute(f"SELECT {number}, key, row FROM {table_of(view)}")
    while part := read.fetchmany(ROWS):
        numbers, keys, rows = zip(*part, strict=True)
        with suppress(TypeError):
            if (
                all_intact(view, keys, rows)
                and {*map(layout_number, rows)} <= layouts
                and all(map(_in_place, numbers, hashes_of(keys)))
            ):
                yield from zip(keys, rows, strict=True)
                continue
        for own, key, row in part:
            with suppress(TypeError):
                if (
                    all_intact(view, [key], [row])
                    and layout_number(row) in layouts
                    and _in_place(own, *hashes_of([key]))
                ):
                    yield key, row


def _in_place(number: int | None, own: int) -> bool:
    """Whether a row's number is that of its key: its hash, one below zero, or none in a file of the release before."""
    return number is None or number < 0 or number == own


def _known_layouts(opened: sqlite3.Connection, view: str) -> set[int] | None:
    """Numbers of a view's layouts; None if one is damaged or there are none."""
    records = opened.execute(f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ?", (view,)).fetchall()
    if not records or any(record_check(view, number, columns) != checked for number, columns, checked in records):
        return None
    for _, columns, _ in records:
        layout_from_json(columns)
    return {int(number) for number, _, _ in records}
