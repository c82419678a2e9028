"""Small tables with JSON metadata in self-verifying Parquet files that hold a hash of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import written_beside

_DETAILS, _HASH = b"details", b"sha256"


def write_sealed_table(path: Path, table: pa.Table, details: Mapping[str, Any]) -> None:
    """Write a table of strings and numbers atomically.

    Parameters
    ----------
    path : Path
        Target file.
    table : pyarrow.Table
        Table without nulls.
    details : mapping
        JSON values, stored in the file's metadata.
    """
    text = json.dumps(details)
    metadata = {_DETAILS: text.encode(), _HASH: _digest(table, text).encode()}
    with written_beside(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_sealed_table(path: Path, *, without_hash: bool = False) -> tuple[pa.Table, dict[str, Any]]:
    """Read a table and its details.

    Parameters
    ----------
    path : Path
        A file written by :func:`write_sealed_table`.
    without_hash : bool
        Read a file of a release that stored no hash.

    Raises
    ------
    ArtifactCorruptError
        When the file is damaged.
    """
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        text = metadata[_DETAILS].decode()
        intact = without_hash or metadata[_HASH].decode() == _digest(table, text)
        details: dict[str, Any] = json.loads(text)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ArtifactCorruptError(path, f"it cannot be read ({type(error).__name__}: {error})") from error
    if not intact:
        raise ArtifactCorruptError(path, "its content does not match its stored SHA-256")
    return table.replace_schema_metadata(None), details


def has_hash(path: Path) -> bool:
    """Whether a file was written with a hash."""
    return _HASH in (pq.read_schema(path).metadata or {})


def _digest(table: pa.Table, details: str) -> str:
    digest = hashlib.sha256(details.encode())
    for name in table.column_names:
        column = table.column(name)
        digest.update(f"{name} {column.type}".encode())
        if pa.types.is_string(column.type):
            digest.update(_json_list(column).encode())
        else:
            digest.update(np.ascontiguousarray(column.to_numpy()).data)
    return digest.hexdigest()


def _json_list(column: pa.ChunkedArray) -> str:
    """The JSON list of a column of strings; each distinct string is encoded once."""
    found = column.combine_chunks().dictionary_encode()
    texts = np.array([json.dumps(text) for text in found.dictionary.to_pylist()], dtype=object)
    return f"[{', '.join(texts[found.indices.to_numpy()])}]"
