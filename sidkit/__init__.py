"""sidkit: semantic IDs as ordinary features, from a raw click log to an online score.

The package holds settings, errors, the input contract, feature tables, the Feast stores and the command line.
``semantic_ids`` fits codebooks; ``ranking`` trains and serves rankers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from sidkit.core.config import Settings
    from sidkit.core.errors import SidkitError
    from sidkit.core.repo import Repo

__version__ = "0.1.0"
__all__ = ["Repo", "Settings", "SidkitError", "__version__"]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(
        __name__,
        {"Repo": "sidkit.core.repo", "Settings": "sidkit.core.config", "SidkitError": "sidkit.core.errors"},
    )
