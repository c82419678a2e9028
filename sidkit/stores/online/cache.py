"""Rows that one connection has read and that the file still holds.

SQLite's search for a key costs about a microsecond, for 500 keys of two views more than everything else in a read. Between
two commits the same key gives the same row, so a reader keeps what it has found. SQLite says, for one connection, whether
another one has committed since (``PRAGMA data_version``); after any commit, of whatever table, everything is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Group = tuple[str, ...]
"""Views that are read together."""
Found = tuple[Any, ...]
"""Of one key: the row of each view, None where there is none."""

_ENTRY_BYTES = 200
"""What a key costs beside its bytes and those of its rows: a place in a hash table, the key's and the tuple's heads."""
_ROW_BYTES = 57
"""What a row costs beside its bytes: its head and its place in the tuple, rounded up."""


class RowCache:
    """The rows of one connection, not safe between threads.

    There are two generations, each of at most half the bytes: new rows and those that were asked for again are in the
    younger one, and when that is full it becomes the older one and what the older one held is forgotten.

    Parameters
    ----------
    most_bytes : int
        What keys and rows may take, with Python's own cost per object.
    """

    def __init__(self, most_bytes: int) -> None:
        self._half = most_bytes // 2
        self._version: int | None = None
        self._young: dict[Group, dict[bytes, Found]] = {}
        self._old: dict[Group, dict[bytes, Found]] = {}
        self._young_bytes = self._old_bytes = 0

    @property
    def size(self) -> int:
        """The bytes that are kept now, with Python's own cost."""
        return self._young_bytes + self._old_bytes

    def forget(self) -> None:
        """Keep nothing."""
        self._young, self._old = {}, {}
        self._young_bytes = self._old_bytes = 0

    def at(self, version: int) -> None:
        """Say which version of the file the connection reads now; what was kept of another one is forgotten."""
        if version != self._version:
            self.forget()
            self._version = version

    def look_up(self, group: Group, keys: Sequence[bytes], fetch: Callable[[list[bytes]], list[Found]]) -> list[Found]:
        """What is known of each key, after :meth:`at` was told the version; ``fetch`` reads the others."""
        found = list(map(self._young.get(group, {}).get, keys))
        if all(found):
            return found  # type: ignore[return-value]
        older = self._old.get(group, {})
        missing, again = [], {}
        for place, there in enumerate(found):
            if there is None:
                key = keys[place]
                kept = older.get(key)
                if kept is None:
                    missing.append(key)
                else:
                    found[place] = again[key] = kept
        fetched = fetch(missing)
        self._keep(group, {**again, **dict(zip(missing, fetched, strict=True))})
        if len(missing) == len(keys):
            return fetched
        rest = iter(fetched)
        return [next(rest) if there is None else there for there in found]

    def _keep(self, group: Group, entries: dict[bytes, Found]) -> None:
        size = (_ENTRY_BYTES + _ROW_BYTES * len(group)) * len(entries) + _length(entries)
        for rows in zip(*entries.values(), strict=True):
            size += _length(filter(None, rows))
        if size > self._half:
            return
        if self._young_bytes + size > self._half:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young.setdefault(group, {}).update(entries)
        self._young_bytes += size


def _length(texts: Iterable[bytes]) -> int:
    return sum(map(len, texts))
