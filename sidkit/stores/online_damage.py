"""Damaged and left-over rows of a repository's packed online store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import open_store

if TYPE_CHECKING:
    from feast import FeatureStore

    from sidkit.stores.online.redis_database import PackedRedis


def repair_online_store(repo: Repo) -> list[str]:
    """Remove damaged rows from the packed online store, so that :func:`materialize` rebuilds them.

    Returns
    -------
    list of str
        One sentence per finding; empty if nothing is damaged or another online store is used.

    Raises
    ------
    OnlineStoreError
        When the file is from another release or locked by another process, or the server cannot be reached.
    """
    from sidkit.stores.online.repair import repair
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore

    store = open_store(repo)
    online = store._get_provider().online_store
    views = [*store.list_feature_views(), *store.list_stream_feature_views()]
    if (server := _server(store, online)) is not None:
        from sidkit.stores.online.redis_repair import repair_redis

        damaged = repair_redis(server, _stored(store, views))
        if any(each.layouts for each in damaged.values()):
            online.update(store.config, [], views, [], [], partial=False)
        return [
            f"{server.place}: {each.count:,} damaged rows of packed:{view} were removed and are rebuilt"
            for view, each in damaged.items()
        ]
    if not isinstance(online, PackedSqliteOnlineStore):
        return []
    file = online.file(store.config)
    damage = repair(file.path)
    if not damage:
        return []
    online.update(store.config, [], views, [], [], partial=False)
    if damage.unreadable:
        return [f"{file.path} could not be read and is rebuilt; rows that were only pushed are lost"]
    return [
        f"{file.path}: {count:,} damaged rows of packed:{view} were removed and are rebuilt"
        for view, count in damage.rows.items()
    ]


def find_online_damage(repo: Repo) -> list[tuple[str, str]]:
    """Damaged tables of the packed online store, each with a description of the damage.

    Raises
    ------
    OnlineStoreError
        When the file is from another release or locked by another process, or the server cannot be reached.
    """
    from sidkit.stores.online.repair import find_damage
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore
    from sidkit.stores.registry_check import registry_file

    registry = registry_file(repo)
    if registry is not None and not registry.exists():  # opening the store would create it
        return []
    store = open_store(repo)
    online = store._get_provider().online_store
    if (server := _server(store, online)) is not None:
        from sidkit.stores.online.redis_repair import find_redis_damage

        views = [*store.list_feature_views(), *store.list_stream_feature_views()]
        return [
            (f"{server.place}, packed:{view}", f"{each.count:,} rows do not match their checksum")
            for view, each in find_redis_damage(server, _stored(store, views)).items()
        ]
    if not isinstance(online, PackedSqliteOnlineStore):
        return []
    path = online.file(store.config).path
    damage = find_damage(path)
    if damage.unreadable:
        return [(str(path), "SQLite cannot read it")]
    return [
        (f"{path}, packed:{view}", f"{count:,} rows do not match their checksum") for view, count in damage.rows.items()
    ]


def drop_online_table(repo: Repo, view: str) -> None:
    """Drop the packed online tables of a view that is no longer defined, for all its versions.

    ``feast apply`` does so too, but not after it was killed between registry and online store. Feast's own SQLite store is
    left to Feast, which keeps a list of its tables.
    """
    from sidkit.stores.online.store import PackedOnlineStore

    store = open_store(repo)
    online = store._get_provider().online_store
    if isinstance(online, PackedOnlineStore):
        online.drop_undefined(store.config, view, store.list_all_feature_views())


def _server(store: FeatureStore, online: Any) -> PackedRedis | None:
    """The Redis server of a packed online store; None for another store."""
    from sidkit.stores.online.redis_store import PackedRedisOnlineStore

    return online.database(store.config) if isinstance(online, PackedRedisOnlineStore) else None


def _stored(store: FeatureStore, views: Sequence[Any]) -> list[str]:
    """The names of views in the online store."""
    from sidkit.stores.online.store import view_id

    return [view_id(store.config, view) for view in views]
