"""``sidkit forget``: remove users from every file of a repository, and keep them from coming back.

The steps can be repeated, so a later call finishes what an interrupted one began: ``forgotten/pending.json`` lists its users
until the end, and other commands refuse to work meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sidkit.api.erasure_places import (
    Retrain,
    caches_of,
    erase_elsewhere,
    online_file_of,
    online_server_of,
    place_of,
    remove_caches,
    rows_by_place,
    trained_on,
    unreachable,
)
from sidkit.core.errors import RepoError
from sidkit.core.files import remove
from sidkit.core.forgotten import (
    add_forgotten,
    begin_forgetting,
    finish_forgetting,
    read_forgotten,
    unfinished,
    user_texts,
)
from sidkit.core.integrity import MANIFEST
from sidkit.core.repo import Repo

_SHOWN = 3


@dataclass(frozen=True)
class ForgetReport:
    """Result of forgetting users."""

    users: int
    """Users who are forgotten with this call, those of an interrupted one included."""
    rows: dict[str, int]
    """Place -> rows of them that it had: a file or folder of the repository, relative to it."""
    removed: tuple[str, ...] = ()
    """Caches that were removed as a whole; the commands that made them make them again."""
    retrain: tuple[Retrain, ...] = ()
    """Codebooks and rankers that learned from their rows."""
    left: tuple[str, ...] = ()
    """What this call cannot reach, with what to do there."""
    finished: bool = False
    """Whether an interrupted call was finished too."""


def forget(repo: Repo, user_ids: Sequence[Any] | str | int = (), *, allow_unknown: bool = False) -> ForgetReport:
    """Remove users from all files of a repository, and keep them out of later ingests.

    Parameters
    ----------
    repo : Repo
        The repository.
    user_ids : sequence of str or int
        Values of ``user_id``, compared as a whole. None are needed to finish an interrupted call.
    allow_unknown : bool
        Accept users of whom nothing is known, so that later ingests leave them out.

    Raises
    ------
    RepoError
        When a user is unknown, nobody else would be left in the log, or there is nothing to do; nothing was changed then.
    ArtifactError
        When the log or a table is damaged or missing, with the command that rebuilds it.
    OnlineStoreError
        When another process holds the online store; the next call finishes the work.
    """
    from sidkit.tables.absorb import absorb
    from sidkit.tables.log import has_log

    given = user_texts(user_ids)
    with repo.locked(half_forgotten=True):
        pending = unfinished(repo.path)
        if has_log(repo):
            absorb(repo)  # what was pushed and waits is in the log then
        if not given and pending is None:
            raise RepoError(
                f"expected users to forget, got none, and nothing is unfinished in {repo.path}; name them with --user ID or "
                "--users-file FILE"
            )
        work = _plan(repo, given, pending, allow_unknown=allow_unknown)
        begin_forgetting(repo.path, work)
        _erase(repo, work["users"])
        finish_forgetting(repo.path)
        return ForgetReport(
            users=len(work["users"]),
            rows=work["rows"],
            removed=tuple(work["caches"]),
            retrain=tuple(Retrain(**each) for each in work["retrain"]),
            left=unreachable(repo),
            finished=pending is not None,
        )


def _plan(repo: Repo, given: list[str], pending: dict[str, Any] | None, *, allow_unknown: bool) -> dict[str, Any]:
    """What is to be done, with what an interrupted call had planned; raises before anything is changed."""
    from sidkit.tables import build_tables, read_build
    from sidkit.tables.erase import refuse_empty_log
    from sidkit.tables.log import has_log

    before = pending or {"users": [], "rows": {}, "retrain": [], "caches": []}
    new = [each for each in given if each not in set(before["users"])]
    found = rows_by_place(repo, new)
    known = {user for counted in found.values() for user in counted}
    forgotten = read_forgotten(repo.path)
    unknown = [each for each in new if each not in known and (forgotten is None or each not in forgotten)]
    if unknown and not allow_unknown:
        raise RepoError(
            f"expected users who are in {repo.path}, got {_shown(unknown)}, of whom no file has a row; nothing was removed. "
            "Check the ids, which are compared letter by letter, or pass --allow-unknown to keep later rows of them out"
        )
    if has_log(repo):
        refuse_empty_log(repo, [*before["users"], *new])
    retrain = {(each.kind, each.name): each.as_json() for each in trained_on(repo, new)}
    retrain |= {(each["kind"], each["name"]): each for each in before["retrain"]}
    if pending is None and _has_tables(repo):
        # What prevents a build prevents it here, while nothing is half done.
        build_tables(repo, read_build(repo)["as_of_us"], allow_future=True)
    rows = dict(before["rows"])
    for place, counted in found.items():
        rows[place] = rows.get(place, 0) + sum(counted.values())
    users = [*before["users"], *new]
    caches = [place_of(repo, path) for path in caches_of(repo, new)]
    return {
        "users": users,
        "rows": rows,
        "retrain": list(retrain.values()),
        "caches": sorted({*before["caches"], *caches}),
    }


def _erase(repo: Repo, users: list[str]) -> None:
    """Remove users from all places. Each step may be repeated."""
    from sidkit.stores.feast_repo import materialize, open_store
    from sidkit.stores.online.erase import erase_users, patience_of
    from sidkit.stores.online.redis_erase import erase_users_on
    from sidkit.tables import build_tables, read_build
    from sidkit.tables.absorb import absorb
    from sidkit.tables.day_partitions import write_days
    from sidkit.tables.erase import USER, erase_rows, erase_withdrawn, purge_log, rows_of_users, take_from_log
    from sidkit.tables.labelled_rows import build_labelled_rows
    from sidkit.tables.log import has_log

    add_forgotten(repo.path, users)
    if has_log(repo):
        absorb(repo)  # leaves out their events that were pushed meanwhile
    remove_caches(caches_of(repo, users), users)
    for path in sorted(repo.tables.glob("*.parquet")):
        erase_rows(path, USER, users)
    if has_log(repo):
        take_from_log(repo, users)
        if _has_tables(repo):
            build = read_build(repo)
            build_tables(repo, build["as_of_us"], allow_future=True)
            views, until_us = materialized(repo)
            if views:  # counts of items without their events
                materialize(repo, min(until_us, int(build["as_of_us"])), views)
        erase_withdrawn(repo.tables / "withdrawn.parquet", users)
        for path in sorted(repo.tables.glob("*.parquet")):  # statistics that the build could not update
            erase_rows(path, USER, users)
        purge_log(repo, users)
        if repo.labelled_rows.exists() and rows_of_users(repo.labelled_rows, USER, users):
            build_labelled_rows(repo)  # a ranker is compared with some of them when it is loaded
    if (online := online_file_of(repo)) is not None:
        erase_users(online, users, USER, patience_of(open_store(repo)))
    if (server := online_server_of(repo)) is not None:
        erase_users_on(server, users, USER)
    erase_elsewhere(repo, users)
    write_days(repo)
    remove(repo.data / "tmp")


def materialized(repo: Repo) -> tuple[list[str], int]:
    """Views of the tables that were materialized, and until when, microseconds UTC."""
    from sidkit.core.clock import to_us
    from sidkit.stores.feast_repo import open_store
    from sidkit.stores.registry_check import registry_file

    registry = registry_file(repo)
    if registry is not None and not registry.exists():  # opening the store would create it
        return [], 0
    ends = {view.name: view.most_recent_end_time for view in open_store(repo).list_feature_views()}
    done = {name: to_us(end) for name, end in ends.items() if end and (repo.tables / f"{name}.parquet").exists()}
    return list(done), max(done.values(), default=0)


def _has_tables(repo: Repo) -> bool:
    return (repo.tables / MANIFEST).exists()


def _shown(users: Iterable[str]) -> str:
    listed = list(users)
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    return ", ".join(map(repr, listed[:_SHOWN])) + more
