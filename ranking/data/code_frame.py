"""Append the counts per prefix to a frame of features: the second read of `sidkit frame`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.code_counts import CodeReader
from ranking.data.feature_views import SID, string_array
from sidkit.core.arrays import one_chunk
from sidkit.core.code_stats import prefix_column, prefix_keys
from sidkit.core.files import written_beside
from sidkit.stores.offline.plan import ViewRows

_CODES = f"{SID}__codes"


def append_code_counts(reader: CodeReader, frame: Path, out: Path, chunk_rows: int) -> None:
    """Write a frame with the counts per prefix of each row's codes, as of the row's time; rows without codes get nulls.

    Parameters
    ----------
    reader : CodeReader
        Reads the counts.
    frame : Path
        Parquet with ``user_id``, ``event_timestamp`` and the codes; at least one row.
    out : Path
        Output file, which appears when all rows are written.
    chunk_rows : int
        Rows per read.
    """
    with pq.ParquetFile(frame) as source, written_beside(out) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for batch in source.iter_batches(batch_size=chunk_rows):
                table = with_code_counts(pa.Table.from_batches([batch]), reader)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()


def with_code_counts(table: pa.Table, reader: CodeReader) -> pa.Table:
    """Append the counts per prefix of each row's codes to features in memory; see :func:`append_code_counts`."""
    lists = one_chunk(table.column(_CODES))
    has_codes = lists.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(has_codes)
    codes: npt.NDArray[np.int32] = np.asarray(lists.drop_null().flatten()).astype(np.int32)
    codes = codes.reshape(len(rows), -1) if len(rows) else np.zeros((0, max(reader.depths)), dtype=np.int32)
    keys = {prefix_column(depth): prefix_keys(reader.codebook, codes, depth) for depth in reader.depths}
    keys["user_id"] = string_array(table.column("user_id"))[rows]
    moments = table.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    for view in reader.read(keys, moments[rows]).values():
        index = np.full(len(table), -1, dtype=np.int64)
        index[rows] = view.index
        plain = ViewRows(view.name, index, view.table).plain()
        for name, column in zip(plain.column_names, plain.columns, strict=True):
            table = table.append_column(name, column)
    return table
