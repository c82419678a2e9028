"""Erasure of users from the packed online store on Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidkit.stores.online.erase import needles_of, user_of
from sidkit.stores.online.redis_database import PackedRedis

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True)
class OnServer:
    """A server, and the names under which a repository's views are stored there."""

    database: PackedRedis
    views: tuple[str, ...]


def online_server(store: FeatureStore) -> OnServer | None:
    """The Redis server of a repository's packed online store; None if the store is another one."""
    from sidkit.stores.online.redis_store import PackedRedisOnlineStore
    from sidkit.stores.online.store import view_id

    online = store._get_provider().online_store
    if not isinstance(online, PackedRedisOnlineStore):
        return None
    views = [*store.list_feature_views(), *store.list_stream_feature_views()]
    return OnServer(online.database(store.config), tuple(view_id(store.config, view) for view in views))


def keys_of_users_on(server: OnServer, users: Sequence[str], join_key: str) -> dict[str, int]:
    """Rows per user in all views of a repository; users without any are left out.

    Raises
    ------
    OnlineStoreError
        When the server cannot be read.
    """
    counted: dict[str, int] = {}
    for _, _, user in _matching(server, users, join_key):
        counted[user] = counted.get(user, 0) + 1
    return counted


def erase_users_on(server: OnServer, users: Sequence[str], join_key: str) -> int:
    """Delete the rows of users from all views of a repository; returns their number.

    Parameters
    ----------
    server : OnServer
        The server and the views.
    users : sequence of str
        Their ids.
    join_key : str
        Name of the key that holds them.

    Raises
    ------
    OnlineStoreError
        When the server cannot be read or written.
    """
    found: dict[str, list[bytes]] = {}
    for view, key, _ in _matching(server, users, join_key):
        found.setdefault(view, []).append(key)
    with server.database.writing() as writing:
        return sum(writing.delete_rows(view, keys) for view, keys in found.items())


def _matching(server: OnServer, users: Sequence[str], join_key: str) -> Iterator[tuple[str, bytes, str]]:
    """View, key and user of the rows of users."""
    wanted = set(users)
    needles = tuple(needle for user in users for needle in needles_of(user))
    name = join_key.encode()
    with server.database.reading() as reading:
        for view in server.views:
            for key in reading.keys(view):
                # The bytes of an id are a first guess: an id may be a part of another one, or of another key.
                if name in key and any(needle in key for needle in needles):
                    user = user_of(key, join_key)
                    if user in wanted:
                        yield view, key, str(user)
