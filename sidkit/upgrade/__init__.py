"""Migrations of repos of older formats (``sidkit upgrade``): one file per step, one line per step in the registry below.

A step is a function of the repo. It changes nothing that is of its format already, writes each file in one rename, and
returns what it did, so that an upgrade that was killed is run again. Steps may edit any file of a repo, also
``feature_store.yaml``; the number in ``data/format.json`` is written after the last step of a format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidkit.core.errors import RepoError
from sidkit.core.repo import Repo
from sidkit.core.repo_format import FORMAT, format_to_upgrade, write_format
from sidkit.upgrade.class_paths import rename_class_paths
from sidkit.upgrade.codes import seal_codes
from sidkit.upgrade.defined import seal_defined
from sidkit.upgrade.log import seal_log
from sidkit.upgrade.online import check_online_rows
from sidkit.upgrade.rows import seal_rows
from sidkit.upgrade.runs import seal_runs
from sidkit.upgrade.tables import seal_tables


@dataclass(frozen=True)
class Step:
    """One migration.

    Parameters
    ----------
    to : int
        The format that the repo has once all steps of that number are done.
    run : callable
        Does it; returns one line per thing that it did.
    """

    to: int
    run: Callable[[Repo], list[str]]


STEPS = (
    Step(2, seal_log),
    Step(2, seal_tables),
    Step(2, seal_codes),
    Step(2, seal_rows),
    Step(2, seal_defined),
    Step(2, seal_runs),
    Step(2, check_online_rows),
)
"""In the order in which they are done."""


def upgrade(repo: Repo) -> list[str]:
    """Bring a repo to this release's format; call it while holding the repo's lock.

    Returns
    -------
    list of str
        What was done, a line each; empty where the repo has this format already.

    Raises
    ------
    RepoError
        When a later release wrote the repo.
    """
    began = format_to_upgrade(repo.path)
    if began > FORMAT:
        raise RepoError(f"{repo.path} has format {began}, later than this release's {FORMAT}; install a later release")
    done = rename_class_paths(repo)
    if began < FORMAT:
        write_format(repo.path, began)  # one that is killed is known to be unfinished
    for number in range(began + 1, FORMAT + 1):
        for step in STEPS:
            if step.to == number:
                done += step.run(repo)
        write_format(repo.path, number)
        done.append(f"data/format.json: format {number}")
    return done
