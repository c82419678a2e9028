"""Deprecated class path of ``online_store.type``: works for one release, with a warning."""

from sidkit.stores.old_paths import warn_of_old_path
from sidkit.stores.online import PackedSqliteOnlineStore, PackedSqliteOnlineStoreConfig

__all__ = ["PackedSqliteOnlineStore", "PackedSqliteOnlineStoreConfig"]

warn_of_old_path(__name__)
