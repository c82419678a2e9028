"""Format version of a repository's files: one number in ``data/format.json``.

Format 1 is that of releases that wrote no number. Repositories of an older format must be migrated by ``sidkit upgrade``.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from sidkit.core.errors import ArtifactCorruptError, RepoError
from sidkit.core.files import read_json
from sidkit.core.integrity import MANIFEST, MANIFEST_HASH, read_sealed, write_sealed

FORMAT = 2
"""Format 2: manifests, stage records and sealed tables hold hashes."""
_WITHOUT_NUMBER = 1


def format_of(repo: Path) -> int:
    """Return the format of a repository.

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
        problem = error.problem if isinstance(error, ArtifactCorruptError) else "it has no format number"
        raise ArtifactCorruptError(path, problem, f"run `sidkit upgrade --repo {shlex.quote(str(repo))}`") from error


def format_to_upgrade(repo: Path) -> int:
    """The format to migrate from; the oldest one if the number cannot be read."""
    try:
        return format_of(repo)
    except ArtifactCorruptError:
        return _WITHOUT_NUMBER


def refuse_other_format(repo: Path) -> None:
    """Reject a repository whose format this release cannot read.

    Raises
    ------
    RepoError
        Names the command that migrates it.
    ArtifactCorruptError
        When the number cannot be read.
    """
    number = format_of(repo)
    if number < FORMAT:
        raise RepoError(
            f"expected files of format {FORMAT}, got format {number} in {repo}; run "
            f"`sidkit upgrade --repo {shlex.quote(str(repo))}`"
        )
    if number > FORMAT:
        raise RepoError(
            f"expected files of format {FORMAT}, got format {number} in {repo}; install the release that wrote them, "
            "or a later one"
        )


def write_format(repo: Path, number: int = FORMAT) -> None:
    """Write the format number atomically."""
    write_sealed(_path(repo), {"format": number})


def keep_format(repo: Path) -> None:
    """Write the format number if it is missing and the repository has no older files."""
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
            continue  # damaged: its reader reports it
        if isinstance(stated, dict) and MANIFEST_HASH not in stated:
            return True
    return False
