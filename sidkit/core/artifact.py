"""Immutable artefact folders: written beside their target, sealed by a ``manifest.json`` of hashes, verified on load."""

from __future__ import annotations

import importlib.metadata
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sidkit.core.config import content_hash
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError
from sidkit.core.files import folder_written_beside, read_json, remove, write_json
from sidkit.core.integrity import MANIFEST, MANIFEST_HASH, hashes_of, is_sealed, say_discarded, seal, verify_all

T = TypeVar("T")

_LIBRARIES = ("sidkit", "feast", "duckdb", "numpy", "pyarrow", "faiss-cpu", "torch", "scikit-learn")
_CAUSE = 300
"""Characters of an error that a user sees: torch lists all weights."""


def write_artifact(folder: Path, describe: Mapping[str, Any], write_files: Callable[[Path], None]) -> dict[str, Any]:
    """Write one artefact.

    Parameters
    ----------
    folder : Path
        Target folder. An artefact with the same content that exists already is left as it is.
    describe : mapping
        Manifest fields besides the hashes (kind, name, fit window in microseconds UTC, parents, settings).
    write_files : callable
        Writes the files into the temporary folder that it receives.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ArtifactCorruptError
        When ``folder`` holds a different artefact: a version is never overwritten.
    StorageError
        When the disk refuses the write.
    """
    existing = written_before(folder, describe)
    with folder_written_beside(folder) as temporary:
        write_files(temporary)
        files = hashes_of(temporary)
        if existing is not None:
            if existing["files"] != files:
                raise ArtifactCorruptError(folder, "an artefact of this name with different content already exists")
            remove(temporary)
            return existing
        manifest = seal(
            {
                **describe,
                "files": files,
                "content_hash": content_hash(files),  # of the files alone
                "libraries": _library_versions(),
            }
        )
        write_json(temporary / MANIFEST, manifest)
    return manifest


def written_before(folder: Path, describe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of an existing artefact made from the same inputs, or None if there is none.

    Raises
    ------
    ArtifactCorruptError
        When ``folder`` holds an artefact made from other inputs, or one that was modified.
    """
    if not folder.exists():
        return None
    existing = read_manifest(folder)
    if content_hash({key: existing.get(key) for key in describe}) != content_hash(dict(describe)):
        raise ArtifactCorruptError(folder, "an artefact of this name made from other inputs already exists")
    return existing


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Read an artefact's manifest, verify its own hash and, by default, every file against it.

    A file that this process has already verified is not read again unless it changed.

    Raises
    ------
    ArtifactMissingError
        When there is no such folder.
    ArtifactCorruptError
        When the manifest is missing or unreadable, or a file is missing, added, or differs from its hash.
    """
    if not folder.is_dir():
        raise ArtifactMissingError(f"{folder} does not exist; list the existing artefacts with `sidkit codebooks list`")
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
        files, stated = manifest["files"], manifest[MANIFEST_HASH]
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ArtifactCorruptError(path, "it lists files outside the folder")
    except ArtifactCorruptError as error:
        raise ArtifactCorruptError(path, f"the manifest cannot be read ({error.problem})") from error
    except (OSError, KeyError, TypeError) as error:
        raise ArtifactCorruptError(path, f"the manifest cannot be read ({type(error).__name__}: {error})") from error
    # `content_hash` covers the files only, so it misses changes elsewhere in the manifest.
    if not is_sealed(manifest) or not isinstance(files, dict) or not isinstance(stated, str):
        raise ArtifactCorruptError(path, "the manifest was edited or is damaged")
    if verify:
        verify_all(folder, manifest)
    checked_manifest: dict[str, Any] = manifest
    return checked_manifest


@contextmanager
def reading(folder: Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """Read the content of an artefact whose hashes were verified: what fails is not damaged, but another version's.

    Raises
    ------
    ArtifactCorruptError
        When the content is not what the installed version of sidkit expects. Errors of sidkit pass as they are.
    """
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise of_another_version(folder, manifest, f"{type(error).__name__}: {error}") from error


def of_another_version(folder: Path, manifest: Mapping[str, Any], cause: str) -> ArtifactCorruptError:
    """The error for a whole artefact that the installed version of sidkit cannot read; it names both versions.

    The command that made it would find it whole and keep it, so the error says to delete it first.
    """
    here, written = (known.get("sidkit", "?") for known in (_library_versions(), manifest.get("libraries", {})))
    other = f"install sidkit {written}, or " if written not in (here, "?") else ""
    cause = textwrap.shorten(cause, _CAUSE, placeholder=" ...")
    return ArtifactCorruptError(
        folder,
        f"cannot be read by sidkit {here}; its files are as sidkit {written} wrote them ({cause})",
        f"{other}delete the folder and run the command that made it again",
    )


def discard_damaged(folder: Path) -> bool:
    """Remove a damaged artefact, with a warning on stderr, so that it can be rebuilt; return whether it was removed."""
    if not folder.exists():
        return False
    try:
        read_manifest(folder)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        remove(folder)
        return True
    return False


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def tensors_under(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Select the tensors whose names start with ``prefix`` and strip it: the state of one component."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
