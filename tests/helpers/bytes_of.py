"""Whether a text is anywhere in a file: in its bytes, in the cells of a Parquet file, in the arrays of a ``.npz`` file."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def holders(root: Path, text: str) -> list[str]:
    """The files below a folder that hold a text, relative to it."""
    return [
        path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file() and holds(path, text)
    ]


def holds(path: Path, text: str) -> bool:
    """Whether one file holds a text. Compressed files are searched as they lie and as they are read."""
    if text.encode() in path.read_bytes():
        return True
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        names = json.dumps({**(table.schema.metadata or {})}, default=str)
        return text in names or any(
            text in json.dumps(table.column(name).to_pylist(), default=str) for name in table.column_names
        )
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            return any(text in str(held[name].tolist()) for name in held.files)
    if path.suffix == ".sqlite":
        with sqlite3.connect(path) as opened:
            return any(text in line for line in opened.iterdump())
    return False
