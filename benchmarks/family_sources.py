"""Sources with a modality of attributes, for ColdGPT: that of ``sidkit data embed --attributes``, and the same, shuffled."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.pretrained import AttributeSpec, embed_items

MODALITY = "attributes"
WIDTH = 1024
"""Columns of the vectors of attributes; twice the number of attributes of X-Wines."""
TABLES = ("interactions", "items", "item_embeddings")


def with_attributes(data: Path, folder: Path, columns: Sequence[str], *, shuffled: bool = False) -> Path:
    """Copy the source ``data`` to ``folder`` and add attributes as a modality; ``shuffled``: those of a random other item.

    Items without attributes keep none, and the other modalities and all rows are those of ``data``. A finished folder is
    used again. Returns the folder.
    """
    vectors = folder / "item_embeddings.parquet"
    if vectors.exists() and MODALITY in pq.read_schema(vectors).names:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    written = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(written, ignore_errors=True)
    written.mkdir(parents=True)
    for table in TABLES:
        shutil.copyfile(data / f"{table}.parquet", written / f"{table}.parquet")
    spec = AttributeSpec(columns=tuple(columns), width=WIDTH)
    embed_items(str(written), written, {MODALITY: spec}, written.with_name(f"{written.name}.cache"))
    shutil.rmtree(written.with_name(f"{written.name}.cache"))
    if shuffled:
        path = written / vectors.name
        pq.write_table(shuffled_column(pq.read_table(path), MODALITY), path)
    written.rename(folder)
    return folder


def shuffled_column(table: pa.Table, name: str, seed: int = 0) -> pa.Table:
    """The table with the values of a column permuted among the rows that have one."""
    column = table.column(name)
    has = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    order = np.arange(len(table))
    order[has] = np.random.default_rng(seed).permutation(has)
    return table.set_column(table.column_names.index(name), table.schema.field(name), column.take(pa.array(order)))
