"""What all parts of a project share: its repository, and locked steps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.core.config import Settings
from sidkit.core.errors import SidkitWarning
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from feast import FeatureStore


class ProjectBase:
    """A repository and its settings."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo

    @property
    def path(self) -> Path:
        """Absolute path of the repository."""
        return self.repo.path

    @property
    def settings(self) -> Settings:
        """The settings in ``sidkit.toml``."""
        return self.repo.settings

    def store(self) -> FeatureStore:
        """The repository's ``feast.FeatureStore``."""
        from sidkit.stores.feast_repo import open_store

        return open_store(self.repo)


def warn(text: str) -> None:
    """Issue a :class:`SidkitWarning`."""
    warnings.warn(text, SidkitWarning, stacklevel=3)
