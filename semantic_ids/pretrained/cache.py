"""Cache of vectors on disk, keyed by content. An interrupted run loses at most one group of vectors."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sidkit.core.config import content_hash
from sidkit.core.errors import ArtifactCorruptError, ArtifactError, StorageError
from sidkit.core.files import disk_refused
from sidkit.core.integrity import say_discarded

FORMAT = 1
_KEYS_PER_QUERY = 500
_AGAIN = "max_tokens, again"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS vectors (
        key BLOB PRIMARY KEY, vector BLOB NOT NULL, cut INTEGER NOT NULL, checksum INTEGER NOT NULL
    );
"""


@dataclass(frozen=True)
class Missing:
    """The reason why a row has no content or no vector."""

    reason: str


@dataclass(frozen=True)
class Vectors:
    """A model's output: ``matrix`` is ``float32 [contents, width]``, zero where ``missing`` holds a reason."""

    matrix: npt.NDArray[np.float32]
    cut: npt.NDArray[np.bool_]
    missing: Sequence[Missing | None]
    max_tokens: int | None = None
    """The model's token limit."""


@dataclass(frozen=True)
class CachedVector:
    """One vector of the cache: ``float32 [width]``, and whether its content was truncated."""

    vector: npt.NDArray[np.float32]
    cut: bool


