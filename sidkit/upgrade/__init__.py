"""Migrations of repositories of older formats (``sidkit upgrade``): one file per step, registered in ``STEPS``.

A step is a function of the repository. It skips what already has the new format, writes each file atomically and returns
what it did, so that a killed upgrade can be run again. Steps may edit any file of a repository, including
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
from sidkit.upgrade.definitions import renew_definitions
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
        Format of the repository after all steps with this number.
    run : callable
        Performs the step; returns one line per change.
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
"""Migration steps in order of execution."""


def upgrade(repo: Repo, *, definitions: bool = False) -> list[str]:
    """Migrate a repository to this release's format; call it while holding the repository lock.

    Parameters
    ----------
    repo : Repo
        Repository of this or an earlier format.
    definitions : bool
        Replace definitions of an earlier release, too (:func:`renew_definitions`).

    Returns
    -------
    list of str
        One line per change; empty if the repository is up to date.

    Raises
    ------
    RepoError
        When a later release wrote the repository, or definitions to replace have changes of their owner.
    """
    current = format_to_upgrade(repo.path)
    if current > FORMAT:
        raise RepoError(f"expected format {FORMAT} or earlier, got {current} in {repo.path}; install a later release")
    done = rename_class_paths(repo)
    if current < FORMAT:
        write_format(repo.path, current)  # marks a killed upgrade as unfinished
    for number in range(current + 1, FORMAT + 1):
        for step in STEPS:
            if step.to == number:
                done += step.run(repo)
        write_format(repo.path, number)
        done.append(f"data/format.json: format {number}")
    if definitions:
        done += renew_definitions(repo)
    return done
