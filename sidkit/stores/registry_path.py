"""Relative SQLite paths of the SQL registry: resolved against the repository, not the working directory.

Feast passes ``registry.path`` to SQLAlchemy unchanged, so ``sqlite:///data/registry.sqlite`` depends on the working
directory: ``feast -c repo apply`` (which changes into the repository) and ``feast -c repo materialize`` (which does not) use
two registries. Feast has no plug-in point for registries, so the property that every registry is created from is wrapped;
only relative SQLite paths of repositories with a known folder are affected. Repositories written by ``sidkit init`` have an
absolute path and do not depend on this.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from sidkit.core.errors import RepoError
from sidkit.core.files import make_private
from sidkit.core.repo import FEAST_FILE, SETTINGS_FILE, Repo
from sidkit.core.sqlite_url import absolute_url

_PREFIX = "sqlite:///"


def resolve_registry_against_repo() -> None:
    """Wrap ``RepoConfig.registry``; idempotent."""
    from feast.repo_config import RepoConfig

    original = RepoConfig.registry
    if getattr(original.fget, "_sidkit", False):
        return

    def registry(config: RepoConfig) -> Any:
        config_registry = original.fget(config)
        path = str(getattr(config_registry, "path", ""))
        is_sql = getattr(config_registry, "registry_type", "") == "sql"
        if path.startswith("sqlite") and config.repo_path and is_sql:
            url = absolute_url(path, Path(config.repo_path).resolve())
            if url != sa.engine.make_url(path):  # keep the spelling of unchanged paths
                config_registry.path = url.render_as_string(hide_password=False)
        return config_registry

    registry._sidkit = True  # type: ignore[attr-defined]
    RepoConfig.registry = property(registry)


def refuse_copied_registry(repo: Repo) -> None:
    """Raise if the registry belongs to another folder, as in a repository that was copied or moved.

    Feast's registry records the absolute paths of its online tables: the first ``apply`` of a copy would drop
    the tables of the original.

    Raises
    ------
    RepoError
        When ``feature_store.yaml`` refers to a SQLite registry in another sidkit repository or in a missing folder, or the
        repository's own registry records online tables in another folder.
    """
    own_registry = repo.data / "registry.sqlite"
    text = (repo.path / FEAST_FILE).read_text(encoding="utf-8")
    named = [Path(match).resolve() for match in re.findall(r"sqlite:///(/[^\n\"']+)", text)]
    others = [file for file in named if file.parent.name == "data" and file.parent.parent != repo.path]
    elsewhere = [file for file in others if (file.parent.parent / SETTINGS_FILE).exists() or not file.parent.exists()]
    remembered = [Path(table).resolve() for table in _online_tables(own_registry)]
    elsewhere += [file for file in remembered if repo.path not in file.parents]
    if elsewhere:
        raise RepoError(
            f"{repo.path} was copied or moved: its registry belongs to {elsewhere[0]}, and applying it would drop the online "
            f"tables there. Set registry.path in {FEAST_FILE} to {_PREFIX}{own_registry}, delete that file if it exists, and "
            "run `feast apply` and `sidkit materialize` to rebuild it"
        )


def make_registry_private(repo: Repo) -> None:
    """Create the repository's own SQLite registry, if missing, as a file readable by its owner only.

    Raises
    ------
    StorageError
        When it cannot be created.
    """
    text = (repo.path / FEAST_FILE).read_text(encoding="utf-8")
    for match in re.findall(r"sqlite:///([^\n\"'?]+)", text):
        file = repo.path / match.strip()
        if repo.data in file.parents:
            make_private(file)


def _online_tables(registry: Path) -> list[str]:
    """Paths of the SQLite online tables recorded in a SQL registry."""
    if not registry.is_file():
        return []
    from feast.protos.feast.core.InfraObject_pb2 import Infra

    with contextlib.closing(sqlite3.connect(f"file:{registry}?mode=ro", uri=True)) as opened:
        try:
            rows = opened.execute("SELECT infra_proto FROM managed_infra").fetchall()
        except sqlite3.DatabaseError:
            return []  # a new registry, or one that Feast itself reports
    return [table.sqlite_table.path for (blob,) in rows for table in Infra.FromString(blob).infra_objects]
