"""Let a relative SQLite path of the SQL registry mean "relative to the repo", whatever the working directory is.

Feast hands ``registry.path`` to SQLAlchemy as it stands, so ``sqlite:///data/registry.sqlite`` names another file from
every working directory: ``feast -c repo apply`` (which changes into the repo) and ``feast -c repo materialize`` (which
does not) use two registries. Feast has no plug-in point for registries, so the one property that every registry is made
from is wrapped; only relative SQLite paths of repos with a known folder are touched. Repos written by ``sidkit init``
hold an absolute path and do not depend on this.
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
    """Wrap ``RepoConfig.registry`` once."""
    from feast.repo_config import RepoConfig

    original = RepoConfig.registry
    if getattr(original.fget, "_sidkit", False):
        return

    def registry(config: RepoConfig) -> Any:
        found = original.fget(config)
        path = str(getattr(found, "path", ""))
        if path.startswith("sqlite") and config.repo_path and getattr(found, "registry_type", "") == "sql":
            url = absolute_url(path, Path(config.repo_path).resolve())
            if url != sa.engine.make_url(path):  # what is left alone keeps its spelling
                found.path = url.render_as_string(hide_password=False)
        return found

    registry._sidkit = True  # type: ignore[attr-defined]
    RepoConfig.registry = property(registry)


def refuse_copied_registry(repo: Repo) -> None:
    """Refuse a registry that belongs to another folder, as in a repo that was copied or moved.

    Feast's registry remembers which online tables it made, by absolute path: the first ``apply`` of a copy would drop
    the tables of the original.

    Raises
    ------
    RepoError
        When ``feature_store.yaml`` names a SQLite registry in another sidkit repo or in a folder that is gone, or the
        repo's own registry remembers online tables in another folder.
    """
    own = repo.data / "registry.sqlite"
    text = (repo.path / FEAST_FILE).read_text(encoding="utf-8")
    named = [Path(found).resolve() for found in re.findall(r"sqlite:///(/[^\n\"']+)", text)]
    others = [file for file in named if file.parent.name == "data" and file.parent.parent != repo.path]
    elsewhere = [file for file in others if (file.parent.parent / SETTINGS_FILE).exists() or not file.parent.exists()]
    remembered = [Path(found).resolve() for found in _online_tables(own)]
    elsewhere += [file for file in remembered if repo.path not in file.parents]
    if elsewhere:
        raise RepoError(
            f"{repo.path} was copied or moved: its registry belongs to {elsewhere[0]}, and applying it would drop what "
            f"lies there. Set registry.path in {FEAST_FILE} to {_PREFIX}{own}, delete that file if it is there, and run "
            "`feast apply` and `sidkit materialize` to make it anew"
        )


def make_registry_private(repo: Repo) -> None:
    """Make the repo's own SQLite registry, where there is none yet, as a file that only its owner may read.

    Raises
    ------
    StorageError
        When it cannot be made.
    """
    text = (repo.path / FEAST_FILE).read_text(encoding="utf-8")
    for found in re.findall(r"sqlite:///([^\n\"'?]+)", text):
        file = repo.path / found.strip()
        if repo.data in file.parents:
            make_private(file)


def _online_tables(registry: Path) -> list[str]:
    """Paths of the SQLite online tables that a SQL registry remembers."""
    if not registry.is_file():
        return []
    from feast.protos.feast.core.InfraObject_pb2 import Infra

    with contextlib.closing(sqlite3.connect(f"file:{registry}?mode=ro", uri=True)) as opened:
        try:
            rows = opened.execute("SELECT infra_proto FROM managed_infra").fetchall()
        except sqlite3.DatabaseError:
            return []  # a fresh registry, or one of which Feast itself will complain
    return [found.sqlite_table.path for (blob,) in rows for found in Infra.FromString(blob).infra_objects]
