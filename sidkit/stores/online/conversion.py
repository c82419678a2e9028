"""Conversion of files of packed rows that earlier releases wrote.

Every change is one SQLite transaction, so a killed one leaves the file unchanged, and readers beside it see the old tables or
the new ones. The pages of the old tables stay in the file and are used again by later rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.checksums import all_intact, record_check, sealed
from sidkit.stores.online.connection import BY_KEY, FORMAT, LAYOUTS, VERSION, version_of, views_of
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.rows_by_hash import Damaged
from sidkit.stores.online.second_keys import indices, make_index_of
from sidkit.stores.online.sql import insert_apart, table_of, table_statement

ROWS = 20_000
"""Rows that are read or written at once."""
PATIENCE_SECONDS = 60.0
_COPY = "~copy"
"""The view of a new table; not a valid name of a view, and renamed before the transaction ends."""


def convert_by_key(opened: sqlite3.Connection, damaged: Damaged) -> int:
    """Convert the tables of a file of version 2, in the order of the keys, to those of this release; return their rows.

    Parameters
    ----------
    opened : sqlite3.Connection
        A connection in a transaction. A file of this release is left as it is.
    damaged : callable
        Makes the error for a problem of a view.

    Raises
    ------
    OnlineStoreError
        When a row is damaged: in the new table it would not be found where its key is searched.
    """
    if version_of(opened) != BY_KEY:
        return 0
    count = 0
    for view in views_of(opened):
        indexed = indices(opened, view)
        count += rewrite(opened, view, _verified(opened, view, damaged))
        for names in indexed:
            make_index_of(opened, view, names)
    opened.execute(f"UPDATE {FORMAT} SET version = {VERSION}")
    return count


def _verified(opened: sqlite3.Connection, view: str, damaged: Damaged) -> Iterator[tuple[bytes, bytes]]:
    read = opened.execute(f"SELECT key, row FROM {table_of(view)}")
    while part := read.fetchmany(ROWS):
        if not all_intact(view, *zip(*part, strict=True)):
            raise damaged(view, "a row does not match its checksum")
        yield from part


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
        with closing(opened_in_place(path)) as opened:
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

    def damaged(view: str, problem: str) -> OnlineStoreError:
        return OnlineStoreError(
            f"the online store {path} is damaged: {problem} in table packed:{view}; run `sidkit materialize`, or delete the "
            "file and run `sidkit apply` and `sidkit materialize`"
        )

    if version == BY_KEY:
        return convert_by_key(opened, damaged)
    if version != 1:
        raise OnlineStoreError(
            f"expected version 1 to {VERSION} of the online store {path}, got {version!r}; use the release that wrote it"
        )
    count = 0
    for view in views_of(opened):
        count += rewrite(opened, view, _converted(opened, view))
    opened.execute(f"ALTER TABLE {LAYOUTS} ADD COLUMN checked INTEGER NOT NULL DEFAULT 0")
    for view, number, columns in opened.execute(f"SELECT view, number, columns FROM {LAYOUTS}").fetchall():
        opened.execute(
            f"UPDATE {LAYOUTS} SET checked = ? WHERE view = ? AND number = ?",
            (record_check(view, number, columns), view, number),
        )
    opened.execute(f"UPDATE {FORMAT} SET version = {VERSION}")
    return count


def _converted(opened: sqlite3.Connection, view: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and row, with times and checksum, of the rows of a version 1 table."""
    read = opened.execute(f"SELECT key, event_us, created_us, row FROM {table_of(view)}")
    while part := read.fetchmany(ROWS):
        keys, events, created, rows = zip(*part, strict=True)
        yield from zip(keys, sealed(view, keys, events, created, rows), strict=True)


def rewrite(opened: sqlite3.Connection, view: str, rows: Iterable[tuple[bytes, bytes]]) -> int:
    """Replace a view's table, of any version, by one of this release with these keys and rows; return their number.

    Of several rows with the same key the first one is written. The new table has no indices.
    """
    copy = table_of(_COPY)
    opened.execute(f"DROP TABLE IF EXISTS {copy}")
    opened.execute(table_statement(copy))
    before = opened.total_changes
    remaining = iter(rows)
    while part := list(islice(remaining, ROWS)):
        numbered = sorted(zip(hashes_of([key for key, _ in part]), part, strict=True))
        written = opened.total_changes
        opened.executemany(
            f"INSERT OR IGNORE INTO {copy} (hash, key, row) VALUES (?, ?, ?)",
            ((number, *pair) for number, pair in numbered),
        )
        if opened.total_changes - written < len(part):
            _add_apart(opened, numbered)
    count = opened.total_changes - before
    opened.execute(f"DROP TABLE {table_of(view)}")
    opened.execute(f"ALTER TABLE {copy} RENAME TO {table_of(view)}")
    return count


def _add_apart(opened: sqlite3.Connection, numbered: Iterable[tuple[int, tuple[bytes, bytes]]]) -> None:
    """Write those of the rows whose hash belongs to another key's row."""
    copy = table_of(_COPY)
    for number, (key, row) in numbered:
        if opened.execute(f"SELECT 1 FROM {copy} WHERE hash = ? AND key = ?", (number, key)).fetchone():
            continue
        if not opened.execute(f"SELECT 1 FROM {copy} WHERE hash < 0 AND key = ?", (key,)).fetchone():
            opened.execute(insert_apart(_COPY), (key, row))


def opened_in_place(path: Path) -> sqlite3.Connection:
    """A connection to an existing file of any version."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE_SECONDS)
