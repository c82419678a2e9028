"""Costs of reading the vectors of a catalogue: by places in a file, in a temporary file, and through a window of DuckDB."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import peak_mb

from sidkit.core.engine import GROUP_ROWS


def read_cell(path: Path, how: str) -> dict[str, Any]:
    """Read the vectors of all items of a file, in the order of their ids."""
    import duckdb

    from semantic_ids.encoders.content import ContentEncoder
    from semantic_ids.item_vectors import ItemVectors

    began = time.process_time()
    with duckdb.connect(
        config={"threads": 1, "memory_limit": "1500MB", "temp_directory": str(path.parent / "spill")}
    ) as opened:
        column, file = (
            ("text", f"'{path}'")
            if how == "window"
            else ("file_row_number", f"read_parquet('{path}', file_row_number = true)")
        )
        table = opened.execute(
            f"SELECT item_id, {column} FROM {file} QUALIFY row_number() OVER (PARTITION BY item_id) = 1 ORDER BY item_id"
        ).to_arrow_table()
    if how == "window":
        items = ItemVectors.from_arrow(table, ["text"])
    else:
        spill = path.parent if how == "mapped" else None
        items = ItemVectors.from_parquet(path, table.column("file_row_number").to_numpy(), ["text"], spill)
    if how in {"encode", "mapped"}:
        ContentEncoder().fit(items).encode(items)
    rows_mb = round(items.matrices["text"].nbytes / 2**20, 1)
    return {"cpu_s": round(time.process_time() - began, 2), "rows_mb": rows_mb, "peak_mb": peak_mb()}


def write_vectors(path: Path, rows: int, dim: int) -> None:
    """A file of items and their vectors, in row groups of 122,880 rows, as tables have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"item_id": pa.string(), "text": pa.list_(pa.float32())})
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            flat = pa.array(rng.standard_normal(count * dim, dtype=np.float32))
            vectors = pa.FixedSizeListArray.from_arrays(flat, dim).cast(pa.list_(pa.float32()))
            ids = [f"i{number}" for number in range(start, start + count)]
            writer.write_table(pa.table({"item_id": ids, "text": vectors}, schema=schema), row_group_size=GROUP_ROWS)
