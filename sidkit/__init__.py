"""sidkit: semantic IDs as ordinary features, from a raw click log to an online score.

The ground floor: settings, errors, the input contract, feature tables and the Feast plug-ins. The rooms above it are
``semantic_ids`` (how codes are made) and ``ranking`` (how features are used).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidkit.config import Settings
    from sidkit.errors import SidkitError
    from sidkit.repo import Repo

__version__ = "0.1.0"
__all__ = ["Repo", "Settings", "SidkitError", "__version__"]

_MODULES = {"Repo": "sidkit.repo", "Settings": "sidkit.config", "SidkitError": "sidkit.errors"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the command line handles signals before anything else is imported."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
