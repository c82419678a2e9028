"""Online stores with one packed row per entity and feature view, on SQLite and on Redis, and their compute engine.

In a ``feature_store.yaml``, ``online_store.type`` is ``sidkit.stores.online.PackedSqliteOnlineStore`` or
``sidkit.stores.online.PackedRedisOnlineStore``, and ``batch_engine.type`` is ``sidkit.stores.online.PackedComputeEngine``.
:func:`open_reader` reads features without Feast's objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from sidkit.stores.online.compute_engine import PackedComputeEngine, PackedComputeEngineConfig
    from sidkit.stores.online.reader import PackedReader, open_reader
    from sidkit.stores.online.redis_store import PackedRedisOnlineStore, PackedRedisOnlineStoreConfig
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore, PackedSqliteOnlineStoreConfig

__all__ = [
    "PackedComputeEngine",
    "PackedComputeEngineConfig",
    "PackedReader",
    "PackedRedisOnlineStore",
    "PackedRedisOnlineStoreConfig",
    "PackedSqliteOnlineStore",
    "PackedSqliteOnlineStoreConfig",
    "open_reader",
]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(
        __name__,
        {
            "PackedComputeEngine": "sidkit.stores.online.compute_engine",
            "PackedComputeEngineConfig": "sidkit.stores.online.compute_engine",
            "PackedReader": "sidkit.stores.online.reader",
            "open_reader": "sidkit.stores.online.reader",
            "PackedRedisOnlineStore": "sidkit.stores.online.redis_store",
            "PackedRedisOnlineStoreConfig": "sidkit.stores.online.redis_store",
            "PackedSqliteOnlineStore": "sidkit.stores.online.sqlite_store",
            "PackedSqliteOnlineStoreConfig": "sidkit.stores.online.sqlite_store",
        },
    )
