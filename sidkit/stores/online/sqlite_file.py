"""The SQLite file of packed rows: one table per feature view, one row per entity, readable beside one writer.

A view's table has ``key`` (Feast's serialized entity key) and ``row`` (:mod:`sidkit.stores.online.layout`, followed by times
and checksum: :mod:`sidkit.stores.online.checksums`). ``packed:layouts`` has the layouts of the rows of each table,
``packed:format`` the version of the format, and ``packed:marks`` a random number per view that every write to the view
replaces, so that readers which hold rows in arrays notice it. The file is in WAL mode: readers see the last commit and neither
wait for the writer nor block it.

Every row is verified when it is read from the file. A key that is not found is verified too: its neighbours in the table
must be intact, because a key damaged in the file is near the position where it is searched.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from zlib import crc32

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.cache import Entry, Group, RowCache
from sidkit.stores.online.checksums import (
    TAIL,
    all_intact,
    checked_layout,
    event_us,
    record_check,
    sealed,
    since,
    time_key,
    us_of,
)
from sidkit.stores.online.codec import layout_number, unpack
from sidkit.stores.online.connection import LAYOUTS, REBUILD, identity_of, open_to_read, open_to_write, state_of
from sidkit.stores.online.layout import Cells, Layout
from sidkit.stores.online.marks import read_marks, read_tails, write_marks
from sidkit.stores.online.sql import beside, parts, select, table_of, table_statement, upsert

_OUTDATED_US = -1  # the event time of rows that any other row may replace
_INSERT_ROWS = 256
_READ_VIEWS = 32  # SQLite joins at most 64 tables
_LAYOUTS_OF = f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ? ORDER BY number"


class PackedFile:
    """One file; thread-safe and usable after a fork.

    Parameters
    ----------
    path : Path
        Absolute path.
    patience_seconds : float
        How long a writer waits for another one.
    cache_bytes : int, optional
        Maximum bytes of rows cached until the next commit, per thread that calls :meth:`Reading.rows_of`; 0: none.
    remedy : str, optional
        How to rebuild the file, for error messages.
    """

    def __init__(self, path: Path, patience_seconds: float, cache_bytes: int = 0, remedy: str = REBUILD) -> None:
        self.path = path
        self.remedy = remedy
        self._patience = patience_seconds
        self._cache_bytes = cache_bytes
        self._mine = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._process = os.getpid()
        weakref.finalize(self, _close, self._opened, os.getpid())

    def close(self) -> None:
        """Close the connections of all threads; the next use opens new ones."""
        _close(self._opened, self._process)
        self._mine = threading.local()

    def forget(self) -> None:
        """Clear the row cache of this thread."""
        cache: RowCache | None = getattr(self._mine, "cache", None)
        if cache is not None:
            cache.forget()

    def delete(self) -> None:
        """Close and delete the file."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Open a snapshot of all tables; inside another one of this thread, the same snapshot.

        Raises
        ------
        OnlineStoreError
            When the file is missing, damaged, or has another version.
        """
        with self._translated_errors():
            opened = self._connection(create=False)
            if bool(opened.in_transaction):
                yield Reading(opened, self, self._mine.cache)
                return
            opened.execute("BEGIN")
            try:
                yield Reading(opened, self, self._mine.cache)
            finally:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Open a transaction; it is committed as a whole or not at all.

        Raises
        ------
        OnlineStoreError
            When another writer holds the file for too long; else as for :meth:`reading`.
        """
        with self._translated_errors():
            opened = self._connection(create=True)
            opened.execute("BEGIN IMMEDIATE")
            try:
                yield (writing := Writing(opened, self))
                write_marks(opened, writing.changed)
                opened.execute("COMMIT")
            finally:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")
                self.forget()  # data_version does not change for a connection's own commits

    def _connection(self, *, create: bool) -> sqlite3.Connection:
        if self._process != os.getpid():
            # SQLite connections must not be used, nor even closed, in a forked process.
            _abandoned.extend(self._opened)
            self._opened.clear()
            self._mine, self._process = threading.local(), os.getpid()
            weakref.finalize(self, _close, self._opened, os.getpid())
        connection: sqlite3.Connection | None = getattr(self._mine, "opened", None)
        if connection is not None and self._outdated(create=create):
            self._opened.remove(connection)
            connection.close()
            connection = self._mine.opened = None
        if connection is None:
            connection = self._open(create=create)
            self._opened.append(connection)
            self._mine.opened = connection
            self._mine.cache = RowCache(self._cache_bytes) if self._cache_bytes else None
        return connection

    def _outdated(self, *, create: bool) -> bool:
        """Whether the connection is to a file that was deleted, or cannot see what changed since it was opened."""
        if self._mine.identity != identity_of(self.path):
            return True
        frozen = self._mine.frozen
        return frozen is not None and (create or frozen != state_of(self.path))

    def _open(self, *, create: bool) -> sqlite3.Connection:
        self._mine.frozen = None
        if create:
            opened = open_to_write(self.path, self._patience, self.remedy)
        else:
            opened, self._mine.frozen = open_to_read(self.path, self._patience, self.remedy)
        self._mine.identity = identity_of(self.path)
        return opened

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "decode" in str(error) or "malformed" in str(error):  # invalid text or schema
                raise self._unreadable(error) from error
            remedy = (
                "run `feast apply`"
                if "no such table" in str(error)
                else "another writer may be using it, or the disk may be full"
            )
            raise OnlineStoreError(f"the online store {self.path} cannot be used ({error}): {remedy}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> OnlineStoreError:
        return OnlineStoreError(
            f"the online store {self.path} is damaged or not a SQLite file ({error}): {self.remedy}"
        )

    def damaged(self, view: str, problem: str) -> OnlineStoreError:
        """Build the error for a damaged table."""
        return OnlineStoreError(
            f"the online store {self.path} is damaged: {problem} in table packed:{view}; {self.remedy}"
        )


class Reading:
    """A snapshot for reading."""

    def __init__(self, opened: sqlite3.Connection, file: PackedFile, cache: RowCache | None = None) -> None:
        self._opened = opened
        self._file = file
        self._cache = cache

    def damaged(self, view: str, problem: str) -> OnlineStoreError:
        """Build the error for a damaged table."""
        return self._file.damaged(view, problem)

    def cells(self, view: str, row: bytes, features: Sequence[str]) -> dict[str, Cells]:
        """Some features of one row as stored; those that its layout lacks are missing."""
        number = layout_number(row)
        return unpack(self.layouts_of(view, [row])[number], [row], features, number)

    def layouts_of(self, view: str, rows: Sequence[bytes | None]) -> dict[int, Layout]:
        """Like :meth:`layouts`, but require the layouts of all given rows."""
        layouts = self.layouts(view)
        missing = {layout_number(row) for row in rows if row is not None} - layouts.keys()
        if missing:
            raise self.damaged(view, f"layout {min(missing)} is missing")
        return layouts

    def layouts(self, view: str) -> dict[int, Layout]:
        """Layouts of a view's rows by number, the newest last.

        Raises
        ------
        OnlineStoreError
            When a layout is damaged.
        """
        layouts = {}
        for number, text, checked in self._opened.execute(_LAYOUTS_OF, (view,)):
            layout = checked_layout(view, number, text, checked)
            if layout is None:
                raise self.damaged(view, f"layout {number!r} does not match its checksum")
            layouts[number] = layout
        return layouts

    def views(self) -> list[str]:
        """Names of the views that have a table."""
        names = self._opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'packed:*_*'")
        return sorted(name.removeprefix("packed:") for (name,) in names)

    def rows(self, view: str, keys: Sequence[bytes], since_us: int | None = None) -> list[bytes | None]:
        """The packed row of each key, in order; None if there is none, or it is older than ``since_us``.

        Raises
        ------
        OnlineStoreError
            When a row is damaged.
        """
        return since([row for (row,) in self.fetch((view,), keys)], since_us)

    def rows_of(self, views: Sequence[tuple[str, int | None]], keys: Sequence[bytes]) -> list[list[bytes | None]]:
        """Like :meth:`rows` for several views (each with its ``since_us``) and the same keys, cached if possible.

        Times are compared after the look-up, so the cache includes rows that are too old.
        """
        result: list[list[bytes | None]] = []
        for at in range(0, len(views), _READ_VIEWS):
            part = views[at : at + _READ_VIEWS]
            entries = self._entries(tuple(view for view, _ in part), keys)
            columns = list(zip(*entries, strict=True)) or [()] * len(part)
            result += [since(list(rows), past_us) for rows, (_, past_us) in zip(columns, part, strict=True)]
        return result

    def marks(self, views: Sequence[str]) -> tuple[object, ...]:
        """See :func:`sidkit.stores.online.marks.read_marks`."""
        return read_marks(self._opened, views)

    def tails(self, views: Sequence[str], keys: Sequence[bytes]) -> list[tuple[bytes | None, ...]]:
        """See :func:`sidkit.stores.online.marks.read_tails`."""
        return read_tails(self._opened, views, keys)

    def _entries(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        if self._cache is None:
            return self.fetch(group, keys)
        # The first statement of a transaction fixes its snapshot, so version and rows belong together.
        [version] = self._opened.execute("PRAGMA data_version").fetchone()
        self._cache.at(version)
        return self._cache.look_up(group, keys, lambda missing: self.fetch(group, missing))

    def fetch(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """Read and verify the rows of each key in each of at most 32 views, without the row cache."""
        taken: list[Entry] = []
        for size, part, count in parts(keys):
            taken += self._opened.execute(select(group, size), part).fetchall()[:count]
        checks = list(map(crc32, keys))
        for view, rows in zip(group, zip(*taken, strict=True), strict=False):
            if all(rows):
                intact = all_intact(view, checks, rows)
            else:
                present = [(check, row) for check, row in zip(checks, rows, strict=True) if row is not None]
                missing = [key for key, row in zip(keys, rows, strict=True) if row is None]
                intact = not present or all_intact(view, *zip(*present, strict=True))
                intact = intact and all_intact(view, repeat(0), self._neighbours(view, missing))
            if not intact:
                raise self.damaged(view, "a row does not match its checksum")
        return taken

    def _neighbours(self, view: str, keys: Sequence[bytes]) -> Iterator[bytes]:
        """Key and row of the neighbours of missing keys."""
        for size, part, _ in parts(keys):
            for pair in self._opened.execute(beside(view, size), part):
                yield from (neighbour for neighbour in pair if neighbour is not None)

    def timed_rows(
        self, view: str, keys: Sequence[bytes], since_us: int | None = None
    ) -> list[tuple[bytes | None, int | None]]:
        """Like :meth:`rows`, with the event time in microseconds UTC."""
        return [(row, None if row is None else event_us(row)) for row in self.rows(view, keys, since_us)]

    def newest_us(self, view: str) -> int | None:
        """The newest event time of a view, microseconds UTC; None without rows. Reads every row."""
        [newest] = self._opened.execute(f"SELECT max(substr(row, -{TAIL}, 8)) FROM {table_of(view)}").fetchone()
        return None if newest is None else us_of(newest)

    def keys(self, view: str) -> Iterator[bytes]:
        """Yield the keys of all rows, sorted."""
        for (key,) in self._opened.execute(f"SELECT key FROM {table_of(view)} ORDER BY key"):
            yield key


class Writing(Reading):
    """A transaction for reading and writing."""

    def __init__(self, opened: sqlite3.Connection, file: PackedFile) -> None:
        super().__init__(opened, file)
        self.changed: set[str] = set()

    def make(self, view: str, layout: Layout) -> int:
        """Create a view's table if missing, and return the number of the layout."""
        self._opened.execute(table_statement(table_of(view)))
        text = layout.to_json()
        known = {columns: number for number, columns, _ in self._opened.execute(_LAYOUTS_OF, (view,))}
        if text in known:
            return int(known[text])
        number = max(known.values(), default=0) + 1
        if number > 65_535:
            raise OnlineStoreError(
                f"expected at most 65,535 layouts of {view} in {self._file.path}, got more; {self._file.remedy}"
            )
        self._opened.execute(
            f"INSERT INTO {LAYOUTS} (view, number, columns, checked) VALUES (?, ?, ?, ?)",
            (view, number, text, record_check(view, number, text)),
        )
        return number

    def put(
        self,
        view: str,
        keys: Sequence[bytes],
        events_us: Sequence[int],
        created_us: Sequence[int | None],
        rows: Sequence[bytes],
    ) -> None:
        """Write rows, except those older (by event, then created time) than the existing row.

        Among rows with the same key and times the last one wins.
        """
        self.changed.add(view)
        rows = sealed(view, keys, events_us, created_us, rows)
        # In key order each page of the table is visited only once.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        whole = len(order) // _INSERT_ROWS * _INSERT_ROWS
        for at in range(0, whole, _INSERT_ROWS):
            pick = itemgetter(*order[at : at + _INSERT_ROWS])
            values = zip(pick(keys), pick(rows), strict=True)
            self._opened.execute(upsert(view, _INSERT_ROWS), list(chain.from_iterable(values)))
        rest = [(keys[row], rows[row]) for row in order[whole:]]
        self._opened.executemany(upsert(view, 1), rest)

    def outdate(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> None:
        """Allow any row to replace the rows with these keys and event times; see also :meth:`drop_outdated`."""
        rows_of_keys = zip(keys, events_us, self.rows(view, keys), strict=True)
        present = [(key, row[:-TAIL]) for key, at, row in rows_of_keys if row is not None and event_us(row) == at]
        count = len(present)
        rows = sealed(
            view, [key for key, _ in present], [_OUTDATED_US] * count, [None] * count, [row for _, row in present]
        )
        self.changed.add(view)
        self._opened.executemany(
            f"UPDATE {table_of(view)} SET row = ? WHERE key = ?",
            [(row, key) for row, (key, _) in zip(rows, present, strict=True)],
        )

    def drop_outdated(self, view: str) -> None:
        """Delete the outdated rows that were not replaced."""
        self.changed.add(view)
        self._opened.execute(
            f"DELETE FROM {table_of(view)} WHERE substr(row, -{TAIL}, 8) = ?", (time_key(_OUTDATED_US),)
        )

    def drop(self, view: str) -> None:
        """Drop a view's table."""
        self.changed.add(view)
        self._opened.execute(f"DROP TABLE IF EXISTS {table_of(view)}")
        self._opened.execute(f"DELETE FROM {LAYOUTS} WHERE view = ?", (view,))


_abandoned: list[sqlite3.Connection] = []


def _close(opened: list[sqlite3.Connection], process: int) -> None:
    if process == os.getpid():
        while opened:
            opened.pop().close()
