"""``feature_store.yaml`` as text: its sections are replaced without touching the others, or their comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sidkit.core.errors import RepoError

_KEY = re.compile(r"([A-Za-z_]\w*)\s*:")


def sections_of(text: str) -> dict[str, str]:
    """Top-level key -> its lines, in the order of the file; lines before the first key are under the empty name."""
    found: dict[str, str] = {"": ""}
    name = ""
    for line in text.splitlines(keepends=True):
        if key := _KEY.match(line):
            name = key[1]
        found[name] = found.get(name, "") + line
    return found


def with_sections(text: str, sections: Mapping[str, str]) -> str:
    """The text with some sections replaced, or added at the end."""
    found = sections_of(text if text.endswith("\n") else f"{text}\n")
    return "".join({**found, **{name: f"{section.rstrip()}\n" for name, section in sections.items()}}.values())


def read_values(text: str, path: Path) -> dict[str, Any]:
    """The values of a file's sections.

    Raises
    ------
    RepoError
        When it is not a YAML mapping.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RepoError(f"expected YAML in {path}, got {error}; correct the file") from error
    if not isinstance(values, dict):
        raise RepoError(
            f"expected keys such as registry and offline_store in {path}, got {str(values)[:80]!r}; restore it"
        )
    return values
