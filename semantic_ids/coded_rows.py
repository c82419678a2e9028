"""Rows of content with their codes, as a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from semantic_ids.codebook import Codebook
from semantic_ids.item_vectors import ItemVectors


def coded_rows(chunk: pa.Table, codebook: Codebook) -> pa.Table:
    """Assign codes to rows with ``item_id``, ``event_timestamp`` and the vectors that the codebook's encoder reads.

    Returns
    -------
    pyarrow.Table
        ``item_id``, ``event_timestamp``, ``codes`` (list of int64) and ``residual_norm`` (float32), row by row. Rows without
        content have null codes: an item that lost its content must not keep its earlier codes.
    """
    items = ItemVectors.from_arrow(chunk, codebook.encoder.modalities_)
    assignment = codebook.assign(items)
    without_content = ~assignment.encodable
    offsets = np.arange(len(items) + 1, dtype=np.int32) * assignment.codes.shape[1]
    codes = pa.ListArray.from_arrays(offsets, assignment.codes.astype(np.int64).ravel(), mask=pa.array(without_content))
    rows = chunk.select(["item_id", "event_timestamp"]).append_column("codes", codes)
    return rows.append_column("residual_norm", pa.array(assignment.residual_norm, mask=without_content))
