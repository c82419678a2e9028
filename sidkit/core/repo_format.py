"""The format of a repo's files: one number in ``data/format.json``.

1 is that of releases that wrote no number. A repo of an older format is refused with the command that migrates it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from sidkit.core.errors import ArtifactCorruptError, RepoError
from sidkit.core.files import read_json
from sidkit.core.integrity import MANIFEST, MANIFEST_HASH, read_sealed, write_sealed

FORMAT = 2
"""2: manifests hold hashes, the record of stages and the kept tables too."""
_WITHOUT_NUMBER = 1


def format_of(repo: Path) -> int:
    """The format of the repo in a folder.

    Raises
    ------
    ArtifactCorruptError
        When the number cannot be read.
    """
    path = _path(repo)
    if not path.is_file():
        return _WITHOUT_NUMBER if _has_old_files(repo) else FORMAT
    try:
        return int(read_sealed(path)["format"])
    except (ArtifactCorruptError, KeyError, TypeError, ValueError) as error:
        problem = error.problem if isinstance(error, ArtifactCorruptError) else "it states no format"
        raise ArtifactCorruptError(path, problem, f"run `sidkit upgrade --repo {shlex.quote(str(repo))}`") from error


def format_to_upgrade(repo: Path) -> int:
    """The format from which a repo has to be migrated; the oldest where the number cannot be read."""
    try:
        return format_of(repo)
    except ArtifactCorruptError:
        return _WITHOUT_NUMBER


def refuse_other_format(repo: Path) -> None:
    """Refuse a repo that this release does not read.

    Raises
    ------
    RepoError
        Naming the command that migrates it.
    ArtifactCorruptError
        When the number cannot be read.
    """
    found = format_of(repo)
    if found < FORMAT:
        raise RepoError(
            f"{repo} has files of format {found} and this release reads format {FORMAT}; run "
            f"`sidkit upgrade --repo {shlex.quote(str(repo))}`"
        )
    if found > FORMAT:
        raise RepoError(
            f"{repo} has files of format {found} and this release reads format {FORMAT}; install the release that wrote them, "
            "or a later one"
        )


def write_format(repo: Path, number: int = FORMAT) -> None:
    """Write the number in one rename."""
    write_sealed(_path(repo), {"format": number})


def keep_format(repo: Path) -> None:
    """Write the number where it is missing and nothing in the repo is older."""
    if not _path(repo).is_file() and not _has_old_files(repo):
        write_format(repo)


def _path(repo: Path) -> Path:
    return repo / "data" / "format.json"


def _has_old_files(repo: Path) -> bool:
    for folder in ("log", "tables"):
        path = repo / "data" / folder / MANIFEST
        if not path.is_file():
            continue
        try:
            stated = read_json(path)
        except ArtifactCorruptError:
            continue  # it is damaged, which whoever reads it says
        if isinstance(stated, dict) and MANIFEST_HASH not in stated:
            return True
    return False
