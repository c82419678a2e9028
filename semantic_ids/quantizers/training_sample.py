"""The sample of a large catalogue that k-means learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semantic_ids.item_vectors import MOST_CODES
from semantic_ids.quantizers.base import canonical_order, checked_vectors
from sidkit.core.arrays import Floats, Hashes
from sidkit.core.errors import FitError

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
    most = sample_rows(sizes)
    if len(vectors) <= most:
        return canonical_order(vectors)
    hashes = _hashes(vectors, seed)
    chosen = np.argpartition(hashes, most)[:most]
    ordered: npt.NDArray[np.int64] = chosen[canonical_order(vectors[chosen])]
    return ordered


def sample_rows(sizes: Sequence[int]) -> int:
    """Largest number of rows that a fit of these sizes learns from."""
    return max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CODE * max(sizes, default=0))


@dataclass(frozen=True)
class StreamedSample:
    """The sample of vectors that came in blocks: ``vectors`` float32 [sampled, dim] in canonical order, the number of all
    ``rows``, and of ``distinct`` ones, counted up to 1,024 as :meth:`semantic_ids.item_vectors.ItemVectors.distinct` does.
    """

    vectors: Floats
    rows: int
    distinct: int


def streamed_sample(blocks: Iterable[npt.ArrayLike], sizes: Sequence[int], seed: int) -> StreamedSample:
    """The rows of :func:`training_sample` of all blocks together, whatever their sizes and order.

    A reservoir of the rows with the lowest hashes: memory holds at most twice the sample and one block, and the cost per row is
    its hash.

    Parameters
    ----------
    blocks : iterable of array-like
        Vectors ``[rows, dim]`` each, of one width; blocks without rows are allowed.
    sizes : sequence of int
        Codes per level; empty for sizes of at most 1,024.
    seed : int
        Seed of the sample.

    Raises
    ------
    FitError
        When no block has a row, a block is not finite, or their widths differ.
    """
    most = sample_rows(sizes)
    held: list[Floats] = []
    kept = total = 0
    seen: set[bytes] = set()
    for given in blocks:
        block = np.asarray(given)
        if not len(block):
            continue
        block = checked_vectors(block)
        if held and block.shape[1] != held[0].shape[1]:
            raise FitError(
                f"expected blocks of one width, got {held[0].shape[1]} and {block.shape[1]} columns; embed all items with the "
                "same model"
            )
        total += len(block)
        if len(seen) < MOST_CODES:
            seen.update(row.tobytes() for row in block)
        for start in range(0, len(block), most):
            held.append(block[start : start + most].copy())  # the caller may fill its block again
            kept += len(held[-1])
            if kept > 2 * most:
                held = [_lowest(np.concatenate(held), most, seed)]
                kept = most
    if not held:
        raise FitError("expected vectors to learn codes from, got no rows; pass at least one block with rows")
    vectors = _lowest(np.concatenate(held), most, seed)
    return StreamedSample(vectors[canonical_order(vectors)], total, min(len(seen), MOST_CODES))


def _lowest(vectors: Floats, most: int, seed: int) -> Floats:
    """The rows with the lowest hashes; equal rows have equal hashes, so that it does not matter which of them remain."""
    if len(vectors) <= most:
        return vectors
    return vectors[np.argpartition(_hashes(vectors, seed), most)[:most]]


def _hashes(vectors: Floats, seed: int) -> Hashes:
    # Multiply-shift hashing (Dietzfelbinger et al. 1997): the high bits decide the order.
    factors = np.random.default_rng(seed).integers(2**64, size=vectors.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), _HASHED_ROWS):
        bits = vectors[start : start + _HASHED_ROWS].view(np.uint32)
        hashes[start : start + _HASHED_ROWS] = bits.astype(np.uint64) @ factors
    return hashes
