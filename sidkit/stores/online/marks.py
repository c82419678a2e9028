"""Marks of the views in a file of packed rows: a random number per view that every write to the view replaces.

A reader that holds rows in arrays compares the marks of its views before each use. Random numbers, unlike counters, are not
repeated by a file that was deleted and written again.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence

from sidkit.stores.online.connection import MARKS


def read_marks(opened: sqlite3.Connection, views: Sequence[str]) -> tuple[object, ...]:
    """A value per view that is another one after every write to the view; compared within a process.

    All values change with the tables of the file, too: a view may have been dropped by other means than a writer. A file that
    no writer of this release has opened yet has no marks: any commit, to any view, changes all values then.
    """
    places = ",".join("?" * len(views))
    try:
        rows = opened.execute(f"SELECT view, mark FROM {MARKS} WHERE view IN ({places})", list(views))
        held = dict(rows.fetchall())
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        [version] = opened.execute("PRAGMA data_version").fetchone()
        return (id(opened), version)
    [schema] = opened.execute("PRAGMA schema_version").fetchone()
    return tuple((schema, held.get(view)) for view in views)


def write_marks(opened: sqlite3.Connection, views: Iterable[str]) -> None:
    """Replace the marks of views that were written."""
    rows = [(view, secrets.randbits(62)) for view in sorted(views)]
    opened.executemany(f"INSERT OR REPLACE INTO {MARKS} (view, mark) VALUES (?, ?)", rows)
