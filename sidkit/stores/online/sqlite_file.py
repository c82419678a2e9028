"""The SQLite file of packed rows: one table per feature view, one row per entity, readable beside one writer.

A view's table has ``hash``, the number of the row (:mod:`sidkit.stores.online.key_hashes`), ``key`` (Feast's serialized entity
key) and ``row`` (:mod:`sidkit.stores.online.layout`, followed by times and checksum: :mod:`sidkit.stores.online.checksums`).
``packed:layouts`` has the layouts of the rows of each table, ``packed:format`` the version of the format, and
``packed:marks`` a random number per view that every write to the view replaces, so that readers which hold rows in arrays
notice it. The file is in WAL mode: readers see the last commit and neither wait for the writer nor block it.

Every row is verified when it is read from the file, and so is a key that is not found
(:mod:`sidkit.stores.online.rows_by_hash`). A file of version 2, whose tables are in the order of the keys, is read as it is;
the first transaction that writes converts it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.cache import Entry, Group, RowCache
from sidkit.stores.online.checksums import all_intact
from sidkit.stores.online.connection import REBUILD, VERSION, identity_of, open_to_read, open_to_write, state_of
from sidkit.stores.online.conversion import convert_by_key
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.marks import write_marks
from sidkit.stores.online.sql import select
from sidkit.stores.online.sqlite_transactions import FileReading, FileWriting
from sidkit.stores.online.transactions import Layouts, PackedDatabase

_VERSION = "PRAGMA data_version"


class PackedFile(PackedDatabase):
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
        super().__init__(str(path), remedy)
        self.path = path
        self._patience = patience_seconds
        self._cache_bytes = cache_bytes
        self._mine = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._process = os.getpid()
        weakref.finalize(self, _close, self._opened, os.getpid())

    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.exists()

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
    def reading(self) -> Iterator[FileReading]:
        """Open a snapshot of all tables; inside another one of this thread, the same snapshot.

        Raises
        ------
        OnlineStoreError
            When the file is missing, damaged, or has another version.
        """
        with self._translated_errors():
            opened = self._connection(create=False)
            if bool(opened.in_transaction):
                yield FileReading(opened, self.path, self.remedy, self._mine.cache)
                return
            opened.execute("BEGIN")
            try:
                yield FileReading(opened, self.path, self.remedy, self._mine.cache)
            finally:
                if opened.in_transaction:
                    opened.execute("ROLLBACK")

    def cached(self, wanted: Sequence[tuple[Group, Sequence[bytes]]]) -> tuple[FileReading, list[list[Entry]]] | None:
        """The rows of keys in each group of views if all of them and their layouts are cached and no commit came in between.

        No transaction is opened: the snapshot reads nothing but layouts. None if a transaction is needed, also for what cannot
        be read, so that it says what is wrong.
        """
        with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            opened, cache = self._newest(group for group, _ in wanted)
            if cache is None:
                return None
            found = [cache.entries(group, keys) for group, keys in wanted]
            entries = [each for each in found if each is not None]
            return (FileReading(opened, self.path, self.remedy, cache), entries) if len(entries) == len(found) else None
        return None

    def newest(self, wanted: Sequence[tuple[Group, bytes]]) -> tuple[list[Entry], Layouts] | None:
        """The newest rows of one key in each group of at most 32 views, verified, and the layouts of views that were read.

        None if a transaction is needed: a row or a layout is missing or damaged, or the file was written since this thread
        read it last.
        """
        with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            opened, cache = self._newest(group for group, _ in wanted)
            if cache is None or cache.tables != VERSION:
                return None
            entries, read = [], False
            for group, key in wanted:
                entry = cache.entry(group, key)
                if entry is None:
                    [(*rows, own)] = opened.execute(select(group, 1), hashes_of((key,))).fetchall()
                    entry = tuple(rows)
                    if own != key or not all(map(all_intact, group, repeat((key,)), zip(entry, strict=True))):
                        return None
                    read = True
                entries.append(entry)
            # The rows are of the version that the layouts belong to if nothing was committed in between.
            if read and opened.execute(_VERSION).fetchone() != (cache.version,):
                return None
            return entries, cache.layouts
        return None

    def _newest(self, groups: Iterable[Group]) -> tuple[sqlite3.Connection, RowCache | None]:
        """This thread's connection, and its cache if that has the layouts of the groups in the newest version."""
        opened = self._connection(create=False)
        cache: RowCache | None = self._mine.cache
        if cache is None or not all(cache.layouts.keys() >= set(group) for group in groups):
            return opened, None
        return opened, cache if opened.execute(_VERSION).fetchone() == (cache.version,) else None

    @contextmanager
    def writing(self) -> Iterator[FileWriting]:
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
                writing = FileWriting(opened, self.path, self.remedy)
                convert_by_key(opened, writing.damaged)
                yield writing
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


_abandoned: list[sqlite3.Connection] = []


def _close(opened: list[sqlite3.Connection], process: int) -> None:
    if process == os.getpid():
        while opened:
            opened.pop().close()
