"""What a transaction on a file of packed rows reads and writes; :mod:`sidkit.stores.online.sqlite_file` opens them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
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
from sidkit.stores.online.connection import LAYOUTS
from sidkit.stores.online.layout import Cells, Layout
from sidkit.stores.online.marks import read_marks, read_tails
from sidkit.stores.online.second_keys import has_index, make_index, rows_of_second
from sidkit.stores.online.sql import beside, parts, select, table_of, table_statement, upsert

_OUTDATED_US = -1  # the event time of rows that any other row may replace
_INSERT_ROWS = 256
_READ_VIEWS = 32  # SQLite joins at most 64 tables
_LAYOUTS_OF = f"SELECT number, columns, checked FROM {LAYOUTS} WHERE view = ? ORDER BY number"


class Reading:
    """A snapshot for reading."""

    def __init__(self, opened: sqlite3.Connection, path: Path, remedy: str, cache: RowCache | None = None) -> None:
        self._opened = opened
        self._path, self._remedy = path, remedy
        self._cache = cache

    def damaged(self, view: str, problem: str) -> OnlineStoreError:
        """Build the error for a damaged table."""
        return OnlineStoreError(
            f"the online store {self._path} is damaged: {problem} in table packed:{view}; {self._remedy}"
        )

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

    def has_index(self, view: str, key: bytes) -> bool:
        """Whether the rows of keys like this one are indexed by their second join key, or have no such key."""
        return has_index(self._opened, view, key)

    def rows_of_second(self, view: str, names: int, value: bytes, most: int) -> dict[bytes, bytes] | None:
        """See :func:`sidkit.stores.online.second_keys.rows_of_second`."""

        def fetch(keys: Sequence[bytes]) -> list[bytes | None]:
            return [row for (row,) in self.fetch((view,), keys)]

        def damaged(problem: str) -> OnlineStoreError:
            return self.damaged(view, problem)

        return rows_of_second(self._opened, fetch, damaged, view, names, value, most)

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
                f"expected at most 65,535 layouts of {view} in {self._path}, got more; {self._remedy}"
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
        """Index the rows by their second join key, if keys like this one have two."""
        make_index(self._opened, view, key)

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
