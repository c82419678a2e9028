"""Reads of packed rows on a Redis server, and its keys; :mod:`sidkit.stores.online.redis_database` opens them.

Three keys per view, whose common part in braces gives them one slot of a cluster:

- ``PREFIX:{VIEW}:rows``, a hash: entity key serialized by Feast -> row, the same bytes as in the file of the SQLite store;
- ``PREFIX:{VIEW}:meta``, a hash: ``layout:NUMBER`` -> ``CHECKSUM:JSON``; ``mark``, a random text that every write replaces;
- ``PREFIX:{VIEW}:outdated``, a set: keys of the rows that any other row may replace.

``PREFIX:views`` is the set of the views. Dropping a view deletes its keys and examines no other. Rows are read in one round
trip and one transaction with their layouts and marks, so that all views of a read are of one state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import redis_scripts
from sidkit.stores.online.cache import Entry, Group, RowCache
from sidkit.stores.online.checksums import all_intact, checked_layout, us_of
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.transactions import Reading

if TYPE_CHECKING:
    from redis import Redis

_READ_KEYS = 10_000
_TAIL_KEYS = 2_000  # values that a Lua function takes at once
_SCAN_ROWS = 1_000
_LAYOUT = b"layout:"


class HeldRows:
    """Rows that a thread has read, by views that are read together, and the marks that these views had.

    While the marks are the same, a read costs the exchange of the marks. Where they were not, the next read asks for rows and
    marks at once, so that views with continuous writes need no second round trip.

    Parameters
    ----------
    most_bytes : int
        See :class:`RowCache`.
    """

    def __init__(self, most_bytes: int) -> None:
        self.cache = RowCache(most_bytes)
        self.marks: dict[Group, tuple[object, ...]] = {}
        self.layouts: dict[Group, list[dict[int, Layout]]] = {}
        self.changing: set[Group] = set()

    def keep(self, group: Group, read: _Read, keys: Sequence[bytes]) -> None:
        """Add what was read; rows of other marks are removed."""
        if self.marks.get(group) == read.marks:
            self.changing.discard(group)
        else:
            self.cache.forget_group(group)
            self.marks[group] = read.marks
        self.layouts[group] = read.layouts
        self.cache.keep(group, dict(zip(keys, read.entries, strict=True)))


@dataclass(frozen=True)
class _Read:
    """Of one transaction: marks and layouts of each view, and the rows of each key."""

    marks: tuple[object, ...]
    layouts: list[dict[int, Layout]]
    entries: list[Entry]


class _ChangedError(Exception):
    """A view was written between two round trips of a read."""


class RedisReading(Reading):
    """Reads of packed rows.

    Parameters
    ----------
    client : redis.Redis
        Returns bytes.
    prefix : str
        First part of all keys.
    place, remedy : str
        See :class:`Reading`.
    held : HeldRows, optional
        Rows that this thread has read before.
    """

    def __init__(self, client: Redis, prefix: str, place: str, remedy: str, held: HeldRows | None = None) -> None:
        super().__init__(place, remedy)
        self._client, self._prefix, self._held = client, prefix, held
        self._layouts: dict[str, dict[int, Layout]] = {}

    def _key(self, view: str, part: str) -> str:
        return f"{self._prefix}:{{{view}}}:{part}"

    def _keys(self, view: str) -> list[str]:
        return [self._key(view, part) for part in ("rows", "meta", "outdated")]

    def layouts(self, view: str) -> dict[int, Layout]:
        """See :meth:`Reading.layouts`; those that came with the rows that were read last, if any were."""
        if view not in self._layouts:
            self._layouts[view] = self._read_layouts(view, self._client.hgetall(self._key(view, "meta")))
        return self._layouts[view]

    def _read_layouts(self, view: str, meta: Any) -> dict[int, Layout]:
        if not meta:
            raise OnlineStoreError(
                f"the online store {self.place} cannot be used (no such table: packed:{view}): run `feast apply`"
            )
        layouts = {}
        for name, value in meta.items():
            if name.startswith(_LAYOUT):
                number, (checked, _, text) = name.removeprefix(_LAYOUT), value.partition(b":")
                intact = number.isdigit() and checked.isdigit()
                layout = (
                    checked_layout(view, int(number), text.decode(errors="replace"), int(checked)) if intact else None
                )
                if layout is None:
                    raise self.damaged(view, f"layout {number.decode(errors='replace')} does not match its checksum")
                layouts[int(number)] = layout
        return dict(sorted(layouts.items()))

    def views(self) -> list[str]:
        """See :meth:`Reading.views`."""
        return sorted(name.decode() for name in self._client.smembers(f"{self._prefix}:views"))

    def marks(self, views: Sequence[str]) -> tuple[object, ...]:
        """See :meth:`Reading.marks`."""
        with self._client.pipeline(transaction=False) as sent:
            for view in views:
                sent.hget(self._key(view, "meta"), "mark")
            return tuple(sent.execute())

    def tails(self, views: Sequence[str], keys: Sequence[bytes]) -> list[tuple[bytes | None, ...]]:
        """See :meth:`Reading.tails`; the server cuts them off the rows."""
        calls = [
            ([self._key(view, "rows")], keys[at : at + _TAIL_KEYS])
            for view in views
            for at in range(0, len(keys), _TAIL_KEYS)
        ]
        found = self._run(redis_scripts.TAILS, calls)
        size = len(range(0, len(keys), _TAIL_KEYS))
        columns = [chain.from_iterable(found[at : at + size]) for at in range(0, len(found), size)] if size else []
        return list(zip(*columns, strict=True))

    def fetch(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """See :meth:`Reading.fetch`."""
        return self._fetch(group, keys).entries

    def entries(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """See :meth:`Reading.entries`; the rows are those of one moment."""
        held = self._held
        if held is None:
            return self.fetch(group, keys)
        if group in held.marks and group not in held.changing:
            marks = self.marks(group)
            if marks == held.marks[group]:
                self._layouts.update(zip(group, held.layouts[group], strict=True))
                with suppress(_ChangedError):
                    return held.cache.look_up(group, keys, lambda missing: self._fetch_same(group, missing, marks))
            held.changing.add(group)
        read = self._fetch(group, keys)
        held.keep(group, read, keys)
        return read.entries

    def _fetch_same(self, group: Group, keys: Sequence[bytes], marks: tuple[object, ...]) -> list[Entry]:
        if not keys:
            return []
        read = self._fetch(group, keys)
        if read.marks != marks:
            raise _ChangedError
        return read.entries

    def _fetch(self, group: Group, keys: Sequence[bytes]) -> _Read:
        with self._client.pipeline(transaction=True) as sent:
            for view in group:
                sent.hgetall(self._key(view, "meta"))
                for at in range(0, len(keys), _READ_KEYS):
                    sent.hmget(self._key(view, "rows"), keys[at : at + _READ_KEYS])
            found = sent.execute()
        columns, marks = [], []
        size = 1 + len(range(0, len(keys), _READ_KEYS))
        for place, view in enumerate(group):
            meta, *parts = found[place * size : (place + 1) * size]
            self._layouts[view] = self._read_layouts(view, meta)
            marks.append(meta.get(b"mark"))
            rows = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
            present = rows if None not in rows else [row for row in rows if row is not None]
            of_present = keys if present is rows else [
                key for key, row in zip(keys, rows, strict=True) if row is not None
            ]  # fmt: skip
            if present and not all_intact(view, of_present, present):
                raise self.damaged(view, "a row does not match its checksum")
            columns.append(rows)
        return _Read(tuple(marks), [self._layouts[view] for view in group], list(zip(*columns, strict=True)))

    def newest_us(self, view: str) -> int | None:
        """See :meth:`Reading.newest_us`; the server examines the rows, in many steps."""
        newest = max(
            (found for found in self._steps(redis_scripts.NEWEST, [self._key(view, "rows")], [], []) if found),
            default=None,
        )
        return None if newest is None else us_of(newest)

    def is_empty(self, view: str) -> bool:
        """See :meth:`Reading.is_empty`."""
        return not self._client.hlen(self._key(view, "rows"))

    def keys(self, view: str) -> Iterator[bytes]:
        """See :meth:`Reading.keys`."""
        yield from sorted(self._client.hkeys(self._key(view, "rows")))

    def scan(self, view: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and row of all rows, in no order, some of them repeatedly; rows are not verified."""
        yield from self._client.hscan_iter(self._key(view, "rows"), count=_SCAN_ROWS)

    def _run(self, script: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Call a script with keys and values, several times in one round trip; a call may be repeated."""
        from redis.exceptions import NoScriptError

        digest = redis_scripts.digest(script)
        if not calls:
            return []
        for is_loaded in (False, True):
            with self._client.pipeline(transaction=False) as sent:
                for keys, values in calls:
                    sent.evalsha(digest, len(keys), *keys, *values)
                try:
                    return list(sent.execute())
                except NoScriptError:
                    if is_loaded:
                        raise
            self._client.script_load(script)
        raise AssertionError("unreachable")

    def _steps(self, script: str, keys: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> Iterator[Any]:
        """Results of a script that scans a part of a hash from a cursor and returns the next one."""
        cursor: Any = b"0"
        while True:
            [(cursor, found)] = self._run(script, [(keys, [*before, cursor, _SCAN_ROWS, *after])])
            yield found
            if cursor == b"0":
                return
