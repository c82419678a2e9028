"""Transactions on a SQLite file of packed rows; :mod:`sidkit.stores.online.sqlite_file` opens them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Protocol

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import rows_by_hash, rows_by_key
from sidkit.stores.online.cache import Column, Entry, Group, RowCache
from sidkit.stores.online.checksums import (
    TAIL,
    checked_layout,
    record_check,
    sealed,
    since,
    time_key,
    us_of,
)
from sidkit.stores.online.connection import LAYOUTS, VERSION, known_version, views_of
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.marks import read_marks
from sidkit.stores.online.rows_by_hash import Damaged
from sidkit.stores.online.second_keys import has_index, make_index, rows_of_second
from sidkit.stores.online.sql import insert_apart, table_of, table_statement, upsert
from sidkit.stores.online.transactions import OUTDATED_US, READ_VIEWS, Reading, Writing

_INSERT_ROWS = 256
_LAYOUTS_OF = f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ? ORDER BY number"


class Tables(Protocol):
    """What reads the tables of one version of the file: a module."""

    def columns_of(
        self, opened: sqlite3.Connection, damaged: Damaged, group: Group, keys: Sequence[bytes]
    ) -> Sequence[Column]:
        """See :func:`sidkit.stores.online.rows_by_hash.columns_of`."""

    def tails(
        self, opened: sqlite3.Connection, damaged: Damaged, views: Sequence[str], keys: Sequence[bytes]
    ) -> list[tuple[bytes | None, ...]]:
        """See :func:`sidkit.stores.online.rows_by_hash.tails`."""


class FileReading(Reading):
    """A snapshot for reading."""

    def __init__(self, opened: sqlite3.Connection, path: Path, remedy: str, cache: RowCache | None = None) -> None:
        super().__init__(str(path), remedy)
        self._opened = opened
        self._cache = cache
        self._version_read = False

    def layouts(self, view: str) -> dict[int, Layout]:
        """Layouts of a view's rows by number, the newest last.

        Raises
        ------
        OnlineStoreError
            When a layout is damaged.
        """
        cached = None if self._cache is None else self._cached(self._cache).layouts
        if cached is not None and view in cached:
            return cached[view]
        layouts = {}
        for number, text, checked in self._opened.execute(_LAYOUTS_OF, (view,)):
            layout = checked_layout(view, number, text, checked)
            if layout is None:
                raise self.damaged(view, f"layout {number!r} does not match its checksum")
            layouts[number] = layout
        if cached is not None:
            cached[view] = layouts
        return layouts

    def views(self) -> list[str]:
        """Names of the views that have a table."""
        return views_of(self._opened)

    def marks(self, views: Sequence[str]) -> tuple[object, ...]:
        """See :func:`sidkit.stores.online.marks.read_marks`."""
        return read_marks(self._opened, views)

    def tails(self, views: Sequence[str], keys: Sequence[bytes]) -> list[tuple[bytes | None, ...]]:
        """See :meth:`Reading.tails`."""
        return self._tables.tails(self._opened, self.damaged, views, keys)

    def has_index(self, view: str, key: bytes) -> bool:
        """See :func:`sidkit.stores.online.second_keys.has_index`."""
        return has_index(self._opened, view, key)

    def rows_of_second(self, view: str, names: int, value: bytes, most: int) -> dict[bytes, bytes] | None:
        """See :func:`sidkit.stores.online.second_keys.rows_of_second`."""

        def fetch(keys: Sequence[bytes]) -> list[bytes | None]:
            return [row for (row,) in self.fetch((view,), keys)]

        def damaged(problem: str) -> OnlineStoreError:
            return self.damaged(view, problem)

        by_key = fetch if self._tables is rows_by_key else None
        return rows_of_second(self._opened, by_key, damaged, view, names, value, most)

    def rows_of(self, views: Sequence[tuple[str, int | None]], keys: Sequence[bytes]) -> list[list[bytes | None]]:
        """See :meth:`Reading.rows_of`; without cached rows, those of a view need not be put together by key and apart again."""
        group = tuple(view for view, _ in views)
        cache = self._cached(self._cache) if self._cache is not None and 0 < len(group) <= READ_VIEWS else None
        if cache is None or not cache.is_empty(group):
            return super().rows_of(views, keys)
        columns = self._tables.columns_of(self._opened, self.damaged, group, keys)
        cache.keep_columns(group, keys, columns)
        return [since(list(rows), past_us) for rows, (_, past_us) in zip(columns, views, strict=True)]

    def entries(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """See :meth:`Reading.entries`."""
        if self._cache is None:
            return self.fetch(group, keys)
        return self._cached(self._cache).look_up(group, keys, lambda missing: self.fetch(group, missing))

    def _cached(self, cache: RowCache) -> RowCache:
        """The cache, without what it has of another version of the file."""
        if not self._version_read:
            # The first statement of a transaction fixes its snapshot, so version and rows belong together.
            [version] = self._opened.execute("PRAGMA data_version").fetchone()
            cache.at(version)
            self._version_read = True
        return cache

    def fetch(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """Read and verify the rows of each key in each of at most 32 views, without the row cache."""
        return list(zip(*self._tables.columns_of(self._opened, self.damaged, group, keys), strict=True))

    @property
    def _tables(self) -> Tables:
        """The module that reads the tables of this file's version."""
        cache = None if self._cache is None else self._cached(self._cache)
        version = None if cache is None else cache.tables
        if version is None:
            version = known_version(self._opened, self.place, self.remedy)
            if cache is not None:
                cache.tables = version
        return rows_by_hash if version == VERSION else rows_by_key

    def newest_us(self, view: str) -> int | None:
        """See :meth:`Reading.newest_us`."""
        [newest] = self._opened.execute(f"SELECT max(substr(row, -{TAIL}, 8)) FROM {table_of(view)}").fetchone()
        return None if newest is None else us_of(newest)

    def keys(self, view: str) -> Iterator[bytes]:
        """See :meth:`Reading.keys`."""
        for (key,) in self._opened.execute(f"SELECT key FROM {table_of(view)} ORDER BY key"):
            yield key

    def is_empty(self, view: str) -> bool:
        """See :meth:`Reading.is_empty`."""
        return self._opened.execute(f"SELECT 1 FROM {table_of(view)} LIMIT 1").fetchone() is None


