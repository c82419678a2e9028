"""The old class path of ``offline_store.type``, for one release: it warns, and works."""

from sidkit.stores.offline import AsofDuckDBOfflineStore, AsofDuckDBOfflineStoreConfig
from sidkit.stores.old_paths import warn_of_old_path

__all__ = ["AsofDuckDBOfflineStore", "AsofDuckDBOfflineStoreConfig"]

warn_of_old_path(__name__)
