"""Class paths that ``feature_store.yaml`` had before version 0.1.0: they work for one release, with a warning.

Feast imports a class path before any advice of this kit could be read, so the old modules stay and forward.
"""

from __future__ import annotations

import warnings

NEW_PATHS = {
    "sidkit.stores.asof_duckdb.AsofDuckDBOfflineStore": "sidkit.stores.offline.AsofDuckDBOfflineStore",
    "sidkit.stores.packed_sqlite.PackedSqliteOnlineStore": "sidkit.stores.online.PackedSqliteOnlineStore",
    "sidkit.stores.packed_engine.PackedComputeEngine": "sidkit.stores.online.PackedComputeEngine",
}
"""Old class path -> new one."""

LINES = (
    ("offline_store", "sidkit.stores.offline.AsofDuckDBOfflineStore"),
    ("online_store", "sidkit.stores.online.PackedSqliteOnlineStore"),
    ("batch_engine", "sidkit.stores.online.PackedComputeEngine"),
)
"""The three lines of ``feature_store.yaml`` as they are now: section, ``type``."""


def warn_of_old_path(module: str) -> None:
    """Warn once per process and module, visibly (``FutureWarning``), with the lines to write."""
    lines = "; ".join(f"{section}.type: {path}" for section, path in LINES)
    warnings.warn(
        f"{module} has moved and will be removed in the next release. Change the types in feature_store.yaml to "
        f"{lines}, or run `sidkit upgrade`, which does so",
        FutureWarning,
        stacklevel=3,
    )
