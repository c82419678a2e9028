"""sidkit: semantic IDs as ordinary features, from a raw click log to an online score.

The ground floor: settings, errors, the input contract, feature tables and the Feast plug-ins. The rooms above it are
``semantic_ids`` (how codes are made) and ``ranking`` (how features are used).
"""

from sidkit.config import Settings
from sidkit.errors import SidkitError
from sidkit.repo import Repo

__version__ = "0.1.0"
__all__ = ["Repo", "Settings", "SidkitError", "__version__"]
