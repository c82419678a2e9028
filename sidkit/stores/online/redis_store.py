"""The packed online store on a Redis server.

Select it in ``feature_store.yaml``::

    online_store:
      type: sidkit.stores.online.PackedRedisOnlineStore
      url: ${SIDKIT_REDIS_URL}

Feast replaces environment variables, so that no file has the password. See :mod:`sidkit.stores.online.store` for the
store's behaviour, and :mod:`sidkit.stores.online.redis_reading` for the keys. The server compares the times of a
write with those of the stored row; any number of processes may write at once. A read is one round trip per group of views
with the same entities; sidkit's own reader holds rows, at most ``row_cache_mb`` per reading thread, and asks the server
first whether the views were written since. Feast's own Redis store can use the same server, since its keys have other names.

Rows older than their view's TTL are not returned. They stay in memory unless ``delete_expired_seconds`` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import pyarrow as pa
from feast import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import Field, StrictFloat, StrictInt, StrictStr

from sidkit.stores.online.redis_database import REBUILD, PackedRedis
from sidkit.stores.online.store import PackedOnlineStore, ViewFeature, now_us, rebuild_remedy, since_us, view_id

_SECOND_US = 1_000_000


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Settings under ``online_store`` in ``feature_store.yaml``."""

    type: StrictStr = "sidkit.stores.online.PackedRedisOnlineStore"
    url: StrictStr = "redis://127.0.0.1:6379/0"  # redis, rediss (TLS) or unix; as ${VARIABLE}, from the environment
    key_prefix: Annotated[StrictStr, Field(min_length=1, pattern=r"^[^{}\s]+$")] = "packed"  # first part of all keys
    row_cache_mb: Annotated[StrictInt, Field(ge=0)] = 128  # size of the row cache per reading thread
    timeout_seconds: Annotated[StrictFloat, Field(gt=0)] = 5.0  # for a connection, and for each answer
    delete_expired_seconds: Annotated[StrictInt | StrictFloat, Field(ge=0)] | None = (
        None  # how often writers delete rows
    )
    # older than their view's TTL; None: never, and requests for an earlier time find them
    offline_only: tuple[ViewFeature, ...] = ()  # view:feature, written as nulls


class PackedRedisOnlineStore(PackedOnlineStore):
    """See the module's docstring.

    Parameters
    ----------
    clock : callable, optional
        Returns the current time in microseconds UTC, used for TTLs.
    """

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        super().__init__(clock)
        self._servers: dict[tuple[str, str, float, int], PackedRedis] = {}

    def database(self, config: RepoConfig) -> PackedRedis:
        """The server, with its connections."""
        options = config.online_store
        asked = (options.url, options.key_prefix, options.timeout_seconds, options.row_cache_mb << 20)
        if asked not in self._servers:
            self._servers[asked] = PackedRedis(*asked, rebuild_remedy(config, REBUILD))
        return self._servers[asked]

    def write_arrow(self, config: RepoConfig, table: FeatureView, batches: Iterable[pa.RecordBatch]) -> int:
        """See :meth:`PackedOnlineStore.write_arrow`; also deletes expired rows if ``delete_expired_seconds`` is set."""
        count = super().write_arrow(config, table, batches)
        every, now = config.online_store.delete_expired_seconds, self.clock()
        since = since_us(table, now)
        if every is not None and since is not None and count:
            with self.database(config).writing() as writing:
                writing.drop_expired(view_id(config, table), since, now, int(every * _SECOND_US))
        return count

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop the tables of all versions of the views; other keys of the server stay."""
        for table in tables:
            self.drop_undefined(config, table.name, [])

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers.values():
            server.close()
