"""Integrity of files: every manifest lists SHA-256 hashes, and each file is verified once per process.

A manifest is a JSON object with the keys ``files`` (name -> SHA-256 of the file, names relative to the manifest's folder) and
``manifest_hash`` (a hash of all other keys), besides its own fields. ``manifest.json`` lists files of its folder and below;
``<stem>.json`` lists ``<stem>.<suffix>``; ``_manifest.json`` lists files in folders of days. A file that no manifest lists,
such as a user's own file, is read unverified.

Replacing a file under an existing manifest takes two steps: the hash of the new content is first recorded in ``pending``, then
the file is renamed. A reader accepts either hash, so a killed writer leaves nothing that looks damaged.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sidkit.core.config import content_hash
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json, sha256, write_json, written_beside

MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest_hash"
DAYS_MANIFEST = "_manifest.json"
"""Manifest of a folder that is partitioned by day: Spark and Arrow read no file whose name begins with ``_``."""
FILES, PENDING = "files", "pending"
_THREADS = 4
_SETTLED_NS = 100_000_000
"""Only hashes of files last written at least this long ago are cached: a second write within one tick of the file system's
clock leaves size, time and inode unchanged."""

_State = tuple[str, int, int, int]
_known: dict[_State, str] = {}


def seal(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Add the hash of its own content to a manifest."""
    content = {key: value for key, value in stated.items() if key != MANIFEST_HASH}
    return {**content, MANIFEST_HASH: content_hash(content)}


def is_sealed(stated: object) -> bool:
    """Whether a value is a manifest whose hash matches its content."""
    return isinstance(stated, dict) and MANIFEST_HASH in stated and seal(stated) == stated


def write_sealed(path: Path, stated: Mapping[str, Any]) -> None:
    """Write a manifest atomically."""
    write_json(path, seal(stated))


def update_sealed(path: Path, stated: Mapping[str, Any]) -> None:
    """Write a manifest unless the file already has the same content."""
    if _stated_at(path) != seal(stated):
        write_sealed(path, stated)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a manifest and verify its own hash; the files that it lists are not read.

    Raises
    ------
    ArtifactCorruptError
        When it is missing, not a JSON object, or its content does not match its hash.
    """
    if not path.is_file():
        raise ArtifactCorruptError(path, "the file is missing")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or MANIFEST_HASH not in manifest:
        raise ArtifactCorruptError(path, "it has no manifest_hash")
    if not is_sealed(manifest):
        raise ArtifactCorruptError(path, "its content does not match its manifest_hash")
    return manifest


def hash_of(path: Path) -> str:
    """SHA-256 of a file in hex, cached per process by size, modification time and inode."""
    state = _state(path)
    if state in _known:
        return _known[state]
    digest = sha256(path)
    if time.time_ns() - state[2] > _SETTLED_NS:
        _known[state] = digest
    return digest


def hashes_of(folder: Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """SHA-256 of some files of a folder, by default of all files in it and below except its manifest."""
    listed = sorted(names) if names is not None else [name for name in _names_in(folder) if name != MANIFEST]
    return {name: hash_of(folder / name) for name in listed}


def seal_folder(folder: Path, stated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write and return a ``manifest.json`` that lists all files of a folder."""
    manifest = seal({**(stated or {}), FILES: hashes_of(folder)})
    write_json(folder / MANIFEST, manifest)
    return manifest


def verify(folder: Path, manifest: Mapping[str, Any], names: Sequence[str] | None = None) -> None:
    """Compare files with the hashes in their manifest; files already verified in this process are not read again.

    Parameters
    ----------
    folder : Path
        The manifest's folder.
    manifest : mapping
        A manifest from :func:`read_sealed`.
    names : sequence of str, optional
        Files to compare; defaults to all listed files.

    Raises
    ------
    ArtifactCorruptError
        When a file is missing or differs; names the file and the command that rebuilds it.
    """
    wanted = list(manifest.get(FILES, {})) if names is None else list(names)
    for name in wanted:
        if not (folder / name).is_file():
            raise ArtifactCorruptError(folder / name, "the file is missing")
    paths = [folder / name for name in wanted]
    if any(_state(path) not in _known for path in paths[1:]):
        with ThreadPoolExecutor(min(_THREADS, len(paths))) as pool:
            digests = list(pool.map(hash_of, paths))
    else:
        digests = list(map(hash_of, paths))
    for name, digest in zip(wanted, digests, strict=True):
        accepted = {manifest.get(FILES, {}).get(name), manifest.get(PENDING, {}).get(name)}
        if digest not in accepted:
            raise ArtifactCorruptError(folder / name, "the file does not match its SHA-256 in the manifest")


