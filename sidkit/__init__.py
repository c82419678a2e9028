"""sidkit: semantic IDs as ordinary features, from a raw click log to an online score.

The package holds the Python API, settings, errors, the input contract, feature tables, the Feast stores and the command
line. ``semantic_ids`` fits codebooks; ``ranking`` trains and serves rankers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from sidkit.api.project import Project, init
    from sidkit.api.project import open_project as open
    from sidkit.core.config import Settings
    from sidkit.core.errors import SidkitError, SidkitWarning
    from sidkit.core.repo import Repo

__version__ = "0.1.0"
__all__ = ["Project", "Repo", "Settings", "SidkitError", "SidkitWarning", "__version__", "init", "open"]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(
        __name__,
        {
            "Project": "sidkit.api.project",
            "Repo": "sidkit.core.repo",
            "Settings": "sidkit.core.config",
            "SidkitError": "sidkit.core.errors",
            "SidkitWarning": "sidkit.core.errors",
            "init": "sidkit.api.project",
            "open": "sidkit.api.project:open_project",
        },
    )
