"""The doctor of a whole repo: its definitions, and what registry and online store hold otherwise than they say.

The packed online store is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidkit.core.errors import RegistryDamagedError
from sidkit.core.repo import Repo
from sidkit.stores.doctor import Problem, examine
from sidkit.stores.feast_repo import find_online_damage, read_definitions
from sidkit.stores.registered import UNREADABLE, differences


def examine_repo(repo: Repo) -> list[Problem]:
    """All problems of a repo, without applying it.

    Raises
    ------
    RepoError
        When the definitions cannot be imported.
    """
    views, entities, offline = read_definitions(repo)
    return [*examine(views, entities, offline, repo.path), *_of_stores(repo)]


def _of_stores(repo: Repo) -> Iterator[Problem]:
    """What registry and online store hold otherwise than the definitions say, or not as it was written."""
    try:
        different = differences(repo)
        for found in different:
            yield Problem("not-as-defined", found.where, found.problem, found.remedy)
        if any(found.where == UNREADABLE for found in different):
            return  # its error is among them
        for where, problem in find_online_damage(repo):
            yield Problem("damaged", where, problem, "Run `sidkit materialize`.")
    except RegistryDamagedError as error:
        yield Problem("damaged", str(error.path), error.problem, "Run `sidkit apply`.")
