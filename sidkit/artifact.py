"""Immutable artefact folders: files first, ``manifest.json`` with their hashes last, renamed into place, verified on load."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sidkit.config import content_hash
from sidkit.errors import ArtifactCorruptError, ArtifactMissingError
from sidkit.files import folder_written_beside, read_json, remove, sha256, write_json

T = TypeVar("T")

MANIFEST = "manifest.json"
_OWN_HASH = "manifest_hash"  # of everything else in the manifest; `content_hash` is of the files alone
_LIBRARIES = ("sidkit", "feast", "duckdb", "numpy", "pyarrow", "faiss-cpu", "torch", "scikit-learn")


def write_artifact(folder: Path, describe: Mapping[str, Any], write_files: Callable[[Path], None]) -> dict[str, Any]:
    """Write one artefact.

    Parameters
    ----------
    folder : Path
        Where it will lie. If an artefact with the same content is there already, that one is kept.
    describe : mapping
        What the manifest says besides the hashes (kind, name, fit window in microseconds UTC, parents, settings).
    write_files : callable
        Writes the files into the temporary folder it is given.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ArtifactCorruptError
        When ``folder`` holds another artefact: a version is never overwritten.
    StorageError
        When the disk refuses the write.
    """
    there = written_before(folder, describe)
    with folder_written_beside(folder) as temporary:
        write_files(temporary)
        files = {
            file.relative_to(temporary).as_posix(): sha256(file)
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        if there is not None:
            if there["files"] != files:
                raise ArtifactCorruptError(folder, "an artefact with other content has this name already")
            remove(temporary)
            return there
        manifest = {
            **describe,
            "files": files,
            "content_hash": content_hash(files),
            "libraries": _library_versions(),
        }
        manifest[_OWN_HASH] = content_hash(manifest)
        write_json(temporary / MANIFEST, manifest)
    return manifest


def written_before(folder: Path, describe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of an artefact that was made from the same inputs, or None where there is none.

    Raises
    ------
    ArtifactCorruptError
        When ``folder`` holds an artefact made from other inputs, or one that was changed.
    """
    if not folder.exists():
        return None
    there = read_manifest(folder)
    if content_hash({key: there.get(key) for key in describe}) != content_hash(dict(describe)):
        raise ArtifactCorruptError(folder, "an artefact made from other inputs has this name already")
    return there


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Read an artefact's manifest and, by default, verify every file against it.

    Raises
    ------
    ArtifactMissingError
        When there is no such folder.
    ArtifactCorruptError
        When the manifest is missing or unreadable, or a file is missing, added, or differs from its hash.
    """
    if not folder.is_dir():
        raise ArtifactMissingError(
            f"{folder} does not exist; the catalogue lists what there is (`sidkit codebooks list`)"
        )
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = read_json(path)
        files: dict[str, str] = manifest["files"]
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("it names files outside of the folder")
        stated = manifest[_OWN_HASH]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactCorruptError(path, f"the manifest cannot be read ({type(error).__name__}: {error})") from error
    if not verify:
        return manifest
    if content_hash({key: value for key, value in manifest.items() if key != _OWN_HASH}) != stated:
        raise ArtifactCorruptError(path, "the manifest was edited")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise ArtifactCorruptError(folder / name, "the file is missing")
        if sha256(folder / name) != expected:
            raise ArtifactCorruptError(folder / name, "the file differs from its SHA-256 in the manifest")
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    for name in sorted(there - set(files) - {MANIFEST}):
        raise ArtifactCorruptError(folder / name, "the manifest does not list this file")
    return manifest


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def tensors_under(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The tensors whose names begin with a prefix, without it: a part's own state."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
