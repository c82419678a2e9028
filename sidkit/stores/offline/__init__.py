"""The offline store on DuckDB: point-in-time joins as as-of joins.

``offline_store.type`` of a ``feature_store.yaml`` is ``sidkit.stores.offline.AsofDuckDBOfflineStore``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from sidkit.stores.offline.store import AsofDuckDBOfflineStore, AsofDuckDBOfflineStoreConfig

__all__ = ["AsofDuckDBOfflineStore", "AsofDuckDBOfflineStoreConfig"]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "sidkit.stores.offline.store"))
