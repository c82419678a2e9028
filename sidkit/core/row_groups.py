"""Some rows of a Parquet file, read row group by row group in small batches, so that a large file needs little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.arrays import Ints

_READ_ROWS = 16_384
"""Rows of a file that are read at a time."""
_READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time."""


def rows_of(path: Path, rows: Ints, columns: Sequence[str]) -> Iterator[tuple[slice, pa.RecordBatch]]:
    """Columns of some rows of a file, in the order of the file.

    Row groups are read one by one, since Arrow holds all that it read for one call; those without such a row are not read.

    Parameters
    ----------
    path : Path
        A Parquet file.
    rows : int64 [rows]
        Their numbers in the file, from 0 on, ascending, each once.
    columns : sequence of str
        The columns to read.

    Yields
    ------
    tuple
        The place of a batch in ``rows``, and the batch; none is empty.
    """
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            if np.searchsorted(rows, start) == np.searchsorted(rows, end):
                continue
            for batch in file.iter_batches(_READ_ROWS, row_groups=[group], columns=list(columns), use_threads=False):
                first, last = map(int, np.searchsorted(rows, [start, start + batch.num_rows]))
                if first < last:
                    whole = last - first == batch.num_rows
                    yield slice(first, last), batch if whole else batch.take(pa.array(rows[first:last] - start))
                start += batch.num_rows
