"""Deprecated class paths in ``feature_store.yaml`` from before version 0.1.0: they work for one release, with a warning.

Feast imports a class path before sidkit could report anything, so the old modules remain and forward to the new ones.
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
"""The current lines of ``feature_store.yaml``: section, ``type``."""


def warn_of_old_path(module: str) -> None:
    """Emit a ``FutureWarning``, once per process and module, with the lines to write."""
    lines = "; ".join(f"{section}.type: {path}" for section, path in LINES)
    warnings.warn(
        f"{module} has moved and will be removed in the next release. Change the types in feature_store.yaml to "
        f"{lines}, or run `sidkit upgrade`, which does so",
        FutureWarning,
        stacklevel=3,
    )
