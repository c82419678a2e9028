"""Deprecated class path of ``batch_engine.type``: works for one release, with a warning."""

from sidkit.stores.old_paths import warn_of_old_path
from sidkit.stores.online import PackedComputeEngine, PackedComputeEngineConfig

__all__ = ["PackedComputeEngine", "PackedComputeEngineConfig"]

warn_of_old_path(__name__)
