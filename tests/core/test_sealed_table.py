"""The hash of a sealed table is that of releases before: files that they wrote stay readable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.sealed_table import read_sealed_table, write_sealed_table


def test_strings_are_hashed_as_a_json_list_and_numbers_as_their_bytes(tmp_path: Path) -> None:
    words = ["test", "über", 'a "quoted", word', "test", ""]
    numbers = np.arange(5) / 3
    table = pa.table({"part": pa.chunked_array([words[:2], words[2:]]), "probability": numbers})
    write_sealed_table(tmp_path / "table.parquet", table, {"seconds": 1.5})
    expected = hashlib.sha256(
        b'{"seconds": 1.5}' + b"part string" + json.dumps(words).encode() + b"probability double" + numbers.tobytes()
    )
    assert pq.read_schema(tmp_path / "table.parquet").metadata[b"sha256"].decode() == expected.hexdigest()
    assert read_sealed_table(tmp_path / "table.parquet") == (table, {"seconds": 1.5})


def test_a_table_without_rows_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = pa.table({"part": pa.array([], pa.string()), "probability": pa.array([], pa.float64())})
    write_sealed_table(tmp_path / "table.parquet", table, {})
    assert read_sealed_table(tmp_path / "table.parquet") == (table, {})
