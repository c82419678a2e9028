"""Writes of packed rows to a Redis server; :mod:`sidkit.stores.online.redis_reading` describes the keys."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import chain

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import redis_scripts
from sidkit.stores.online.checksums import TAIL, record_check, sealed, time_key
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.redis_reading import RedisReading
from sidkit.stores.online.transactions import OUTDATED_US, Writing

_DELETED_KEYS = 10_000
_PUT_ROWS = 500
_PUT_SCRIPTS = 16  # sent at once


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
        self._replace(view, self.outdated(view, keys, events_us), is_outdated=True)

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

    def delete_exact(self, view: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Delete rows (key, row), except those that were replaced meanwhile."""
        for at in range(0, len(rows), _PUT_ROWS):
            pairs = chain.from_iterable(rows[at : at + _PUT_ROWS])
            self._run(redis_scripts.DELETE_EXACT, [(self._keys(view), [_mark(), *pairs])])

    def delete_rows(self, view: str, keys: Sequence[bytes]) -> int:
        """Delete the rows of keys, whatever they are; returns their number."""
        deleted = 0
        for at in range(0, len(keys), _DELETED_KEYS):
            with self._client.pipeline(transaction=True) as sent:
                sent.hdel(self._key(view, "rows"), *keys[at : at + _DELETED_KEYS])
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
