"""What the steps of format 2 share: a manifest without hashes gets those of the files as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json
from sidkit.core.integrity import FILES, MANIFEST_HASH, hashes_of, write_sealed

Listing = Callable[[dict[str, Any]], Sequence[str]]
"""The files of a manifest, relative to its folder."""


def exactly(*names: str) -> Listing:
    """The same files, whatever the manifest says."""
    return lambda _: names


def seal_manifest(path: Path, listed: Listing) -> list[str]:
    """Add hashes to a manifest that has none; returns what was done.

    Parameters
    ----------
    path : Path
        The manifest. One that is missing, or has hashes, is left as it is; so is one that is damaged: whoever reads it says
        so, with the command that makes it anew.
    listed : callable
        The files of a manifest, relative to its folder.
    """
    if not path.is_file():
        return []
    try:
        stated = read_json(path)
        if not isinstance(stated, dict) or MANIFEST_HASH in stated:
            return []
        names = list(listed(stated))
    except (ArtifactCorruptError, KeyError, TypeError):
        return [f"{path}: is damaged and was left as it is"]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        return [f"{path}: {', '.join(missing)} is missing; the manifest was left as it is"]
    write_sealed(path, {**stated, FILES: hashes_of(path.parent, names)})
    return [f"{path}: hashes of {len(names)} files"]
