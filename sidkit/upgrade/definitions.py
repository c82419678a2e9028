"""Definitions: the files of an earlier release become those of this release, unless they have changes of their owner."""

from __future__ import annotations

from sidkit.core.errors import RepoError
from sidkit.core.files import written_beside
from sidkit.core.repo import Repo, template_folder
from sidkit.stores.definition_files import compare_definitions


def renew_definitions(repo: Repo) -> list[str]:
    """Replace the files with definitions, all or none, since they import each other; returns a line per file.

    Raises
    ------
    RepoError
        When a file has changes of its owner, and another one is older.
    """
    files = compare_definitions(repo)
    if files.older and files.changed:
        raise RepoError(
            f"expected definitions as `sidkit init` wrote them, got changes of your own in {', '.join(files.changed)}; "
            "merge the files with those of a new repository (`sidkit init`)"
        )
    for name in files.older:
        with written_beside(repo.path / name) as temporary:
            temporary.write_bytes((template_folder() / name).read_bytes())
    return [f"{name}: definitions of this release; run `sidkit apply`" for name in files.older]
