"""Residual k-means: each level clusters what the levels before left unexplained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, check_sizes, checked_vectors, int_codes
from semantic_ids.quantizers.kmeans import balance, cluster
from semantic_ids.quantizers.nearest import nearest, residual_codes, residual_sum
from sidkit.core.arrays import Codes, Floats


class ResidualKMeans(Quantizer):
    """Residual k-means on faiss, trained greedily level by level.

    A beam in training ruins the second level (measured), so ``fit`` is greedy; a beam at ``encode`` finds closer
    combinations of the same codewords. Each level is trained in growing numbers of principal dimensions, each step
    started from the last, which gives lower error than k-means from random rows.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level, coarse to fine; any size, not only powers of two.
    iterations : int
        k-means iterations per step.
    seed : int
        Decides everything random; the order of the rows decides nothing.
    threads : int
        Threads of faiss during ``fit``. Another number can give slightly other codebooks.
    force : bool
        Fit though there are under 20 rows per code.
    balance_last : bool
        Shape the last level's codewords by groups of equal size (OneSearch, arXiv 2509.03236, section on RQ-KMeans).
        ``fit`` alone is balanced: ``encode`` takes the nearest codeword, so codes are nearly, not exactly, equally used.
        Balancing every level would destroy the hierarchy; that is not offered.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 8)).astype("float32")
    >>> codes = ResidualKMeans(sizes=(16, 8)).fit(x).encode(x)
    >>> codes.shape, codes.dtype
    ((500, 2), dtype('int32'))
    """

    name = "residual_kmeans"

    def __init__(
        self,
        sizes: Sequence[int] = (256, 256, 256),
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
        balance_last: bool = False,
    ) -> None:
        self.sizes = tuple(sizes)
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force
        self.balance_last = balance_last

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn one codebook per level.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes.
        """
        rows = checked_vectors(vectors)
        check_sizes(self.sizes, len(rows), force=self.force)
        residual = rows[canonical_order(rows)].copy()
        self.codebooks_: list[Floats] = []
        for level, size in enumerate(self.sizes):
            codebook = cluster(residual, size, self.iterations, self.seed + level, self.threads)
            last = level + 1 == len(self.sizes)
            if last and self.balance_last:
                codebook = balance(residual, codebook)
            self.codebooks_.append(codebook)
            if not last:
                residual -= codebook[nearest(residual, codebook)]
        return self

    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``: the nearest codeword level by level, or the best of ``beam`` paths."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.codebooks_[0].shape[1])
        return residual_codes(rows, self.codebooks_, beam)

    def decode(self, codes: Codes) -> Floats:
        """Sum of the codewords, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes), self.codebooks_)

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """What the first ``depth`` levels of the codes stand for, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes)[:, :depth], self.codebooks_)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``threads`` and ``force`` belong to the machine and the moment."""
        return {
            "sizes": list(self.sizes),
            "iterations": self.iterations,
            "seed": self.seed,
            "balance_last": self.balance_last,
        }

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""
        return {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
        self.codebooks_ = [tensors[f"codebook.{level}"].astype(np.float32) for level in range(len(self.sizes))]
        return self
