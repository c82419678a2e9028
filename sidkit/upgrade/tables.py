"""Format 2: the manifest of the feature tables lists a hash per table."""

from __future__ import annotations

from sidkit.core.integrity import MANIFEST
from sidkit.core.repo import Repo
from sidkit.tables.builder import TABLES
from sidkit.upgrade.sealing import exactly, seal_manifest


def seal_tables(repo: Repo) -> list[str]:
    """Add hashes to ``data/tables/manifest.json``."""
    return seal_manifest(repo.tables / MANIFEST, exactly(*(f"{name}.parquet" for name in TABLES)))