def verify_all(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Like :func:`verify` for all listed files; unlisted files are errors too.

    Raises
    ------
    ArtifactCorruptError
        When a file is missing, unlisted or differs.
    """
    verify(folder, manifest)
    for name in sorted(set(_names_in(folder)) - set(manifest[FILES]) - {MANIFEST}):
        raise ArtifactCorruptError(folder / name, "the manifest does not list this file")


def checked(path: Path) -> Path:
    """Verify a file against the manifest that lists it, if any, and return its path.

    Raises
    ------
    ArtifactCorruptError
        When the file, or the manifest that lists it, is damaged.
    """
    return checked_files([path])[0]


def checked_files(paths: Sequence[Path]) -> Sequence[Path]:
    """Like :func:`checked` for many files; a manifest is read once, however many of them it lists."""
    listed: dict[Path, list[str]] = {}
    stated_at = cache(_stated_at)
    for path in paths:
        if (manifest := _manifest_of(path, stated_at)) is not None:
            listed.setdefault(manifest, []).append(path.relative_to(manifest.parent).as_posix())
    for manifest, names in listed.items():
        read_verified(manifest, names)
    return paths


def read_checked_json(path: Path) -> Any:
    """Verify a JSON file against the manifest that lists it, then read it.

    Raises
    ------
    ArtifactCorruptError
        When it is damaged.
    """
    return read_json(checked(path))


def read_verified(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Read a manifest and verify files against it, while a writer may replace both.

    Parameters
    ----------
    path : Path
        The manifest.
    names : sequence of str, optional
        Files to compare; defaults to all listed files.

    Raises
    ------
    ArtifactCorruptError
        See :func:`read_sealed` and :func:`verify`.
    """
    while True:
        before = _state(path) if path.is_file() else None
        manifest = read_sealed(path)
        try:
            verify(path.parent, manifest, names)
        except (ArtifactCorruptError, FileNotFoundError):
            if path.is_file() and _state(path) == before:
                raise
        else:
            return manifest


@contextmanager
def replaced(path: Path, manifest: Path) -> Iterator[Path]:
    """Yield a temporary path; on success record its hash as pending in the manifest, then rename it to ``path``.

    Without a sealed manifest nothing is recorded, since readers do not verify the file.
    """
    with written_beside(path) as temporary:
        yield temporary
        stated = _sealed_at(manifest)
        if stated is not None:
            name = path.relative_to(manifest.parent).as_posix()
            write_sealed(manifest, {**stated, PENDING: {**stated.get(PENDING, {}), name: sha256(temporary)}})


def say_discarded(path: Path, problem: str) -> None:
    """Warn on stderr that a damaged cache is discarded and rebuilt."""
    sys.stderr.write(f"sidkit: {path}: {problem}; discarding and rebuilding it\n")


def manifest_of(path: Path) -> Path | None:
    """The manifest that lists a file, or None."""
    return _manifest_of(path, _stated_at)


def _manifest_of(path: Path, stated_at: Callable[[Path], dict[str, Any] | None]) -> Path | None:
    for at in (
        path.with_suffix(".json"),
        path.parent / MANIFEST,
        path.parent.parent / MANIFEST,
        path.parent.parent / DAYS_MANIFEST,
    ):
        stated = stated_at(at) if at != path else None
        if stated is None or MANIFEST_HASH not in stated:
            continue
        if path.relative_to(at.parent).as_posix() in {**_mapping(stated.get(FILES)), **_mapping(stated.get(PENDING))}:
            return at
    return None


def _sealed_at(path: Path) -> dict[str, Any] | None:
    stated = _stated_at(path)
    return stated if is_sealed(stated) else None


def _stated_at(path: Path) -> dict[str, Any] | None:
    """Read a manifest without verifying it; None if it is missing or not a JSON object."""
    try:
        stated = read_json(path) if path.is_file() else None
    except ArtifactCorruptError:
        return None
    return stated if isinstance(stated, dict) else None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _state(path: Path) -> _State:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _names_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
