"""Format 2: a checksum per row of the online store."""

from __future__ import annotations

from pathlib import Path

from sidkit.core.repo import FEAST_FILE, Repo
from sidkit.stores.online.conversion import upgrade_online_file


def check_online_rows(repo: Repo) -> list[str]:
    """Convert the packed online store in place; other online stores are left unchanged."""
    from sidkit.stores.quiet_import import quiet_feast

    quiet_feast()
    from feast.repo_config import load_repo_config

    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStoreConfig

    online = load_repo_config(repo.path, repo.path / FEAST_FILE).online_store
    if not isinstance(online, PackedSqliteOnlineStoreConfig):
        return []
    path = Path(online.path) if Path(online.path).is_absolute() else repo.path / online.path
    rows = upgrade_online_file(path) if path.is_file() else 0
    return [f"{path.relative_to(repo.path)}: added checksums to {rows:,} rows"] if rows else []
