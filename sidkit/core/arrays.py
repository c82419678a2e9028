"""Array types for annotations, and Arrow columns as one array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float32]
"""Vectors and scaled features."""
Doubles = npt.NDArray[np.float64]
"""Sums, rates and metrics."""
Ints = npt.NDArray[np.int64]
"""Counts, indices, and times in microseconds UTC."""
Codes = npt.NDArray[np.int32]
"""Codes of a codebook, ``[items, levels]``."""
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


def distinct_below(values: npt.NDArray[np.integer], bound: int) -> tuple[Ints, Ints]:
    """Distinct values, ascending, and the index of each value among them: ``numpy.unique`` without sorting.

    Parameters
    ----------
    values : int [...]
        From 0 to ``bound`` - 1. Time and memory grow with the bound, too.
    bound : int
    """
    used = np.zeros(bound, dtype=np.bool_)
    used[values] = True
    distinct = np.flatnonzero(used)
    index = np.empty(bound, dtype=np.int64)
    index[distinct] = np.arange(len(distinct))
    return distinct, index[values]


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array; several chunks are copied into one."""
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], combined.type)
    return combined
