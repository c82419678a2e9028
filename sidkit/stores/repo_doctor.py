"""The doctor for a whole repository: its definitions, and the consistency of registry and online store with them.

The packed online store is read completely.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidkit.core.errors import ArtifactCorruptError, RegistryDamagedError
from sidkit.core.files import read_json
from sidkit.core.repo import Repo
from sidkit.stores.definition_files import DefinitionFiles, compare_definitions
from sidkit.stores.doctor import Problem, examine, unread_features
from sidkit.stores.feast_repo import read_definitions
from sidkit.stores.online_damage import find_online_damage
from sidkit.stores.registered import UNREADABLE, differences
from sidkit.stores.services import examine_services
from sidkit.tables.code_stats import counted_codebooks


def examine_repo(repo: Repo) -> list[Problem]:
    """Check a repository without applying it, and return all problems.

    Raises
    ------
    RepoError
        When the definitions cannot be imported.
    """
    services = examine_services(repo)
    if any(not problem.warning for problem in services):
        return services  # nothing else can be read
    files = compare_definitions(repo)
    old = list(_of_files(files))
    views, entities, offline = read_definitions(repo)
    stats = [] if old else _of_code_stats(repo, {view.name for view in views}, files)
    return [
        *services,
        *old,
        *examine(views, entities, offline, repo.path),
        *_of_stores(repo),
        *_of_days(repo),
        *_of_rankers(repo),
        *stats,
    ]


def _of_files(files: DefinitionFiles) -> Iterator[Problem]:
    """Definitions of an earlier release, which an upgrade replaces."""
    if files.older and not files.changed:
        yield Problem(
            "old-definitions",
            ", ".join(files.older),
            "these definitions are of an earlier release",
            "Run `sidkit upgrade --definitions`, then `sidkit apply` and `sidkit materialize`.",
            warning=True,
        )


def _of_code_stats(repo: Repo, defined: set[str], files: DefinitionFiles) -> Iterator[Problem]:
    """Statistics of codes whose views are missing from definitions that an upgrade does not replace."""
    for codebook, counts in counted_codebooks(repo):
        missing = [name for name in counts.tables if name not in defined]
        if missing and f"item_sid_{codebook}" in defined:
            yield Problem(
                "no-code-stats",
                f"codebook {codebook}",
                f"the definitions lack the feature views {', '.join(missing)} of its statistics, and have changes of your own "
                f"in {', '.join(files.changed)}",
                "Merge them with the files of a new repository (`sidkit init`), then run `sidkit apply` and "
                "`sidkit materialize`.",
                warning=True,
            )


def _of_rankers(repo: Repo) -> Iterator[Problem]:
    """Own features (``features.extra``) that no ranker of their service reads; nothing for a service without rankers."""
    own = {reference.replace(":", "__") for reference in repo.settings.features.extra}
    read: dict[str, set[str]] = {}
    for path in sorted(repo.rankers.glob("*/config.json")) if own else []:
        config = read_json(path)
        read.setdefault(config["service"], set()).update(config["features"])
    for service, names in read.items():
        yield from unread_features(service, own, names)


def _of_days(repo: Repo) -> Iterator[Problem]:
    """Sources partitioned by day that do not have the rows of their tables."""
    from sidkit.stores.offline.day_files import is_by_day, refuse_outdated
    from sidkit.tables.day_partitions import partitioned

    for folder in sorted(repo.sources.iterdir()) if partitioned(repo) and repo.sources.is_dir() else []:
        try:
            if is_by_day(folder):
                refuse_outdated(folder)
        except ArtifactCorruptError as error:
            yield Problem("outdated-days", str(folder), error.problem, "Run `sidkit tables build`.")


def _of_stores(repo: Repo) -> Iterator[Problem]:
    """Inconsistencies and damage in the registry and the online store."""
    try:
        different = differences(repo)
        for difference in different:
            yield Problem("not-as-defined", difference.where, difference.problem, difference.remedy)
        if any(difference.where == UNREADABLE for difference in different):
            return  # the error is among the differences
        for where, problem in find_online_damage(repo):
            yield Problem("damaged", where, problem, "Run `sidkit materialize`.")
    except RegistryDamagedError as error:
        yield Problem("damaged", str(error.path), error.problem, "Run `sidkit apply`.")
