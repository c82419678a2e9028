"""The SQLite file of packed rows: one table per feature view, one row per entity, readable beside one writer.

A view's table holds ``key`` (Feast's serialized entity key), ``event_us`` and ``created_us`` (microseconds UTC) and ``row``
(:mod:`sidkit.stores.packed_layout`). ``packed:layouts`` says how the rows of a table lie, ``packed:format`` the version of
all this. The file is in WAL mode: readers see the last commit and neither wait for the writer nor stop it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sidkit.engine import quoted
from sidkit.errors import OnlineStoreError
from sidkit.stores.packed_cache import Found, Group, RowCache
from sidkit.stores.packed_layout import VERSION, Layout, layout_from_json

FORMAT, LAYOUTS = '"packed:format"', '"packed:layouts"'
_NEVER = -(2**63)  # a missing created time is older than any
_OUTDATED_US = -1  # the event time of rows that any other may replace
_INSERT_ROWS = 256
_READ_VIEWS = 32  # SQLite joins at most 64 tables
_READ_KEYS = (1, 8, 64, 512, 4096)  # a statement per size is prepared once; unused places are null and find nothing
_LAYOUTS_OF = f"SELECT number, columns FROM {LAYOUTS} WHERE view = ? ORDER BY number"

Row = tuple[bytes, int, int | None, bytes]
"""(key, event_us, created_us, row)."""


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
    """

    def __init__(self, path: Path, patience_seconds: float, cache_bytes: int = 0) -> None:
        self.path = path
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
                yield Reading(opened, self.path, self._mine.cache)
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
                yield Writing(opened, self.path)
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
        if found is None:
            found = self._open(create=create)
            self._opened.append(found)
            self._mine.opened = found
            self._mine.cache = RowCache(self._cache_bytes) if self._cache_bytes else None
        return found

    def _open(self, *, create: bool) -> sqlite3.Connection:
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            raise OnlineStoreError(f"there is no online store at {self.path}; run `feast apply` and materialize")
        opened = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={'rwc' if create else 'rw'}", uri=True, isolation_level=None,
            check_same_thread=False, timeout=self._patience, cached_statements=512,
        )  # fmt: skip
        try:
            opened.execute("PRAGMA page_size = 8192")  # rows lie in the leaves: wide ones want wide pages
            if opened.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                opened.execute("PRAGMA journal_mode = WAL")
            opened.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last commits, never the file
            opened.execute("PRAGMA cache_size = -32768")
            opened.execute("PRAGMA mmap_size = 4294967296")
            opened.execute("PRAGMA wal_autocheckpoint = 8000")
            _refuse_other_version(opened, self.path)
            if create:
                _make_format(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            remedy = (
                "run `feast apply`"
                if "no such table" in str(error)
                else "another writer may hold it, or the disk be full"
            )
            raise OnlineStoreError(f"the online store {self.path} does not answer ({error}): {remedy}") from error
        except sqlite3.DatabaseError as error:
            raise OnlineStoreError(
                f"the online store {self.path} is damaged or no SQLite file ({error}): delete it, run `feast apply` and "
                "materialize again"
            ) from error


class Reading:
    """One snapshot, for reading."""

    def __init__(self, opened: sqlite3.Connection, path: Path, cache: RowCache | None = None) -> None:
        self._opened = opened
        self._path = path
        self._cache = cache

    def layouts(self, view: str) -> dict[int, Layout]:
        """The layouts of a view's rows by their numbers, the newest last."""
        return {number: layout_from_json(text) for number, text in self._opened.execute(_LAYOUTS_OF, (view,))}

    def views(self) -> list[str]:
        """The views that have a table."""
        found = self._opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'packed:*_*'")
        return sorted(name.removeprefix("packed:") for (name,) in found)

    def rows(self, view: str, keys: Sequence[bytes], since_us: int | None = None) -> list[bytes | None]:
        """The packed row of each key, in the order of the keys; None where there is none, or none since a moment."""
        taken: list[bytes | None] = []
        for part, asked in self._asked(view, "t.row", keys, since_us):
            taken += list(chain.from_iterable(part))[:asked]
        return taken

    def rows_of(self, views: Sequence[tuple[str, int | None]], keys: Sequence[bytes]) -> list[list[bytes | None]]:
        """What :meth:`rows` gives, of several views (each with its moment) for the same keys, from the cache where it can be.

        Moments are judged on what was found, so the cache holds rows that are too old as well.
        """
        told: list[list[bytes | None]] = []
        for at in range(0, len(views), _READ_VIEWS):
            part = views[at : at + _READ_VIEWS]
            found = self._found(tuple((view, since is not None) for view, since in part), keys)
            columns = iter(zip(*found, strict=True))
            for _, since in part:
                rows = list(next(columns, ()))
                if since is not None:
                    times = next(columns, ())
                    rows = [row if row and time >= since else None for row, time in zip(rows, times, strict=True)]
                told.append(rows)
        return told

    def _found(self, group: Group, keys: Sequence[bytes]) -> list[Found]:
        if self._cache is None:
            return self._fetch(group, keys)
        # The first statement of a transaction fixes what it sees: version and rows are of one snapshot.
        [version] = self._opened.execute("PRAGMA data_version").fetchone()
        self._cache.at(version)
        return self._cache.look_up(group, keys, lambda missing: self._fetch(group, missing))

    def _fetch(self, group: Group, keys: Sequence[bytes]) -> list[Found]:
        taken: list[Found] = []
        for size, part, asked in _parts(keys):
            taken += self._opened.execute(_select_of(group, size), part).fetchall()[:asked]
        return taken

    def timed_rows(
        self, view: str, keys: Sequence[bytes], since_us: int | None = None
    ) -> list[tuple[bytes | None, int | None]]:
        """As :meth:`rows`, with the event time in microseconds UTC."""
        taken: list[tuple[bytes | None, int | None]] = []
        for part, asked in self._asked(view, "t.row, t.event_us", keys, since_us):
            taken += part.fetchall()[:asked]
        return taken

    def newest_us(self, view: str) -> int | None:
        """The newest event time of a view, microseconds UTC; None where it has no row. It looks at every row."""
        [newest] = self._opened.execute(f"SELECT max(event_us) FROM {table_of(view)}").fetchone()
        return None if newest is None else int(newest)

    def keys(self, view: str) -> Iterator[bytes]:
        """The keys of all rows, in their order."""
        for (key,) in self._opened.execute(f"SELECT key FROM {table_of(view)} ORDER BY key"):
            yield key

    def _asked(
        self, view: str, columns: str, keys: Sequence[bytes], since_us: int | None
    ) -> Iterator[tuple[sqlite3.Cursor, int]]:
        for size, part, asked in _parts(keys):
            values = part if since_us is None else [*part, since_us]
            yield self._opened.execute(_select(view, columns, size, since_us is not None), values), asked


class Writing(Reading):
    """One transaction, for reading and writing."""

    def make(self, view: str, layout: Layout) -> int:
        """Make a view's table if it is not there, and return the layout's number in it."""
        text = layout.to_json()
        known = {columns: number for number, columns in self._opened.execute(_LAYOUTS_OF, (view,))}
        if text in known:
            return int(known[text])
        number = max(known.values(), default=0) + 1
        if number > 65_535:
            raise OnlineStoreError(f"{view} had 65,535 layouts in {self._path}: delete the file and materialize again")
        self._opened.execute(
            f"CREATE TABLE IF NOT EXISTS {table_of(view)} (key BLOB PRIMARY KEY, event_us INTEGER NOT NULL, "
            "created_us INTEGER, row BLOB NOT NULL) WITHOUT ROWID"
        )
        self._opened.execute(f"INSERT INTO {LAYOUTS} (view, number, columns) VALUES (?, ?, ?)", (view, number, text))
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
        # In the order of the keys a page of the table is found, filled and left once.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        whole = len(order) // _INSERT_ROWS * _INSERT_ROWS
        for at in range(0, whole, _INSERT_ROWS):
            pick = itemgetter(*order[at : at + _INSERT_ROWS])
            values = zip(pick(keys), pick(events_us), pick(created_us), pick(rows), strict=True)
            self._opened.execute(_upsert(view, _INSERT_ROWS), list(chain.from_iterable(values)))
        rest = [(keys[row], events_us[row], created_us[row], rows[row]) for row in order[whole:]]
        self._opened.executemany(_upsert(view, 1), rest)

    def outdate(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> None:
        """Let any row replace those of these keys and event times; they stay until one does, or :meth:`drop_outdated`."""
        self._opened.executemany(
            f"UPDATE {table_of(view)} SET event_us = {_OUTDATED_US}, created_us = NULL WHERE key = ? AND event_us = ?",
            zip(keys, events_us, strict=True),
        )

    def drop_outdated(self, view: str) -> None:
        """Drop the outdated rows that no row replaced."""
        self._opened.execute(f"DELETE FROM {table_of(view)} WHERE event_us = {_OUTDATED_US}")

    def drop(self, view: str) -> None:
        """Drop a view's table."""
        self._opened.execute(f"DROP TABLE IF EXISTS {table_of(view)}")
        self._opened.execute(f"DELETE FROM {LAYOUTS} WHERE view = ?", (view,))


def table_of(view: str) -> str:
    """The quoted name of a view's table; a colon cannot be in a name that Feast makes, so other stores' tables stay apart."""
    return quoted(f"packed:{view}")


def _parts(keys: Sequence[bytes]) -> Iterator[tuple[int, list[Any], int]]:
    """Keys in statements: (size of the statement, its values, how many of them are keys)."""
    at = 0
    while at < len(keys):
        left = len(keys) - at
        size = next((size for size in _READ_KEYS if size >= left), _READ_KEYS[-1])
        part: list[Any] = list(keys[at : at + size])
        asked = len(part)
        yield size, part + [None] * (size - asked), asked
        at += size


@lru_cache(maxsize=1024)
def _select_of(group: Group, size: int) -> str:
    columns = [
        f"t{place}.row, t{place}.event_us" if timed else f"t{place}.row" for place, (_, timed) in enumerate(group)
    ]
    joined = [
        f"LEFT JOIN {table_of(view)} AS t{place} ON t{place}.key = v.column1" for place, (view, _) in enumerate(group)
    ]
    return f"SELECT {', '.join(columns)} FROM (VALUES {','.join(['(?)'] * size)}) AS v {' '.join(joined)}"


@lru_cache(maxsize=1024)
def _select(view: str, columns: str, size: int, since: bool) -> str:
    # The left side of a left join is the outer loop, so rows come in the order of the values.
    places = ",".join(["(?)"] * size)
    condition = " AND t.event_us >= ?" if since else ""
    return (
        f"SELECT {columns} FROM (VALUES {places}) AS v LEFT JOIN {table_of(view)} AS t ON t.key = v.column1{condition}"
    )


@lru_cache(maxsize=1024)
def _upsert(view: str, size: int) -> str:
    values = ",".join(["(?,?,?,?)"] * size)
    return (
        f"INSERT INTO {table_of(view)} AS t (key, event_us, created_us, row) VALUES {values} ON CONFLICT (key) DO UPDATE "
        "SET event_us = excluded.event_us, created_us = excluded.created_us, row = excluded.row "
        "WHERE excluded.event_us > t.event_us OR (excluded.event_us = t.event_us AND "
        f"ifnull(excluded.created_us, {_NEVER}) >= ifnull(t.created_us, {_NEVER}))"
    )


def _make_format(opened: sqlite3.Connection) -> None:
    there = "SELECT 1 FROM sqlite_master WHERE name = 'packed:layouts'"
    if opened.execute(there).fetchone():
        return
    opened.execute("BEGIN IMMEDIATE")
    try:
        opened.execute(f"CREATE TABLE IF NOT EXISTS {FORMAT} (version INTEGER NOT NULL)")
        opened.execute(f"INSERT INTO {FORMAT} SELECT {VERSION} WHERE NOT EXISTS (SELECT 1 FROM {FORMAT})")
        opened.execute(
            f"CREATE TABLE IF NOT EXISTS {LAYOUTS} (view TEXT NOT NULL, number INTEGER NOT NULL, columns TEXT NOT NULL, "
            "PRIMARY KEY (view, number))"
        )
        opened.execute("COMMIT")
    finally:
        if opened.in_transaction:
            opened.execute("ROLLBACK")


def _refuse_other_version(opened: sqlite3.Connection, path: Path) -> None:
    if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'packed:format'").fetchone():
        return
    versions: list[Any] = [version for (version,) in opened.execute(f"SELECT version FROM {FORMAT}")]
    if any(version != VERSION for version in versions):
        raise OnlineStoreError(
            f"the online store {path} has version {versions[0]!r}; this release reads version {VERSION}. Use the release "
            "that wrote it, or delete the file, run `feast apply` and materialize again"
        )


_forgotten: list[sqlite3.Connection] = []


def _close(opened: list[sqlite3.Connection], process: int) -> None:
    if process == os.getpid():
        while opened:
            opened.pop().close()
