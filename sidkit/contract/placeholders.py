"""Vectors of a source without any: the same one for every item, so that tables, features and rankers have their columns."""

from __future__ import annotations

from pathlib import Path

import duckdb

from sidkit.core.config import NO_VECTORS
from sidkit.core.engine import into, literal
from sidkit.core.files import written_beside


def write_placeholders(opened: duckdb.DuckDBPyConnection, work: Path) -> None:
    """Write ``item_embeddings.parquet`` for the valid items of ``items.parquet`` in the same folder."""
    items = literal(work / "items.parquet")
    with written_beside(work / "item_embeddings.parquet") as temporary:
        opened.execute(
            f"COPY (SELECT DISTINCT item_id, [0.0]::FLOAT[] AS {NO_VECTORS} FROM read_parquet({items}) ORDER BY item_id) "
            f"{into(temporary)}"
        )
