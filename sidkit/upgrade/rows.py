"""Format 2: the JSON file beside the labelled rows has their hash."""

from __future__ import annotations

from sidkit.core.repo import Repo
from sidkit.upgrade.sealing import exactly, seal_manifest


def seal_rows(repo: Repo) -> list[str]:
    """Add the hash to ``data/rows.json``."""
    return seal_manifest(repo.labelled_rows.with_suffix(".json"), exactly(repo.labelled_rows.name))
