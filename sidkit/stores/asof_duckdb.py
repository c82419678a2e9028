"""Deprecated class path of ``offline_store.type``: works for one release, with a warning."""

from sidkit.stores.offline import AsofDuckDBOfflineStore, AsofDuckDBOfflineStoreConfig
from sidkit.stores.old_paths import warn_of_old_path

__all__ = ["AsofDuckDBOfflineStore", "AsofDuckDBOfflineStoreConfig"]

warn_of_old_path(__name__)
