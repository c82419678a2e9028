"""Format 2: the log's manifest lists a hash per file.

The rows are not changed: the next ingest reads the source again, since the manifest is from an older release.
"""

from __future__ import annotations

from sidkit.core.integrity import MANIFEST
from sidkit.core.repo import Repo
from sidkit.tables.log import listed_files
from sidkit.upgrade.sealing import seal_manifest


def seal_log(repo: Repo) -> list[str]:
    """Add hashes to ``data/log/manifest.json``."""
    return seal_manifest(repo.log / MANIFEST, listed_files)