class VectorCache:
    """One SQLite file per model and settings: ``vectors(key, vector, cut, checksum)``.

    ``key`` is the SHA-256 of the content, ``vector`` little-endian ``float32``, ``checksum`` 2^32 + the CRC-32 of key,
    vector and ``cut`` (below 2^32 in rows of older releases: of key and vector). Rows are only added, never changed; each
    :meth:`put` is one transaction. Damaged vectors, and files that are no longer a valid database, are discarded and
    computed again.

    Parameters
    ----------
    folder : Path
        Created if missing. Each model and each combination of settings has its own file.
    identity : mapping
        What determines the vectors besides the content; plain JSON values.

    Raises
    ------
    ArtifactError
        When the file cannot be opened; the message names it and the remedy.
    StorageError
        When writing fails.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / f"{identity.get('kind', 'vectors')}-{content_hash({**identity, 'format': FORMAT})}.sqlite"
        self._identity = dict(identity)
        with self._errors_translated():
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except ArtifactCorruptError as error:
            self._discard(error.problem)

    def _open(self) -> None:
        identity = self._identity
        with self._errors_translated():
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            with self._errors_translated():
                self._connection.execute("PRAGMA synchronous = FULL")
                with self._transaction():
                    for statement in _SCHEMA.split(";"):
                        self._connection.execute(statement)
                    self._note("identity", json.dumps(identity, sort_keys=True))
                stored = self._fact("identity")
            if stored != json.dumps(identity, sort_keys=True):
                raise self._damaged("it belongs to a different model")
        except BaseException:
            self._connection.close()
            raise

    def _discard(self, problem: str) -> None:
        """Start with an empty file, and report it."""
        say_discarded(self.path, problem)
        for name in (self.path.name, f"{self.path.name}-journal"):
            self.path.with_name(name).unlink(missing_ok=True)
        self._open()

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def __len__(self) -> int:
        with self._errors_translated():
            return int(self._connection.execute("SELECT count(*) FROM vectors").fetchone()[0])

    @property
    def width(self) -> int | None:
        """Elements of a vector; None while the cache is empty."""
        with self._errors_translated():
            stored = self._fact("width")
        return self._number(stored)

    @property
    def max_tokens(self) -> int | None:
        """The model's token limit; None without a limit or while the cache is empty."""
        with self._errors_translated():
            stored, again = self._fact("max_tokens"), self._fact(_AGAIN)
        if again not in {None, stored}:
            raise self._damaged(f"it states two token limits, {stored} and {again}")
        return self._number(stored)

    def _number(self, stored: str | None) -> int | None:
        try:
            return None if stored is None else int(stored)
        except ValueError as error:
            raise self._damaged(f"expected a number, got {stored!r}") from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, CachedVector]:
        """The cached vectors by key; damaged ones are discarded, so that they are computed again."""
        try:
            return self._get(keys)
        except ArtifactCorruptError as error:
            self._connection.close()
            self._discard(error.problem)
            return {}

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, CachedVector]:
        cached: dict[bytes, CachedVector] = {}
        damaged: list[bytes] = []
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), _KEYS_PER_QUERY):
            part = distinct[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            with self._errors_translated():
                rows = self._connection.execute(
                    f"SELECT key, vector, cut, checksum FROM vectors WHERE key IN ({marks})", part
                ).fetchall()
            for key, blob, cut, checksum in rows:
                if not _is_intact(key, blob, cut, checksum):
                    damaged.append(key)
                    continue
                cached[key] = CachedVector(np.frombuffer(blob, dtype="<f4").astype(np.float32), bool(cut))
        if len({len(each.vector) for each in cached.values()} | ({self.width} if cached else set())) > 1:
            raise self._damaged(f"its vectors do not have the stated width {self.width}")
        if damaged:
            say_discarded(self.path, f"{len(damaged):,} vectors differ from their checksums")
            with self._errors_translated(), self._transaction():
                self._connection.executemany("DELETE FROM vectors WHERE key = ?", [(key,) for key in damaged])
        return cached

    def put(
        self,
        keys: Sequence[bytes],
        matrix: npt.NDArray[np.float32],
        cut: npt.NDArray[np.bool_],
        max_tokens: int | None = None,
    ) -> None:
        """Add vectors in one transaction; keys that are already cached keep their vectors.

        Parameters
        ----------
        keys : sequence of bytes
            SHA-256 of each content.
        matrix : ndarray
            ``float32 [keys, width]``.
        cut : ndarray
            ``bool [keys]``.
        max_tokens : int or None
            The model's token limit.

        Raises
        ------
        ArtifactError
            When the width differs from that of the vectors in the file.
        StorageError
            When writing fails; the file is then unchanged.
        """
        if not keys:
            return
        blobs = [row.tobytes() for row in np.ascontiguousarray(matrix, dtype="<f4")]
        rows = [
            (key, blob, int(was_cut), _checksum(key, blob, int(was_cut)))
            for key, blob, was_cut in zip(keys, blobs, cut, strict=True)
        ]
        with self._errors_translated(), self._transaction():
            self._note("width", str(matrix.shape[1]))
            if max_tokens is not None:
                self._note("max_tokens", str(max_tokens))
                self._note(_AGAIN, str(max_tokens))
            stored = self._fact("width")
            self._connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)
            if stored != str(matrix.shape[1]):
                raise self._damaged(f"it has vectors of {stored} elements, but the model returns {matrix.shape[1]}")

    def _note(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))

    def _fact(self, name: str) -> str | None:
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if disk_refused(error):
                raise StorageError(self.path, error) from error
            if "locked" in str(error):
                raise ArtifactError(f"{self.path}: another run is writing to this cache; wait until it ends") from error
            if isinstance(error, OSError) or "unable to open" in str(error) or "readonly" in str(error):
                raise ArtifactError(
                    f"{self.path}: the cache cannot be opened for writing ({error}); choose a writable folder"
                ) from error
            raise self._damaged(str(error)) from error

    def _damaged(self, problem: str) -> ArtifactCorruptError:
        return ArtifactCorruptError(
            self.path,
            f"the cache of vectors is damaged ({problem})",
            "delete this file and run the command again: nothing else depends on it, and its vectors are computed again",
        )


def _checksum(key: bytes, blob: bytes, cut: int) -> int:
    return (1 << 32) + zlib.crc32(key + blob + bytes([cut]))


def _is_intact(key: object, blob: object, cut: object, checksum: object) -> bool:
    """Whether a row matches its checksum; rows of older releases have a checksum of key and vector only."""
    if not (isinstance(key, bytes) and isinstance(blob, bytes) and isinstance(checksum, int) and cut in (0, 1)):
        return False
    return checksum in {_checksum(key, blob, int(bool(cut))), zlib.crc32(key + blob)}
