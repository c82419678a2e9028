"""Transactions on a SQLite file of packed rows; :mod:`sidkit.stores.online.sqlite_file` opens them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.cache import Entry, Group, RowCache
from sidkit.stores.online.checksums import (
    TAIL,
    all_intact,
    checked_layout,
    record_check,
    sealed,
    time_key,
    us_of,
)
from sidkit.stores.online.connection import LAYOUTS
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.marks import read_marks, read_tails
from sidkit.stores.online.second_keys import has_index, make_index, rows_of_second
from sidkit.stores.online.sql import beside, parts, select, table_of, table_statement, upsert
from sidkit.stores.online.transactions import OUTDATED_US, Reading, Writing

_INSERT_ROWS = 256
_LAYOUTS_OF = f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ? ORDER BY number"


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
        names = self._opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'packed:*_*'")
        return sorted(name.removeprefix("packed:") for (name,) in names)

    def marks(self, views: Sequence[str]) -> tuple[object, ...]:
        """See :func:`sidkit.stores.online.marks.read_marks`."""
        return read_marks(self._opened, views)

    def tails(self, views: Sequence[str], keys: Sequence[bytes]) -> list[tuple[bytes | None, ...]]:
        """See :func:`sidkit.stores.online.marks.read_tails`."""
        return read_tails(self._opened, views, keys)

    def has_index(self, view: str, key: bytes) -> bool:
        """See :func:`sidkit.stores.online.second_keys.has_index`."""
        return has_index(self._opened, view, key)

    def rows_of_second(self, view: str, names: int, value: bytes, most: int) -> dict[bytes, bytes] | None:
        """See :func:`sidkit.stores.online.second_keys.rows_of_second`."""

        def fetch(keys: Sequence[bytes]) -> list[bytes | None]:
            return [row for (row,) in self.fetch((view,), keys)]

        def damaged(problem: str) -> OnlineStoreError:
            return self.damaged(view, problem)

        return rows_of_second(self._opened, fetch, damaged, view, names, value, most)

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
        taken: list[Entry] = []
        for size, part, count in parts(keys):
            taken += self._opened.execute(select(group, size), part).fetchall()[:count]
        for view, rows in zip(group, zip(*taken, strict=True), strict=False):
            if all(rows):
                intact = all_intact(view, keys, rows)
            else:
                present = [(key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
                missing = [key for key, row in zip(keys, rows, strict=True) if row is None]
                intact = not present or all_intact(view, *zip(*present, strict=True))
                nearby = list(self._neighbours(view, missing))
                intact = intact and all_intact(view, [b""] * len(nearby), nearby)
            if not intact:
                raise self.damaged(view, "a row does not match its checksum")
        return taken

    def _neighbours(self, view: str, keys: Sequence[bytes]) -> Iterator[bytes]:
        """Key and row of the neighbours of missing keys."""
        for size, part, _ in parts(keys):
            for pair in self._opened.execute(beside(view, size), part):
                yield from (neighbour for neighbour in pair if neighbour is not None)

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
        # In key order each page of the table is visited only once.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        whole = len(order) // _INSERT_ROWS * _INSERT_ROWS
        for at in range(0, whole, _INSERT_ROWS):
            pick = itemgetter(*order[at : at + _INSERT_ROWS])
            values = zip(pick(keys), pick(rows), strict=True)
            self._opened.execute(upsert(view, _INSERT_ROWS), list(chain.from_iterable(values)))
        rest = [(keys[row], rows[row]) for row in order[whole:]]
        self._opened.executemany(upsert(view, 1), rest)

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
        self._opened.executemany(
            f"UPDATE {table_of(view)} SET row = ? WHERE key = ?", [(row, key) for key, _, row in outdated]
        )

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
