"""The sample of a large catalogue that k-means learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from semantic_ids.quantizers.base import canonical_order
from sidkit.core.arrays import Floats

SAMPLE_ROWS = 2**18
"""Largest number of rows that a fit learns from, unless the sizes need more."""
SAMPLE_ROWS_PER_CODE = 40
"""Rows per code that a sample has at least, where there are as many."""
_HASHED_ROWS = 4096


def training_sample(vectors: Floats, sizes: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    """Row numbers of a sample that a fit learns from, in canonical order: all rows, or ``SAMPLE_ROWS`` of more.

    The rows with the lowest hashes of their bytes and the seed, so that the sample is uniform and does not depend on the
    input order. The cost of a fit therefore does not grow with the catalogue.

    Parameters
    ----------
    vectors : float32 [items, dim]
        Contiguous.
    sizes : sequence of int
        Codes per level; a level gets at least ``SAMPLE_ROWS_PER_CODE`` rows per code, where there are as many.
    seed : int
        Seed of the sample.
    """
    most = max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CODE * max(sizes))
    if len(vectors) <= most:
        return canonical_order(vectors)
    # Multiply-shift hashing (Dietzfelbinger et al. 1997): the high bits decide the order.
    factors = np.random.default_rng(seed).integers(2**64, size=vectors.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), _HASHED_ROWS):
        bits = vectors[start : start + _HASHED_ROWS].view(np.uint32)
        hashes[start : start + _HASHED_ROWS] = bits.astype(np.uint64) @ factors
    chosen = np.argpartition(hashes, most)[:most]
    ordered: npt.NDArray[np.int64] = chosen[canonical_order(vectors[chosen])]
    return ordered
