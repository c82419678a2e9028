"""The format of a repo's files: one number in ``data/format.json``.

1 is that of releases that wrote no number. A repo of an older format is refused with the command that migrates it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sidkit.errors import ArtifactCorruptError, RepoError
from sidkit.files import read_json, write_json
from sidkit.integrity import MANIFEST, MANIFEST_HASH

FORMAT = 2
"""2: manifests hold hashes, the record of stages and the kept tables too."""
_WITHOUT_NUMBER = 1


def format_of(repo: Path) -> int:
    """The format of the repo in a folder; a number that cannot be read counts as the oldest."""
    path = _path(repo)
    if not path.is_file():
        return _WITHOUT_NUMBER if _has_old_files(repo) else FORMAT
    try:
        stated: Any = read_json(path)
        return int(stated["format"])
    except (ArtifactCorruptError, KeyError, TypeError, ValueError):
        return _WITHOUT_NUMBER


def refuse_other_format(repo: Path) -> None:
    """Refuse a repo that this release does not read.

    Raises
    ------
    RepoError
        Naming the command that migrates it.
    """
    found = format_of(repo)
    if found < FORMAT:
        raise RepoError(
            f"{repo} has files of format {found} and this release reads format {FORMAT}; run `sidkit upgrade --repo {repo}`"
        )
    if found > FORMAT:
        raise RepoError(
            f"{repo} has files of format {found} and this release reads format {FORMAT}; install the release that wrote them, "
            "or a later one"
        )


def write_format(repo: Path, number: int = FORMAT) -> None:
    """Write the number in one rename."""
    write_json(_path(repo), {"format": number})


def keep_format(repo: Path) -> None:
    """Write the number where it is missing and nothing in the repo is older."""
    if not _path(repo).is_file() and format_of(repo) == FORMAT:
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
