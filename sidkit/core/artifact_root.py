"""A folder of artefacts on a file system that several machines share: local, S3, Google Cloud or any other of fsspec.

::

    <root>/files/<sha256>                       content of one file, named by its SHA-256
    <root>/<kind>/<name>/<content_hash>.json    manifest of one artefact, written last
    <root>/uploading/<random>                   files that are being written

A file is written under ``uploading`` and renamed when it is complete (object stores show complete objects only, and need no
rename); the manifest follows its files. A reader therefore sees an artefact with all its files or not at all. Nothing is
overwritten: the same name with other content has another manifest. An upload that was killed leaves files without a manifest;
the next upload reuses them, or :meth:`ArtifactRoot.sweep` removes them.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sidkit.core.errors import ArtifactCorruptError, ArtifactError, ArtifactMissingError, ConfigError, SidkitError
from sidkit.core.files import folder_written_beside, remove, sha256, write_json
from sidkit.core.integrity import FILES, MANIFEST, is_sealed
from sidkit.core.redact import redacted, scrubbed

KINDS = ("codebooks", "rankers", "reports")
"""Kinds of artefacts; each is a folder of the root."""
CONTENT_HASH = "content_hash"
SWEEP_AFTER = timedelta(hours=24)
"""Files without a manifest may belong to a running upload for this long."""
_REUSED_FOR = SWEEP_AFTER / 2
"""An upload reuses files younger than this, so that no sweep removes them before their manifest is written."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"})
"""Where an object is seen only when it is complete. They have no folders: making one would make a bucket."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASH = re.compile(r"[0-9a-f]{16,64}")
_one_at_a_time = threading.Lock()
"""Threads of a process would write to the same temporary folder."""


@dataclass(frozen=True)
class Uploaded:
    """Result of an upload: numbers of files that were written and that the root had already, and bytes written."""

    written: int
    reused: int
    size: int


@dataclass(frozen=True)
class Swept:
    """Result of a sweep: numbers of files removed and of unreferenced ones that are too young, and bytes removed."""

    removed: int
    young: int
    size: int


class ArtifactRoot:
    """One folder of artefacts.

    Parameters
    ----------
    url : str
        A URL of fsspec, such as ``s3://bucket/prefix`` or ``file:///mnt/shared``, or a path.

    Raises
    ------
    ConfigError
        When no file system has such a URL, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = redacted(url).rstrip("/")
        try:
            self._fs, path = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"expected artifacts.url with a file system that is installed, such as s3://bucket/prefix or file:///folder, "
                f"got {self.url} ({scrubbed(error, url)}); install its package, such as s3fs for s3://, or correct the URL"
            ) from None
        self._path = path.rstrip("/")
        protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        self._atomic = bool(_OBJECT_STORES.intersection(protocols))

    def upload(self, kind: str, name: str, folder: Path, manifest: Mapping[str, Any]) -> Uploaded:
        """Write an artefact: missing files, then the manifest. Repeating it writes nothing.

        Parameters
        ----------
        kind : str
            One of :data:`KINDS`.
        name : str
            Name of the artefact.
        folder : Path
            The local artefact.
        manifest : mapping
            Its sealed manifest, verified.

        Raises
        ------
        ArtifactError
            When the file system fails.
        """
        digests = {digest: folder / file for file, digest in manifest[FILES].items()}
        with self._working(f"uploading {kind}/{name}"):
            known = self._sizes()
            listed = self._manifest_path(kind, name, manifest[CONTENT_HASH]) in self._manifests(kind)
            sizes = {digest: path.stat().st_size for digest, path in digests.items()}
            fresh = datetime.now(UTC) - _REUSED_FOR
            new = [
                digest
                for digest, size in sizes.items()
                if known.get(digest) != size or not (listed or self._modified(self._file_path(digest)) > fresh)
            ]
            for digest in new:
                self._put(digests[digest], self._file_path(digest))
            if new or not listed:
                self._put_text(manifest, self._manifest_path(kind, name, manifest[CONTENT_HASH]))
        return Uploaded(len(new), len(digests) - len(new), sum(sizes[digest] for digest in new))

    def versions(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Manifests of an artefact, oldest upload first.

        Raises
        ------
        ArtifactError
            When the file system fails, or a manifest is damaged.
        """
        with self._working(f"reading {kind}/{name}"):
            paths = [path for path in self._manifests(kind) if path.split("/")[-2] == name]
            paths.sort(key=self._modified)
            return [self._read(path) for path in paths]

    def names(self, kind: str) -> list[str]:
        """Names of the artefacts of a kind."""
        with self._working(f"listing {kind}"):
            return sorted({path.split("/")[-2] for path in self._manifests(kind)})

    def download(self, kind: str, name: str, content_hash: str, folder: Path) -> None:
        """Read an artefact into a folder, verified; an existing folder is replaced.

        Raises
        ------
        ArtifactMissingError
            When the root has no such artefact.
        ArtifactCorruptError
            When a file differs from its SHA-256.
        ArtifactError
            When the file system fails.
        """
        path = self._manifest_path(kind, name, content_hash)
        with self._working(f"reading {kind}/{name}"):
            self._fs.invalidate_cache()
            if not self._fs.exists(path):
                raise ArtifactMissingError(
                    f"expected {kind}/{name} with content hash {content_hash} in {self.url}, got none; run `sidkit artifacts "
                    "push` on the machine that made it"
                )
            manifest = self._read(path)
            with _one_at_a_time:
                try:
                    with folder_written_beside(folder) as temporary:
                        for file, digest in manifest[FILES].items():
                            self._get(digest, temporary / file)
                        write_json(temporary / MANIFEST, manifest)
                        remove(folder)
                except OSError:  # another process of this machine was faster: it verified the same files
                    if not (folder / MANIFEST).is_file():
                        raise

    def remove(self, kind: str, name: str) -> None:
        """Remove all versions of an artefact; its files go with the next sweep."""
        with self._working(f"removing {kind}/{name}"):
            for path in self._manifests(kind):
                if path.split("/")[-2] == name:
                    self._fs.rm_file(path)

    def sweep(self, *, older_than: timedelta = SWEEP_AFTER, now: datetime | None = None) -> Swept:
        """Remove files that no manifest lists.

        Parameters
        ----------
        older_than : timedelta
            Age of the files, at least :data:`SWEEP_AFTER`: younger ones may belong to an upload.
        now : datetime, optional
            Present time, UTC.

        Raises
        ------
        ConfigError
            When ``older_than`` is too short.
        ArtifactError
            When the file system fails, or a manifest is damaged: then nothing is removed.
        """
        if older_than < SWEEP_AFTER:
            raise ConfigError(
                f"expected an age of at least {SWEEP_AFTER.total_seconds() / 3600:g} hours, got "
                f"{older_than.total_seconds() / 3600:g}; younger files may belong to an upload that still runs"
            )
        before = (now or datetime.now(UTC)) - older_than
        with self._working("sweeping"):
            stale = [*self._list("uploading"), *self._list("files")]
            manifests = [self._read(path) for kind in KINDS for path in self._manifests(kind)]
            used = {digest for manifest in manifests for digest in manifest[FILES].values()}
            stale = [info for info in stale if info["name"].split("/")[-1] not in used]
            old = [info for info in stale if self._modified(info["name"]) < before]
            for info in old:
                self._fs.rm_file(info["name"])
        return Swept(len(old), len(stale) - len(old), sum(int(info["size"] or 0) for info in old))

    def _put(self, source: Path, path: str) -> None:
        with self._complete(path) as target:
            self._fs.put_file(str(source), target)

    def _put_text(self, value: Mapping[str, Any], path: str) -> None:
        with self._complete(path) as target:
            self._fs.pipe_file(
                target, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
            )

    @contextmanager
    def _complete(self, path: str) -> Iterator[str]:
        """Yield where to write a file that is seen when it is complete."""
        if self._atomic:
            yield path
            return
        temporary = f"{self._path}/uploading/{uuid.uuid4().hex}"
        for folder in (path, temporary):
            self._fs.makedirs(folder.rsplit("/", 1)[0], exist_ok=True)
        yield temporary
        self._fs.mv(temporary, path)

    def _get(self, digest: str, target: Path) -> None:
        path = self._file_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open(path, "rb") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
        if sha256(target) != digest:
            raise ArtifactCorruptError(
                Path(path),
                f"the file in {self.url} does not match its SHA-256",
                "Delete it there, and run `sidkit artifacts push` on a machine that has the artefact",
            )

    def _read(self, path: str) -> dict[str, Any]:
        try:
            manifest = json.loads(self._fs.cat_file(path))
            good = is_sealed(manifest) and all(
                _SHA256.fullmatch(digest) and not Path(file).is_absolute() and ".." not in Path(file).parts
                for file, digest in manifest[FILES].items()
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise ArtifactCorruptError(
                Path(path),
                f"the manifest in {self.url} was edited or is damaged",
                "Delete it there, and run `sidkit artifacts push` on a machine that has the artefact",
            )
        read: dict[str, Any] = manifest
        return read

    def _file_path(self, digest: str) -> str:
        return f"{self._path}/files/{digest}"

    def _manifest_path(self, kind: str, name: str, content_hash: str) -> str:
        if kind not in KINDS or not name or "/" in name or name.startswith(".") or not _HASH.fullmatch(content_hash):
            raise ArtifactError(
                f"expected an artefact of {', '.join(KINDS)} with a plain name and a content hash, got {kind}/{name} "
                f"({content_hash!r}); restore its manifest from a backup"
            )
        return f"{self._path}/{kind}/{name}/{content_hash}.json"

    def _manifests(self, kind: str) -> list[str]:
        found: list[str] = []
        for folder in self._list(kind, files=False):
            found += [info["name"] for info in self._list(f"{kind}/{folder['name'].rstrip('/').split('/')[-1]}")]
        return [path for path in found if path.endswith(".json")]

    def _sizes(self) -> dict[str, int]:
        return {info["name"].split("/")[-1]: int(info["size"]) for info in self._list("files")}

    def _list(self, folder: str, *, files: bool = True) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._fs.ls(f"{self._path}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        return [info for info in found if (info["type"] == "file") == files]

    def _modified(self, path: str) -> datetime:
        moment: datetime = self._fs.modified(path)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @contextmanager
    def _working(self, step: str) -> Iterator[None]:
        """Name the root and the step in errors of the file system, without secrets."""
        try:
            yield
        except SidkitError:
            raise
        except Exception as error:  # each file system has its own
            raise ArtifactError(
                f"expected {step} at {self.url} to succeed, got {type(error).__name__}: {scrubbed(error, self.url)}; check the "
                "address, the network and the credentials, and run the same command again"
            ) from error
