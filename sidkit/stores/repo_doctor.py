"""The doctor for a whole repository: its definitions, and the consistency of registry and online store with them.

The packed online store is read completely.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidkit.core.errors import RegistryDamagedError
from sidkit.core.repo import Repo
from sidkit.stores.doctor import Problem, examine
from sidkit.stores.feast_repo import find_online_damage, read_definitions
from sidkit.stores.registered import UNREADABLE, differences


def examine_repo(repo: Repo) -> list[Problem]:
    """Check a repository without applying it, and return all problems.

    Raises
    ------
    RepoError
        When the definitions cannot be imported.
    """
    views, entities, offline = read_definitions(repo)
    return [*examine(views, entities, offline, repo.path), *_of_stores(repo)]


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
