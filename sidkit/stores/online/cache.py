"""Cache of rows that a connection has read, valid until the next write.

SQLite's search for a key takes about a microsecond, for 500 keys of two views more than the rest of a read. Between two
commits the same key gives the same row, so a reader caches rows. ``PRAGMA data_version`` tells a connection whether another
one has committed; after any commit, to any table, the cache is cleared. On Redis the marks of the views tell it, and rows in
the cache need not cross the network (:class:`sidkit.stores.online.redis_reading.HeldRows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from sidkit.stores.online.layout import Layout

Group = tuple[str, ...]
"""Views that are read together."""
Entry = tuple[Any, ...]
"""The row of each view for one key, or None."""
Column = Sequence[bytes | None]
"""The row of each key in one view, or None."""

_ENTRY_BYTES = 200
"""Overhead per key: a slot in a hash table, and the headers of the key and the tuple."""
_ROW_BYTES = 57
"""Overhead per row: its header and its slot in the tuple, rounded up."""


class RowCache:
    """Cached rows of one connection, and the layouts of their views; not thread-safe.

    It has two generations, each limited to half the bytes: new and reused rows are in the young one; when that is full it
    becomes the old one, and the previous old one is dropped.

    Parameters
    ----------
    most_bytes : int
        Maximum bytes of keys and rows, including Python's overhead per object.

    Attributes
    ----------
    version : int or None
        Version of the file that the cache belongs to, see :meth:`at`.
    layouts : dict
        View -> number -> layout, for :class:`sidkit.stores.online.transactions.Reading`.
    tables : int or None
        Version of the tables in the file, None before it was read.
    """

    def __init__(self, most_bytes: int) -> None:
        self._half = most_bytes // 2
        self.version: int | None = None
        self._young: dict[Group, dict[bytes, Entry]] = {}
        self._old: dict[Group, dict[bytes, Entry]] = {}
        self._young_bytes = self._old_bytes = 0
        self._unsorted: tuple[Group, Sequence[bytes], Sequence[Column]] | None = None
        self.layouts: dict[str, dict[int, Layout]] = {}
        self.tables: int | None = None

    @property
    def size(self) -> int:
        """Current size in bytes, including Python's overhead."""
        self._sort()
        return self._young_bytes + self._old_bytes

    def forget(self) -> None:
        """Clear the cache."""
        self.layouts, self.tables = {}, None
        self._young, self._old = {}, {}
        self._young_bytes = self._old_bytes = 0
        self._unsorted = None

    def at(self, version: int) -> None:
        """Set the version of the file that the connection reads now; entries of another version are cleared."""
        if version != self.version:
            self.forget()
            self.version = version

    def entry(self, group: Group, key: bytes) -> Entry | None:
        """The entry of one key if it is cached, after a call of :meth:`at`; its generation does not change."""
        self._sort()
        return self._young.get(group, {}).get(key) or self._old.get(group, {}).get(key)

    def entries(self, group: Group, keys: Sequence[bytes]) -> list[Entry] | None:
        """The entries of keys if all of them were read or used lately, after a call of :meth:`at`."""
        self._sort()
        young = self._young.get(group)
        if young is None or not keys or keys[0] not in young:
            return None
        entries = list(map(young.get, keys))
        return entries if all(entries) else None  # type: ignore[return-value]

    def look_up(self, group: Group, keys: Sequence[bytes], fetch: Callable[[list[bytes]], list[Entry]]) -> list[Entry]:
        """Return the entry of each key, after a call of :meth:`at`; ``fetch`` reads the missing ones."""
        self._sort()
        young, older = self._young.get(group), self._old.get(group, {})
        entries = list(map((young or {}).get, keys))
        if all(entries):
            return entries  # type: ignore[return-value]
        missing, again = [], {}
        for place, entry in enumerate(entries):
            if entry is None:
                key = keys[place]
                old = older.get(key)
                if old is None:
                    missing.append(key)
                else:
                    entries[place] = again[key] = old
        fetched = fetch(missing)
        self.keep(group, again | dict(zip(missing, fetched, strict=True)))
        if len(missing) == len(keys):
            return fetched
        rest = iter(fetched)
        return [next(rest) if entry is None else entry for entry in entries]

    def is_empty(self, group: Group) -> bool:
        """Whether no entry of some views that are read together is cached, after a call of :meth:`at`."""
        self._sort()
        return not self._young.get(group) and not self._old.get(group)

    def keep_columns(self, group: Group, keys: Sequence[bytes], columns: Sequence[Column]) -> None:
        """Add the rows of each view for keys that are not cached, to be sorted when they are needed."""
        self._sort()
        self._unsorted = group, list(keys), columns

    def forget_group(self, group: Group) -> None:
        """Clear the entries of some views that are read together."""
        self._sort()
        self._young_bytes -= _size(group, self._young.pop(group, {}))
        self._old_bytes -= _size(group, self._old.pop(group, {}))

    def keep(self, group: Group, entries: dict[bytes, Entry]) -> None:
        """Add the entries of keys that are not in the young generation."""
        self._sort()
        size = _size(group, entries)
        if size > self._half:
            return
        if self._young_bytes + size > self._half:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young.setdefault(group, {}).update(entries)
        self._young_bytes += size

    def _sort(self) -> None:
        """Add the rows of :meth:`keep_columns` to the young generation, once they are needed: after a commit they never are."""
        if self._unsorted is not None:
            group, keys, columns = self._unsorted
            self._unsorted = None
            self.keep(group, dict(zip(keys, zip(*columns, strict=True), strict=True)))


def _size(group: Group, entries: dict[bytes, Entry]) -> int:
    overhead = (_ENTRY_BYTES + _ROW_BYTES * len(group)) * len(entries)
    try:
        length = sum(map(len, chain.from_iterable(entries.values())))
    except TypeError:  # a key has no row in a view
        length = sum(map(len, filter(None, chain.from_iterable(entries.values()))))
    return overhead + length + sum(map(len, entries))
