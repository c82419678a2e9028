"""The SQLite file of packed rows: one table per feature view, one row per entity, readable beside one writer.

A view's table holds ``key`` (Feast's serialized entity key) and ``row`` (:mod:`sidkit.stores.online.layout`, with its times
and check value behind it: :mod:`sidkit.stores.online.checksums`). ``packed:layouts`` says how the rows of a table lie,
``packed:format`` the version of all this. The file is in WAL mode: readers see the last commit and neither wait for the
writer nor stop it.

Every row is checked when it is read from the file. A key that is not found is checked too: its neighbours in the table must
be sound, as a key that changed in the file lies beside the place where it is searched.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from zlib import crc32

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.cache import Found, Group, RowCache
from sidkit.stores.online.checksums import (
    TAIL,
    all_intact,
    event_key,
    event_us,
    record_check,
    sealed,
    time_key,
    us_of,
)
from sidkit.stores.online.codec import layout_number
from sidkit.stores.online.connection import ANEW, LAYOUTS, open_to_read, open_to_write, state_of
from sidkit.stores.online.layout import Layout, layout_from_json
from sidkit.stores.online.sql import beside, parts, select, table_of, table_statement, upsert

_OUTDATED_US = -1  # the event time of rows that any other may replace
_INSERT_ROWS = 256
_READ_VIEWS = 32  # SQLite joins at most 64 tables
_LAYOUTS_OF = f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ? ORDER BY number"


class PackedFile:
    """One file; safe to share between threads and to use after a fork.

    Parameters
    ----------
    path : Path
        Absolute.
    patience_seconds : float
        How long a writer waits for another one.
    cache_bytes : int, optional
        How many bytes of rows each thread that calls :meth:`Reading.rows_of` may keep until the next commit; 0 for none.
    remedy : str, optional
        What errors say of how to make the file anew.
    """

    def __init__(self, path: Path, patience_seconds: float, cache_bytes: int = 0, remedy: str = ANEW) -> None:
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
        """Let this thread keep no rows; the next reads search for theirs."""
        kept: RowCache | None = getattr(self._mine, "cache", None)
        if kept is not None:
            kept.forget()

    def delete(self) -> None:
        """Close and delete the file."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """One snapshot of all tables.

        Raises
        ------
        OnlineStoreError
            When the file is missing, damaged, or of another version.
        """
        with self._told():
            opened = self._connection(create=False)
            opened.execute("BEGIN")
            try:
                yield Reading(opened, self, self._mine.cache)
            finally:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """One transaction: all of it is there afterwards, or nothing.

        Raises
        ------
        OnlineStoreError
            When another writer holds the file for too long, or as for :meth:`reading`.
        """
        with self._told():
            opened = self._connection(create=True)
            opened.execute("BEGIN IMMEDIATE")
            try:
                yield Writing(opened, self)
                opened.execute("COMMIT")
            finally:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")
                self.forget()  # a connection is not told of its own commits

    def _connection(self, *, create: bool) -> sqlite3.Connection:
        if self._process != os.getpid():
            # SQLite's connections must not be used, not even closed, in a forked process.
            _forgotten.extend(self._opened)
            self._opened.clear()
            self._mine, self._process = threading.local(), os.getpid()
            weakref.finalize(self, _close, self._opened, os.getpid())
        found: sqlite3.Connection | None = getattr(self._mine, "opened", None)
        frozen = getattr(self._mine, "frozen", None)
        if found is not None and frozen is not None and (create or frozen != state_of(self.path)):
            self._opened.remove(found)
            found.close()
            found = None
        if found is None:
            found = self._open(create=create)
            self._opened.append(found)
            self._mine.opened = found
            self._mine.cache = RowCache(self._cache_bytes) if self._cache_bytes else None
        return found

    def _open(self, *, create: bool) -> sqlite3.Connection:
        self._mine.frozen = None
        if create:
            return open_to_write(self.path, self._patience, self.remedy)
        opened, self._mine.frozen = open_to_read(self.path, self._patience, self.remedy)
        return opened

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "decode" in str(error) or "malformed" in str(error):  # bytes that became a text, a schema that is none
                raise self._unreadable(error) from error
            remedy = (
                "run `feast apply`"
                if "no such table" in str(error)
                else "another writer may hold it, or the disk be full"
            )
            raise OnlineStoreError(f"the online store {self.path} does not answer ({error}): {remedy}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> OnlineStoreError:
        return OnlineStoreError(f"the online store {self.path} is damaged or no SQLite file ({error}): {self.remedy}")

    def damaged(self, view: str, problem: str) -> OnlineStoreError:
        """The error about a table that does not hold what was written."""
        return OnlineStoreError(
            f"the online store {self.path} is damaged: {problem} in table packed:{view}; {self.remedy}"
        )


class Reading:
    """One snapshot, for reading."""

    def __init__(self, opened: sqlite3.Connection, file: PackedFile, cache: RowCache | None = None) -> None:
        self._opened = opened
        self._file = file
        self._cache = cache

    def damaged(self, view: str, problem: str) -> OnlineStoreError:
        """The error about a table that does not hold what was written."""
        return self._file.damaged(view, problem)

    def layouts_of(self, view: str, rows: Sequence[bytes | None]) -> dict[int, Layout]:
        """As :meth:`layouts`, with every layout that some rows of the view have."""
        layouts = self.layouts(view)
        missing = {layout_number(row) for row in rows if row is not None} - layouts.keys()
        if missing:
            raise self.damaged(view, f"layout {min(missing)} is not there")
        return layouts

    def layouts(self, view: str) -> dict[int, Layout]:
        """The layouts of a view's rows by their numbers, the newest last.

        Raises
        ------
        OnlineStoreError
            When one is not what was written.
        """
        found = {}
        for number, text, checked in self._opened.execute(_LAYOUTS_OF, (view,)):
            layout = _layout(view, number, text, checked)
            if layout is None:
                raise self.damaged(view, f"layout {number!r} is not what was written")
            found[number] = layout
        return found

    def views(self) -> list[str]:
        """The views that have a table."""
        found = self._opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'packed:*_*'")
        return sorted(name.removeprefix("packed:") for (name,) in found)

    def rows(self, view: str, keys: Sequence[bytes], since_us: int | None = None) -> list[bytes | None]:
        """The packed row of each key, in the order of the keys; None where there is none, or none since a moment.

        Raises
        ------
        OnlineStoreError
            When a row is not what was written.
        """
        return _since([row for (row,) in self._fetch((view,), keys)], since_us)

    def rows_of(self, views: Sequence[tuple[str, int | None]], keys: Sequence[bytes]) -> list[list[bytes | None]]:
        """What :meth:`rows` gives, of several views (each with its moment) for the same keys, from the cache where it can be.

        Moments are compared with what was found, so the cache holds rows that are too old as well.
        """
        told: list[list[bytes | None]] = []
        for at in range(0, len(views), _READ_VIEWS):
            part = views[at : at + _READ_VIEWS]
            found = self._found(tuple(view for view, _ in part), keys)
            columns = list(zip(*found, strict=True)) or [()] * len(part)
            told += [_since(list(rows), since) for rows, (_, since) in zip(columns, part, strict=True)]
        return told

    def _found(self, group: Group, keys: Sequence[bytes]) -> list[Found]:
        if self._cache is None:
            return self._fetch(group, keys)
        # The first statement of a transaction fixes what it sees: version and rows are of one snapshot.
        [version] = self._opened.execute("PRAGMA data_version").fetchone()
        self._cache.at(version)
        return self._cache.look_up(group, keys, lambda missing: self._fetch(group, missing))

    def _fetch(self, group: Group, keys: Sequence[bytes]) -> list[Found]:
        """What the file holds, checked."""
        taken: list[Found] = []
        for size, part, asked in parts(keys):
            taken += self._opened.execute(select(group, size), part).fetchall()[:asked]
        checks = list(map(crc32, keys))
        for view, rows in zip(group, zip(*taken, strict=True), strict=False):
            if all(rows):
                sound = all_intact(view, checks, rows)
            else:
                there = [(check, row) for check, row in zip(checks, rows, strict=True) if row is not None]
                missing = [key for key, row in zip(keys, rows, strict=True) if row is None]
                sound = not there or all_intact(view, *zip(*there, strict=True))
                sound = sound and all_intact(view, repeat(0), self._neighbours(view, missing))
            if not sound:
                raise self.damaged(view, "a row is not what was written")
        return taken

    def _neighbours(self, view: str, keys: Sequence[bytes]) -> Iterator[bytes]:
        """Key and row of what lies before and behind keys that are not in a table."""
        for size, part, _ in parts(keys):
            for pair in self._opened.execute(beside(view, size), part):
                yield from (found for found in pair if found is not None)

    def timed_rows(
        self, view: str, keys: Sequence[bytes], since_us: int | None = None
    ) -> list[tuple[bytes | None, int | None]]:
        """As :meth:`rows`, with the event time in microseconds UTC."""
        return [(row, None if row is None else event_us(row)) for row in self.rows(view, keys, since_us)]

    def newest_us(self, view: str) -> int | None:
        """The newest event time of a view, microseconds UTC; None where it has no row. It looks at every row."""
        [newest] = self._opened.execute(f"SELECT max(substr(row, -{TAIL}, 8)) FROM {table_of(view)}").fetchone()
        return None if newest is None else us_of(newest)

    def keys(self, view: str) -> Iterator[bytes]:
        """The keys of all rows, in their order."""
        for (key,) in self._opened.execute(f"SELECT key FROM {table_of(view)} ORDER BY key"):
            yield key


class Writing(Reading):
    """One transaction, for reading and writing."""

    def make(self, view: str, layout: Layout) -> int:
        """Make a view's table if it is not there, and return the layout's number in it."""
        text = layout.to_json()
        known = {columns: number for number, columns, _ in self._opened.execute(_LAYOUTS_OF, (view,))}
        if text in known:
            return int(known[text])
        number = max(known.values(), default=0) + 1
        if number > 65_535:
            raise OnlineStoreError(f"{view} had 65,535 layouts in {self._file.path}: {self._file.remedy}")
        self._opened.execute(table_statement(table_of(view)))
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
        """Write rows; one that is older than what is there (event, then created time) changes nothing.

        Of rows that have the same key and times the last one stays.
        """
        rows = sealed(view, keys, events_us, created_us, rows)
        # In the order of the keys a page of the table is found, filled and left once.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        whole = len(order) // _INSERT_ROWS * _INSERT_ROWS
        for at in range(0, whole, _INSERT_ROWS):
            pick = itemgetter(*order[at : at + _INSERT_ROWS])
            values = zip(pick(keys), pick(rows), strict=True)
            self._opened.execute(upsert(view, _INSERT_ROWS), list(chain.from_iterable(values)))
        rest = [(keys[row], rows[row]) for row in order[whole:]]
        self._opened.executemany(upsert(view, 1), rest)

    def outdate(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> None:
        """Let any row replace those of these keys and event times; they stay until one does, or :meth:`drop_outdated`."""
        found = zip(keys, events_us, self.rows(view, keys), strict=True)
        there = [(key, row[:-TAIL]) for key, at, row in found if row is not None and event_us(row) == at]
        count = len(there)
        rows = sealed(
            view, [key for key, _ in there], [_OUTDATED_US] * count, [None] * count, [row for _, row in there]
        )
        self._opened.executemany(
            f"UPDATE {table_of(view)} SET row = ? WHERE key = ?",
            [(row, key) for row, (key, _) in zip(rows, there, strict=True)],
        )

    def drop_outdated(self, view: str) -> None:
        """Drop the outdated rows that no row replaced."""
        self._opened.execute(
            f"DELETE FROM {table_of(view)} WHERE substr(row, -{TAIL}, 8) = ?", (time_key(_OUTDATED_US),)
        )

    def drop(self, view: str) -> None:
        """Drop a view's table."""
        self._opened.execute(f"DROP TABLE IF EXISTS {table_of(view)}")
        self._opened.execute(f"DELETE FROM {LAYOUTS} WHERE view = ?", (view,))


def _since(rows: list[bytes | None], since_us: int | None) -> list[bytes | None]:
    """The rows whose event time is a moment or later, None for the others."""
    if since_us is None:
        return rows
    earliest = time_key(since_us)
    return [row if row is not None and event_key(row) >= earliest else None for row in rows]


@lru_cache(maxsize=1024)
def _layout(view: str, number: int, columns: str, checked: int) -> Layout | None:
    """A layout, None where it is not what was written."""
    return layout_from_json(columns) if record_check(view, number, columns) == checked else None


_forgotten: list[sqlite3.Connection] = []


def _close(opened: list[sqlite3.Connection], process: int) -> None:
    if process == os.getpid():
        while opened:
            opened.pop().close()