class FileWriting(FileReading, Writing):
    """A transaction for reading and writing."""

    def __init__(self, opened: sqlite3.Connection, path: Path, remedy: str) -> None:
        super().__init__(opened, path, remedy)
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
                f"expected at most 65,535 layouts of {view} in {self.place}, got more; {self.remedy}"
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
        hashes = hashes_of(keys)
        apart = rows_by_hash.keys_apart(self._opened, view)
        # In the order of the hashes each page of the table is visited only once.
        order = sorted(range(len(keys)), key=hashes.__getitem__)
        for at in range(0, len(order), _INSERT_ROWS):
            places = order[at : at + _INSERT_ROWS]
            part = [(hashes[place], keys[place], rows[place]) for place in places]
            if apart.isdisjoint(key for _, key, _ in part):
                with suppress(sqlite3.IntegrityError):  # a key with another one's hash
                    self._put_all(view, part)
                    continue
            for number, key, row in part:
                self._put_one(view, number, key, row)
            apart = rows_by_hash.keys_apart(self._opened, view)

    def _put_all(self, view: str, part: list[tuple[int, bytes, bytes]]) -> None:
        """Write rows by the hashes of their keys; raises, after some, if a hash belongs to another key's row."""
        if len(part) == _INSERT_ROWS:
            self._opened.execute(upsert(view, _INSERT_ROWS), list(chain.from_iterable(part)))
        else:
            self._opened.executemany(upsert(view, 1), part)

    def _put_one(self, view: str, own: int, key: bytes, row: bytes) -> None:
        """Write a row whose key may have the hash of another one."""
        apart = rows_by_hash.rows_apart(self._opened, self.damaged, view)
        if key in apart:
            own = apart[key][0]
        elif rows_by_hash.collides(self._opened, self.damaged, view, own, key):
            self._opened.execute(insert_apart(view), (key, row))
            return
        self._opened.execute(upsert(view, 1), (own, key, row))

    def index(self, view: str, key: bytes) -> None:
        """See :func:`sidkit.stores.online.second_keys.make_index`."""
        make_index(self._opened, view, key)

    def put_over(
        self, view: str, key: bytes, event_us: int, created_us: int | None, row: bytes, existing: bytes | None
    ) -> bool:
        """See :meth:`Writing.put_over`; within a transaction nobody else writes."""
        self.put(view, [key], [event_us], [created_us], [row])
        return True

    def outdate(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> None:
        """Allow any row to replace the rows with these keys and event times; see also :meth:`drop_outdated`."""
        outdated = self.outdated(view, keys, events_us)
        self.changed.add(view)
        apart = rows_by_hash.rows_apart(self._opened, self.damaged, view)
        hashes = hashes_of([key for key, _, _ in outdated])
        numbered = [
            (row, apart[key][0] if key in apart else own) for own, (key, _, row) in zip(hashes, outdated, strict=True)
        ]
        self._opened.executemany(f"UPDATE {table_of(view)} SET row = ? WHERE hash = ?", numbered)

    def drop_outdated(self, view: str) -> None:
        """Delete the outdated rows that were not replaced."""
        self.changed.add(view)
        self._opened.execute(
            f"DELETE FROM {table_of(view)} WHERE substr(row, -{TAIL}, 8) = ?", (time_key(OUTDATED_US),)
        )

    def drop(self, view: str) -> None:
        """Drop a view's table."""
        self.changed.add(view)
        self._opened.execute(f"DROP TABLE IF EXISTS {table_of(view)}")
        self._opened.execute(f"DELETE FROM {LAYOUTS} WHERE view = ?", (view,))
