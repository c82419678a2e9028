"""Reads and writes of packed rows on a Redis server; :mod:`sidkit.stores.online.redis_database` opens them.

Three keys per view, whose common part in braces gives them one slot of a cluster:

- ``PREFIX:{VIEW}:rows``, a hash: entity key serialized by Feast -> row, the same bytes as in the file of the SQLite store;
- ``PREFIX:{VIEW}:meta``, a hash: ``layout:NUMBER`` -> ``CHECKSUM:JSON``; ``mark``, a random text that every write replaces;
- ``PREFIX:{VIEW}:outdated``, a set: keys of the rows that any other row may replace.

``PREFIX:views`` is the set of the views. Dropping a view deletes its keys and examines no other. Every read of rows is one
round trip and one transaction with the layouts of the rows, so that all views of a read are of one state.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import redis_scripts
from sidkit.stores.online.cache import Entry, Group
from sidkit.stores.online.checksums import (
    TAIL,
    all_intact,
    checked_layout,
    event_us,
    record_check,
    sealed,
    time_key,
    us_of,
)
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.transactions import OUTDATED_US, Reading, Writing

if TYPE_CHECKING:
    from redis import Redis

_READ_KEYS = 10_000
_TAIL_KEYS = 2_000  # values that a Lua function takes at once
_PUT_ROWS = 500
_PUT_SCRIPTS = 16  # sent at once
_SCAN_ROWS = 1_000
_LAYOUT = b"layout:"


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
    """

    def __init__(self, client: Redis, prefix: str, place: str, remedy: str) -> None:
        super().__init__(place, remedy)
        self._client, self._prefix = client, prefix
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
        """See :meth:`Reading.fetch`; also reads the layouts of the views."""
        with self._client.pipeline(transaction=True) as sent:
            for view in group:
                sent.hgetall(self._key(view, "meta"))
                for at in range(0, len(keys), _READ_KEYS):
                    sent.hmget(self._key(view, "rows"), keys[at : at + _READ_KEYS])
            found = sent.execute()
        columns = []
        size = 1 + len(range(0, len(keys), _READ_KEYS))
        for place, view in enumerate(group):
            meta, *parts = found[place * size : (place + 1) * size]
            self._layouts[view] = self._read_layouts(view, meta)
            rows = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
            present = rows if None not in rows else [row for row in rows if row is not None]
            of_present = keys if present is rows else [
                key for key, row in zip(keys, rows, strict=True) if row is not None
            ]  # fmt: skip
            if present and not all_intact(view, of_present, present):
                raise self.damaged(view, "a row does not match its checksum")
            columns.append(rows)
        return list(zip(*columns, strict=True))

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


