"""The SQL registry of a repository: where a SQLite path leads, and copies of a repository.

Feast passes ``registry.path`` to SQLAlchemy unchanged, so ``sqlite:///data/registry.sqlite`` depends on the working
directory: ``feast -c repo apply`` (which changes into the repository) and ``feast -c repo materialize`` (which does not) use
two registries. Feast has no plug-in point for registries, so the property that every registry is created from is wrapped; only
SQLite paths of repositories with a known folder are affected.

A copied or moved repository has two traces of its former folder: repositories of older releases name their registry by an
absolute path, and the registry records the absolute paths of sources and online tables. Reading resolves all three to the
repository's own files (here and in :func:`sidkit.stores.offline.view_plans.path_of`); an apply rewrites them.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from sidkit.core.errors import RepoError
from sidkit.core.files import make_private, written_beside
from sidkit.core.repo import FEAST_FILE, SETTINGS_FILE, Repo
from sidkit.core.sqlite_url import absolute_url, sqlite_file

_REGISTRY = Path("data") / "registry.sqlite"
_ABSOLUTE = re.compile(r"""(["']?)sqlite:///(/[^\n"']+)\1""")
RELOCATE = "run `sidkit relocate`"


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
            folder = Path(config.repo_path).resolve()
            url = absolute_url(path, folder)
            file = sqlite_file(url)
            if file is not None and _is_of_another(file, folder) and (folder / "data" / file.name).is_file():
                url = url.set(database=str(folder / "data" / file.name))
            if url != sa.engine.make_url(path):  # keep the spelling of unchanged paths
                config_registry.path = url.render_as_string(hide_password=False)
        return config_registry

    registry._sidkit = True  # type: ignore[attr-defined]
    RepoConfig.registry = property(registry)


def _is_of_another(file: Path, folder: Path) -> bool:
    """Whether a registry is that of the repository from which this one was copied, or of its former folder."""
    home = file.parent.parent
    if file.parent.name != "data" or home.resolve() == folder or not (folder / SETTINGS_FILE).is_file():
        return False
    return (home / SETTINGS_FILE).exists() or not file.parent.exists()


def former_folder(folder: Path) -> Path | None:
    """The folder in which a repository was applied last if it is another one, according to its own registry; else None."""
    registry = folder / _REGISTRY
    try:
        stat = registry.stat()
    except OSError:
        return None
    recorded = _recorded_folder(registry, stat.st_mtime_ns, stat.st_size)
    return None if recorded is None or recorded.resolve() == folder.resolve() else recorded


def relocated(path: Path, folder: Path) -> Path:
    """A path that the registry records, in the repository's present folder."""
    folder = folder.resolve()
    if folder in path.parents:
        return path
    former = former_folder(folder)
    return folder / path.relative_to(former) if former is not None and former in path.parents else path


def refuse_copied_registry(repo: Repo) -> None:
    """Raise before definitions are applied whose registry belongs to another folder, as in a copied or moved repository.

    Feast's registry records the absolute paths of its online tables: the first ``feast apply`` of a copy would drop
    the tables of the original.

    Raises
    ------
    RepoError
        When ``feature_store.yaml`` refers to a SQLite registry in another sidkit repository or in a missing folder, or the
        repository's own registry records online tables in another folder.
    """
    elsewhere = [*_foreign_registries(repo), *(path for path in _online_tables(repo) if repo.path not in path.parents)]
    if elsewhere:
        raise RepoError(
            f"{repo.path} was copied or moved: its registry belongs to {elsewhere[0]}, and applying it would drop the online "
            f"tables there. To make it independent, {RELOCATE} --repo {repo.path}"
        )


def refuse_registry_elsewhere(repo: Repo, *, reads_recorded_paths: bool) -> None:
    """Raise before a registry is read that is, or whose sources are, in the repository's former folder.

    Parameters
    ----------
    repo : Repo
        The repository.
    reads_recorded_paths : bool
        Whether its offline store reads the paths of sources as recorded, without :func:`relocated`.

    Raises
    ------
    RepoError
        When the registry or its sources are elsewhere.
    """
    foreign = [file for file in _foreign_registries(repo) if not (repo.data / file.name).is_file()]
    former = former_folder(repo.path) if reads_recorded_paths else None
    elsewhere = foreign[0] if foreign else former
    if elsewhere is not None:
        raise RepoError(
            f"{repo.path} was copied or moved, and would read {elsewhere}. To make it independent, {RELOCATE} --repo "
            f"{repo.path}"
        )


def own_registry(repo: Repo) -> list[str]:
    """Let a repository use its own registry, and forget online tables elsewhere; returns a line per change.

    Hold the repository's lock. The paths of sources are corrected by the apply that must follow.
    """
    changes = []
    path = repo.path / FEAST_FILE
    text = path.read_text(encoding="utf-8")
    relative = _ABSOLUTE.sub(lambda match: _relative(match, repo), text)
    if relative != text:
        with written_beside(path) as temporary:
            temporary.write_text(relative, encoding="utf-8")
        changes.append(f"{FEAST_FILE}: the registry is relative to the repository")
    foreign = [file for file in _online_tables(repo) if repo.path not in file.parents]
    if foreign:
        with contextlib.closing(sqlite3.connect(repo.path / _REGISTRY)) as opened, opened:
            opened.execute("DELETE FROM managed_infra")
        changes.append(f"{_REGISTRY}: forgot the online tables in {foreign[0].parent.parent}")
    return changes


def _relative(match: re.Match[str], repo: Repo) -> str:
    file = Path(match[2])
    return f"sqlite:///data/{file.name}" if _is_of_another(file, repo.path) else match[0]


def _foreign_registries(repo: Repo) -> list[Path]:
    text = (repo.path / FEAST_FILE).read_text(encoding="utf-8")
    return [file for match in _ABSOLUTE.finditer(text) if _is_of_another(file := Path(match[2]), repo.path)]


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


@functools.lru_cache(maxsize=64)
def _recorded_folder(registry: Path, changed_ns: int, size: int) -> Path | None:
    """The folder of the feature tables that a registry (in this state of its file) records as sources."""
    from feast.protos.feast.core.DataSource_pb2 import DataSource

    for name, proto in _rows(registry, "SELECT data_source_name, data_source_proto FROM data_sources"):
        table = Path("data") / "tables" / f"{name.removesuffix('_source')}.parquet"
        source = DataSource.FromString(proto)
        path = Path(source.file_options.uri or source.spark_options.path)
        if path.is_absolute() and path.parts[-3:] == table.parts:
            return path.parent.parent.parent
    return None


def _online_tables(repo: Repo) -> list[Path]:
    """Paths of the SQLite online tables recorded in a repository's own registry."""
    from feast.protos.feast.core.InfraObject_pb2 import Infra

    blobs = _rows(repo.path / _REGISTRY, "SELECT infra_proto FROM managed_infra")
    return [
        Path(table.sqlite_table.path).resolve() for (blob,) in blobs for table in Infra.FromString(blob).infra_objects
    ]


def _rows(registry: Path, query: str) -> list[tuple[Any, ...]]:
    if not registry.is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(registry))}?mode=ro", uri=True)) as opened:
        try:
            return opened.execute(query).fetchall()
        except sqlite3.DatabaseError:
            return []  # a new registry, or one that Feast itself reports
