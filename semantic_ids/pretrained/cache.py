"""Vectors on disk by content: a run embeds what no earlier run has, and a killed run loses one group at most."""

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

from sidkit.config import content_hash
from sidkit.errors import ArtifactError, StorageError
from sidkit.files import disk_refused

FORMAT = 1
_KEYS_PER_QUERY = 500
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS vectors (
        key BLOB PRIMARY KEY, vector BLOB NOT NULL, cut INTEGER NOT NULL, checksum INTEGER NOT NULL
    );
"""


@dataclass(frozen=True)
class Missing:
    """Why a row has no content or no vector."""

    reason: str


@dataclass(frozen=True)
class Vectors:
    """What a model made of some contents: ``matrix`` is ``float32 [contents, width]``, zeros where ``missing`` says why."""

    matrix: npt.NDArray[np.float32]
    cut: npt.NDArray[np.bool_]
    missing: Sequence[Missing | None]
    max_tokens: int | None = None
    """Tokens after which the model cuts a text."""


@dataclass(frozen=True)
class Kept:
    """One vector of the cache: ``float32 [width]``, and whether its content was cut."""

    vector: npt.NDArray[np.float32]
    cut: bool


class VectorCache:
    """One SQLite file per model and settings: ``vectors(key, vector, cut, checksum)``.

    ``key`` is the SHA-256 of the content, ``vector`` little-endian ``float32``, ``checksum`` the CRC-32 of both. Rows
    are added and never changed; each :meth:`put` is one transaction, so a reader sees all of it or nothing.

    Parameters
    ----------
    folder : Path
        Made when it is not there. Vectors of another model or other settings lie in another file.
    identity : mapping
        What decides the vectors besides the content; plain JSON values.

    Raises
    ------
    ArtifactError
        When the file is damaged or cannot be opened; it is named, with the remedy.
    StorageError
        When the disk refuses a write.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / f"{identity.get('kind', 'vectors')}-{content_hash({**identity, 'format': FORMAT})}.sqlite"
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            with self._told():
                self._connection.execute("PRAGMA synchronous = FULL")
                with self._transaction():
                    for statement in _SCHEMA.split(";"):
                        self._connection.execute(statement)
                    self._note("identity", json.dumps(dict(identity), sort_keys=True))
                stored = self._fact("identity")
            if stored != json.dumps(dict(identity), sort_keys=True):
                raise self._damaged("it says that it belongs to another model")
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def __len__(self) -> int:
        with self._told():
            return int(self._connection.execute("SELECT count(*) FROM vectors").fetchone()[0])

    @property
    def width(self) -> int | None:
        """Elements of a vector; None while the cache is empty."""
        with self._told():
            stored = self._fact("width")
        return None if stored is None else int(stored)

    @property
    def max_tokens(self) -> int | None:
        """Tokens after which the model cut a text; None when it has no limit or while the cache is empty."""
        with self._told():
            stored = self._fact("max_tokens")
        return None if stored is None else int(stored)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Kept]:
        """The vectors that are there already, by key.

        Raises
        ------
        ArtifactError
            When a row differs from its checksum.
        """
        found: dict[bytes, Kept] = {}
        width = self.width
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), _KEYS_PER_QUERY):
            part = distinct[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            with self._told():
                rows = self._connection.execute(
                    f"SELECT key, vector, cut, checksum FROM vectors WHERE key IN ({marks})", part
                ).fetchall()
            for key, blob, cut, checksum in rows:
                if zlib.crc32(key + blob) != checksum or width is None or len(blob) != 4 * width:
                    raise self._damaged(f"the vector of content {key.hex()[:16]} differs from its checksum")
                found[key] = Kept(np.frombuffer(blob, dtype="<f4").astype(np.float32), bool(cut))
        return found

    def put(
        self,
        keys: Sequence[bytes],
        matrix: npt.NDArray[np.float32],
        cut: npt.NDArray[np.bool_],
        max_tokens: int | None = None,
    ) -> None:
        """Add vectors in one transaction; a key that is there already keeps its vector.

        Parameters
        ----------
        keys : sequence of bytes
            SHA-256 of each content.
        matrix : ndarray
            ``float32 [keys, width]``.
        cut : ndarray
            ``bool [keys]``.
        max_tokens : int or None
            Tokens after which the model cuts.

        Raises
        ------
        ArtifactError
            When the width differs from that of the vectors in the file.
        StorageError
            When the disk refuses the write; the file is then what it was.
        """
        if not keys:
            return
        blobs = [row.tobytes() for row in np.ascontiguousarray(matrix, dtype="<f4")]
        rows = [
            (key, blob, int(was_cut), zlib.crc32(key + blob))
            for key, blob, was_cut in zip(keys, blobs, cut, strict=True)
        ]
        with self._told(), self._transaction():
            self._note("width", str(matrix.shape[1]))
            if max_tokens is not None:
                self._note("max_tokens", str(max_tokens))
            stored = self._fact("width")
            self._connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)
            if stored != str(matrix.shape[1]):
                raise self._damaged(f"it holds vectors of {stored} elements and the model gives {matrix.shape[1]}")

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
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if disk_refused(error):
                raise StorageError(self.path, error) from error
            if "locked" in str(error):
                raise ArtifactError(f"{self.path}: another run writes to this cache; wait for it to end") from error
            if isinstance(error, OSError) or "unable to open" in str(error) or "readonly" in str(error):
                raise ArtifactError(
                    f"{self.path}: the cache cannot be opened for writing ({error}); give a folder that you may write to"
                ) from error
            raise self._damaged(str(error)) from error

    def _damaged(self, problem: str) -> ArtifactError:
        return ArtifactError(
            f"{self.path}: the cache of vectors is damaged ({problem}). Nothing else depends on it: delete this one file "
            "and run the same command again; its vectors are then computed anew"
        )