class RedisWriting(RedisReading, Writing):
    """Reads and writes of packed rows.

    Rows are written by scripts of 500, each of which is atomic: a writer that is killed leaves some of them, and is repeated.
    """

    def make(self, view: str, layout: Layout) -> int:
        """See :meth:`Writing.make`."""
        text, meta = layout.to_json(), self._key(view, "meta")
        while True:
            stored = self._client.hgetall(meta)
            known = (
                {each.to_json(): number for number, each in self._read_layouts(view, stored).items()} if stored else {}
            )
            self._layouts.pop(view, None)
            if text in known:
                return known[text]
            number = max(known.values(), default=0) + 1
            if number > 65_535:
                raise OnlineStoreError(
                    f"expected at most 65,535 layouts of {view} in {self.place}, got more; {self.remedy}"
                )
            with self._client.pipeline(transaction=True) as sent:
                sent.sadd(f"{self._prefix}:views", view)
                sent.hsetnx(meta, "mark", _mark())
                sent.hsetnx(meta, f"layout:{number}", f"{record_check(view, number, text)}:{text}")
                is_ours = sent.execute()[-1]
            if is_ours:
                return number

    def put(
        self,
        view: str,
        keys: Sequence[bytes],
        events_us: Sequence[int],
        created_us: Sequence[int | None],
        rows: Sequence[bytes],
    ) -> None:
        """See :meth:`Writing.put`; the server compares the times."""
        pairs = list(chain.from_iterable(zip(keys, sealed(view, keys, events_us, created_us, rows), strict=True)))
        calls = [
            (self._keys(view), [_mark(), *pairs[at : at + 2 * _PUT_ROWS]]) for at in range(0, len(pairs), 2 * _PUT_ROWS)
        ]
        for at in range(0, len(calls), _PUT_SCRIPTS):
            self._expect_layouts(view, self._run(redis_scripts.PUT, calls[at : at + _PUT_SCRIPTS]))

    def put_over(
        self, view: str, key: bytes, event_us: int, created_us: int | None, row: bytes, existing: bytes | None
    ) -> bool:
        """See :meth:`Writing.put_over`."""
        [whole] = sealed(view, [key], [event_us], [created_us], [row])
        return self._replace(view, [(key, existing, whole)], is_outdated=False)[0] == 1

    def outdate(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> None:
        """See :meth:`Writing.outdate`; a row that another writer replaces meanwhile is left as it is."""
        stored = zip(keys, events_us, self.rows(view, keys), strict=True)
        present = [(key, row) for key, at, row in stored if row is not None and event_us(row) == at]
        count = len(present)
        outdated = sealed(
            view,
            [key for key, _ in present],
            [OUTDATED_US] * count,
            [None] * count,
            [row[:-TAIL] for _, row in present],
        )
        self._replace(view, [(*pair, row) for pair, row in zip(present, outdated, strict=True)], is_outdated=True)

    def drop_outdated(self, view: str) -> None:
        """See :meth:`Writing.drop_outdated`."""
        while any(
            self._run(redis_scripts.DROP_OUTDATED, [(self._keys(view), [_mark(), time_key(OUTDATED_US), _PUT_ROWS])])
        ):
            pass

    def drop_expired(self, view: str, since_us: int, now_us: int, every_us: int) -> None:
        """Delete the rows older than a time, unless that was done less than ``every_us`` microseconds ago.

        Parameters
        ----------
        view : str
            A view that exists.
        since_us, now_us : int
            Earliest event time that stays, and the current time, microseconds UTC.
        every_us : int
            Microseconds.
        """
        last = self._client.hget(self._key(view, "meta"), "swept")
        if last is not None and now_us - int(last) < every_us:
            return
        self._client.hset(self._key(view, "meta"), "swept", now_us)
        for _ in self._steps(redis_scripts.DROP_EXPIRED, self._keys(view), [_mark()], [time_key(since_us)]):
            pass

    def drop(self, view: str) -> None:
        """See :meth:`Writing.drop`; the server frees the memory in the background."""
        self._layouts.pop(view, None)
        with self._client.pipeline(transaction=True) as sent:
            sent.unlink(*self._keys(view))
            sent.srem(f"{self._prefix}:views", view)
            sent.execute()

    def delete_rows(self, view: str, keys: Sequence[bytes]) -> int:
        """Delete the rows of keys, whatever they are; returns their number."""
        deleted = 0
        for at in range(0, len(keys), _READ_KEYS):
            with self._client.pipeline(transaction=True) as sent:
                sent.hdel(self._key(view, "rows"), *keys[at : at + _READ_KEYS])
                sent.hset(self._key(view, "meta"), "mark", _mark())
                deleted += sent.execute()[0]
        return deleted

    def _replace(self, view: str, rows: Sequence[tuple[bytes, bytes | None, bytes]], *, is_outdated: bool) -> list[int]:
        calls = [
            (
                self._keys(view),
                [_mark(), key, b"" if existing is None else existing[-TAIL:], row, "1" if is_outdated else ""],
            )
            for key, existing, row in rows
        ]
        results: list[int] = []
        for at in range(0, len(calls), _PUT_ROWS):
            results += self._run(redis_scripts.REPLACE, calls[at : at + _PUT_ROWS])
        self._expect_layouts(view, results)
        return results

    def _expect_layouts(self, view: str, results: Sequence[int]) -> None:
        if -1 in results:
            raise OnlineStoreError(
                f"the online store {self.place} cannot be used (packed:{view} was dropped while it was written): run "
                "`feast apply`"
            )


def _mark() -> str:
    """A random text: unlike a counter, it is not repeated after the view was dropped and made again."""
    return secrets.token_hex(8)
