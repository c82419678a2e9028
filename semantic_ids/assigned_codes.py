"""The table of a codebook's codes on disk, and whether it fits the feature tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from semantic_ids.catalog import table_path
from semantic_ids.records import CodebookRecord
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import read_verified, say_discarded
from sidkit.core.repo import Repo


def codes_to_extend(repo: Repo, record: CodebookRecord, generation: int) -> Path | None:
    """The table of a codebook's codes, if it fits the generation of the feature tables; else all codes are assigned anew."""
    table = table_path(repo, record.name)
    stamp = {"codebook_hash": record.content_hash, "generation": generation}
    return table if made_with(table, sidecar_of(repo, record.name), stamp) else None


def made_with(table: Path, sidecar: Path, stamp: Mapping[str, object]) -> bool:
    """Whether a table of codes is intact and was made with this codebook from this generation of the tables."""
    if not (table.exists() and sidecar.exists()):
        return False
    try:
        stated = read_verified(sidecar)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        return False
    return all(stated.get(key) == value for key, value in stamp.items())


def sidecar_of(repo: Repo, name: str) -> Path:
    """The manifest of a codebook's table."""
    return table_path(repo, name).with_suffix(".json")
