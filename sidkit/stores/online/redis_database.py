"""The connection to a Redis server with packed rows, and its errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidkit.core.extras import require
from sidkit.core.redact import redacted, remember
from sidkit.stores.online.redis_errors import SETTING, translated, unusable_url
from sidkit.stores.online.redis_reading import HeldRows, RedisReading
from sidkit.stores.online.redis_writing import RedisWriting
from sidkit.stores.online.transactions import PackedDatabase

if TYPE_CHECKING:
    from redis import Redis

REBUILD = "run `feast apply` and `feast materialize`"
"""How to rebuild the rows in a repository without sidkit.toml."""


class PackedRedis(PackedDatabase):
    """One Redis server.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user and password if the server asks for them.
    prefix : str
        First part of all keys.
    timeout_seconds : float
        How long to wait for a connection and for each answer.
    cache_bytes : int, optional
        Maximum bytes of rows held until the next write, per thread that calls :meth:`Reading.rows_of`; 0: none.
    remedy : str, optional
        How to rebuild the rows, for error messages.

    Raises
    ------
    OnlineStoreError
        When it is no URL of a Redis server.
    MissingExtraError
        Without the package ``redis``.
    """

    def __init__(
        self, url: str, prefix: str, timeout_seconds: float, cache_bytes: int = 0, remedy: str = REBUILD
    ) -> None:
        remember(url)
        super().__init__(redacted(url), remedy)
        require("redis", purpose="the online store on Redis")
        if "$" in url:
            raise unusable_url(url, ", whose environment variable is not set; set it")
        self._url, self._prefix, self._timeout = url, prefix, timeout_seconds
        self._cache_bytes, self._mine = cache_bytes, threading.local()
        self._lock = threading.Lock()
        self._client: Redis | None = None

    def exists(self) -> bool:
        """True: a server either answers or raises."""
        return True

    @contextmanager
    def reading(self) -> Iterator[RedisReading]:
        """Read from the server; each call of the result's methods is one transaction.

        Raises
        ------
        OnlineStoreError
            When the server cannot be reached or refuses the request, or a row is damaged.
        """
        with self._translated_errors():
            yield RedisReading(self.client(), self._prefix, self.place, self.remedy, self._held())

    @contextmanager
    def writing(self) -> Iterator[RedisWriting]:
        """Read from and write to the server; what was written before an error stays.

        Raises
        ------
        OnlineStoreError
            As for :meth:`reading`.
        """
        with self._translated_errors():
            yield RedisWriting(self.client(), self._prefix, self.place, self.remedy)

    def _held(self) -> HeldRows | None:
        if not self._cache_bytes:
            return None
        if not hasattr(self._mine, "held"):
            self._mine.held = HeldRows(self._cache_bytes)
        held: HeldRows = self._mine.held
        return held

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def problems(self) -> list[tuple[str, str]]:
        """Settings of the server that may lose rows, each with a remedy.

        Raises
        ------
        OnlineStoreError
            As for :meth:`reading`.
        """
        with self._translated_errors():
            memory, replication = self.client().info("memory"), self.client().info("replication")
        found = []
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and int(memory.get("maxmemory", 0)):
            found.append(
                (
                    f"its maxmemory-policy is {policy}: when memory is full, it deletes whole views",
                    "Set maxmemory-policy to noeviction.",
                )
            )
        if replication.get("role") == "slave" and str(replication.get("slave_read_only", "1")) == "1":
            found.append(("it is a read-only replica: no row can be written", f"Set {SETTING} to the primary."))
        return found

    def client(self) -> Redis:
        """The connections of this process."""
        with self._lock:
            if self._client is None:
                from redis import Redis
                from redis.backoff import NoBackoff
                from redis.exceptions import ConnectionError as Unreachable
                from redis.exceptions import TimeoutError as TooLate
                from redis.retry import Retry

                try:
                    # A connection that the server has closed is opened again once; every command may be repeated.
                    self._client = Redis.from_url(
                        self._url,
                        socket_timeout=self._timeout,
                        socket_connect_timeout=self._timeout,
                        retry=Retry(NoBackoff(), 1),
                        retry_on_error=[Unreachable, TooLate],
                    )
                except ValueError:
                    raise unusable_url(self._url, "; correct it") from None
            return self._client

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except RedisError as error:
            raise translated(error, self._url, self._prefix, self.remedy) from None
