"""Where a repository holds rows of users, besides its log and tables, and which artefacts learned from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from sidkit.stores.online.redis_erase import OnServer

_KEPT = ("artifacts/codebooks", "artifacts/rankers")
"""Artefacts without ids of users."""


@dataclass(frozen=True)
class Retrain:
    """An artefact that learned from rows of forgotten users."""

    kind: str
    """``codebook`` or ``ranker``."""
    name: str
    rows: int
    """Rows of them in its window; a sample of the window's users may have had fewer."""
    remedy: str
    """What replaces it."""

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def rows_by_place(repo: Repo, users: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows per user by place: a file of the repository, relative to it; places without any are left out."""
    from sidkit.stores.online.erase import keys_of_users
    from sidkit.stores.online.redis_erase import keys_of_users_on
    from sidkit.tables.erase import USER, rows_of_users

    found: dict[str, dict[str, int]] = {}
    if not users:
        return found
    for path, column in _parquet_files(repo):
        place = place_of(repo, path)
        for user, rows in rows_of_users(path, column, users).items():
            found.setdefault(place, {}).setdefault(user, 0)
            found[place][user] += rows
    online = online_file_of(repo)
    if online is not None and (counted := keys_of_users(online, users, USER)):
        found[place_of(repo, online)] = counted
    server = online_server_of(repo)
    if server is not None and (counted := keys_of_users_on(server, users, USER)):
        found[server.database.place] = counted
    for path in _golden_files(repo):
        if counted := _golden_rows(path, users):
            found[place_of(repo, path)] = counted
    return found


def caches_of(repo: Repo, users: Sequence[str]) -> list[Path]:
    """Caches with rows of users, which are removed as a whole: samples of labelled rows, frames of runs with what is in
    the order of their rows, and golden rows. What holds ids comes last, so that a killed removal is noticed by the next.
    """
    from sidkit.tables.erase import USER, rows_of_users

    found = [path for path in sorted(repo.data.glob("rows-*.parquet")) if rows_of_users(path, USER, users)]
    for run in sorted(path for path in repo.runs.glob("*") if path.is_dir()):
        held = [path for path in sorted(run.rglob("*.parquet")) if rows_of_users(path, USER, users)]
        folders = {run / path.relative_to(run).parts[0] for path in held}
        beside = {path for each in ("frame*", "predictions*") for path in run.glob(each)} if folders else set()
        found += [*sorted(beside - folders), *sorted(folders)]
    return [*found, *(path for path in _golden_files(repo) if _golden_rows(path, users))]


def remove_caches(caches: Sequence[Path], users: Sequence[str]) -> None:
    """Remove the result of :func:`caches_of`."""
    from sidkit.core.files import remove
    from sidkit.tables.erase import USER, rows_of_users

    for cache in caches:
        if cache.is_dir():
            files = [path for path in sorted(cache.rglob("*")) if path.is_file()]
            named = [path for path in files if path.suffix == ".parquet" and rows_of_users(path, USER, users)]
            for path in (*(each for each in files if each not in named), *named):
                path.unlink()
        elif cache.suffix == ".parquet":
            remove(cache.with_suffix(".json"))
        remove(cache)


def erase_elsewhere(repo: Repo, users: Sequence[str]) -> None:
    """Remove rows of users from all other Parquet files: rejects, requests that were logged, sources within the repository."""
    from sidkit.tables.erase import erase_rows

    for path, column in _parquet_files(repo):
        if repo.log not in path.parents:
            erase_rows(path, column, users)


def online_file_of(repo: Repo) -> Path | None:
    """The SQLite file of the online store; None if it is another database, or nothing was applied."""
    from sidkit.stores.feast_repo import open_store
    from sidkit.stores.online.erase import online_file
    from sidkit.stores.registry_check import registry_file

    registry = registry_file(repo)
    if registry is not None and not registry.exists():  # opening the store would create it
        return None
    return online_file(open_store(repo))


def online_server_of(repo: Repo) -> OnServer | None:
    """The Redis server of the packed online store; None if it is another one, or nothing was applied."""
    from sidkit.stores.feast_repo import open_store
    from sidkit.stores.online.redis_erase import online_server
    from sidkit.stores.registry_check import registry_file

    registry = registry_file(repo)
    if registry is not None and not registry.exists():  # opening the store would create it
        return None
    return online_server(open_store(repo))


def unreachable(repo: Repo) -> tuple[str, ...]:
    """Places with rows of users that are not ours to change, each with what to do there."""
    from sidkit.stores.registry_check import registry_file

    left = []
    source = _source_folder(repo)
    if source is None:
        left.append(
            "the source (source.url in sidkit.toml): delete them there too; ingests leave them out, but do not change it"
        )
    elif others := [path for path in _files(source) if path.suffix != ".parquet"]:
        left.append(f"{place_of(repo, others[0])} and the like, which are no Parquet files: delete them there")
    registry = registry_file(repo)
    server = online_server_of(repo)
    if server is not None:
        left.append(f"snapshots and append-only files of {server.database.place}: let the server write them again")
    elif (registry is None or registry.exists()) and online_file_of(repo) is None:
        left.append("the online store, which is no packed one: delete the keys with their user_id there")
    left.append("backups, copies and exports of this repository")
    return tuple(left)


def trained_on(repo: Repo, users: Sequence[str]) -> list[Retrain]:
    """Codebooks and rankers in whose windows users have rows of the log; codebooks only if they learned from clicks."""
    times, positive = _times(repo, users)
    if not len(times):
        return []
    found = []
    for kind, folder in (("codebook", repo.codebooks), ("ranker", repo.rankers)):
        for path in sorted(folder.glob("*/manifest.json")):
            stated = _manifest(path.parent)
            if stated is None:
                continue
            if kind == "codebook":
                until_us = int(stated["fit_end_us"]) - repo.settings.time.delay_us
                rows = int(((times <= until_us) & positive).sum()) if stated.get("pairs") else 0
                remedy = "fit another one, publish and promote it, then retire and purge this one"
            else:
                start_us, end_us = int(stated["fit_start_us"]), int(stated["fit_end_us"])
                rows = int(((times >= start_us) & (times < end_us)).sum())
                remedy = "train another one, with `sidkit run` for instance, and promote it"
            if rows:
                found.append(Retrain(kind, path.parent.name, rows, remedy))
    return found


def _manifest(folder: Path) -> dict[str, Any] | None:
    from sidkit.core.artifact import read_manifest
    from sidkit.core.errors import ArtifactError

    try:
        return read_manifest(folder, verify=False)
    except ArtifactError:
        return None  # it cannot serve until it is made again


def _times(repo: Repo, users: Sequence[str]) -> tuple[Any, Any]:
    """Times of the users' rows of the log, ``int64`` microseconds UTC, and whether they are positives."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds

    from sidkit.tables import read_log
    from sidkit.tables.log import has_log

    if not users or not has_log(repo):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    rows = ds.dataset([str(path) for path in read_log(repo).parts]).to_table(
        columns=["timestamp", "label"], filter=ds.field("user_id").isin(pa.array(list(users), pa.string()))
    )
    times = rows.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return times, rows.column("label").to_numpy() == 1


def _parquet_files(repo: Repo) -> Iterator[tuple[Path, str]]:
    """Parquet files that may have rows of users, each with the column of their ids; not the caches of runs."""
    from sidkit.tables.erase import USER, parquet_files
    from sidkit.tables.queue import queue_folder

    source = _source_folder(repo)
    skip = [repo.path / each for each in _KEPT] + [repo.runs, repo.data / "tmp", queue_folder(repo)]
    for path in parquet_files(repo.path, skip):
        yield path, _own_column(repo, path) if source is not None and source in path.parents else USER


def _own_column(repo: Repo, path: Path) -> str:
    """Name of the column of users in a file of the source."""
    import pyarrow.parquet as pq

    from sidkit.contract.column_mapping import mapped_columns
    from sidkit.contract.schemas import INTERACTIONS, USERS
    from sidkit.core.errors import TableSchemaError
    from sidkit.tables.erase import USER

    names = pq.read_schema(path).names
    for table in (INTERACTIONS, USERS):
        with suppress(TableSchemaError):  # the section of another table
            column = str(mapped_columns(table, repo.settings.source.columns, names).get(USER, USER))
            if column in names:
                return column
    return USER


def _source_folder(repo: Repo) -> Path | None:
    """The source, if it is a folder within the repository."""
    source = Path(repo.settings.source.url)
    return source if source.is_absolute() and repo.path in source.parents and source.is_dir() else None


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".toml", ".json", ".npy"}
    )


def _golden_files(repo: Repo) -> list[Path]:
    return sorted((repo.data / "serving").glob("*.npz"))


def _golden_rows(path: Path, users: Sequence[str]) -> dict[str, int]:
    import numpy as np

    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as held:
            ids = held["user_ids"].tolist() if "user_ids" in held.files else []
    except (OSError, ValueError):
        return {}  # damaged: it is written again
    wanted = set(users)
    return {user: ids.count(user) for user in wanted.intersection(ids)}


def place_of(repo: Repo, path: Path) -> str:
    """A file or folder relative to the repository; parts of one table are one place."""
    if repo.path not in path.parents:
        return str(path)
    inside = path.relative_to(repo.path)
    return inside.parent.as_posix() if repo.log in path.parents or "log" in inside.parts else inside.as_posix()
