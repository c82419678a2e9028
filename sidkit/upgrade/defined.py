"""Format 2: the list of defined codebooks has a hash of its content."""

from __future__ import annotations

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json
from sidkit.core.integrity import write_sealed
from sidkit.core.repo import Repo


def seal_defined(repo: Repo) -> list[str]:
    """Write ``data/defined.json`` as an object with the names and a hash."""
    if not repo.defined.is_file():
        return []
    try:
        names = read_json(repo.defined)
    except ArtifactCorruptError:
        return [f"{repo.defined}: damaged, left unchanged"]
    if not isinstance(names, list):
        return []
    write_sealed(repo.defined, {"names": names})
    return [f"{repo.defined}: added a hash of its content"]
