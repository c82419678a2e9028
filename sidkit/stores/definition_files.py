"""The files with definitions of a repository, compared with those that ``sidkit init`` writes.

``definition_files.json`` has the SHA-256 hashes of all texts that releases have written, oldest first; add that of a new text
at the end.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from sidkit.core.repo import Repo, template_folder

TEXTS: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
"""Name of a file -> hashes of its texts."""


@dataclass(frozen=True)
class DefinitionFiles:
    """Files that differ from this release's: ``older`` ones are as an earlier release wrote them, ``changed`` ones are not."""

    older: tuple[str, ...]
    changed: tuple[str, ...]


def compare_definitions(repo: Repo) -> DefinitionFiles:
    """Compare the files with definitions of a repository with this release's."""
    older: list[str] = []
    changed: list[str] = []
    for name, texts in TEXTS.items():
        path = repo.path / name
        found = text_hash(path) if path.is_file() else None
        if found != text_hash(template_folder() / name):
            (older if found is None or found in texts else changed).append(name)
    return DefinitionFiles(tuple(older), tuple(changed))


def text_hash(path: Path) -> str:
    """SHA-256 of a text, whatever its ends of lines."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
