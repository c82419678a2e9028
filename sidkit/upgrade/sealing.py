"""Shared by the steps of format 2: adding hashes of the current files to a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json
from sidkit.core.integrity import FILES, MANIFEST_HASH, hashes_of, write_sealed

Listing = Callable[[dict[str, Any]], Sequence[str]]
"""Maps a manifest to its files, relative to its folder."""


def exactly(*names: str) -> Listing:
    """List fixed files, independent of the manifest."""
    return lambda _: names


def seal_manifest(path: Path, listed: Listing) -> list[str]:
    """Add hashes to a manifest without any; return one line per change.

    Parameters
    ----------
    path : Path
        The manifest. It is left unchanged if it is missing, damaged or already has hashes; a damaged one is reported by its
        reader, with the command that rebuilds it.
    listed : callable
        The files of a manifest, relative to its folder.
    """
    if not path.is_file():
        return []
    try:
        manifest = read_json(path)
        if not isinstance(manifest, dict) or MANIFEST_HASH in manifest:
            return []
        names = list(listed(manifest))
    except (ArtifactCorruptError, KeyError, TypeError):
        return [f"{path}: damaged, left unchanged"]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        return [f"{path}: {', '.join(missing)} is missing; the manifest was left unchanged"]
    write_sealed(path, {**manifest, FILES: hashes_of(path.parent, names)})
    return [f"{path}: added hashes of {len(names)} files"]
