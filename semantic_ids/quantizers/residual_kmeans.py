"""Residual k-means: each level clusters the residuals of the levels before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, check_sizes, checked_vectors, int_codes
from semantic_ids.quantizers.kmeans import balance, cluster
from semantic_ids.quantizers.nearest import nearest, residual_codes, residual_sum
from sidkit.core.arrays import Codes, Floats


class ResidualKMeans(Quantizer):
    """Residual k-means on faiss, trained greedily level by level.

    ``c^l = argmin_k ||r^{l-1} - e^l_k||^2`` and ``r^l = r^{l-1} - e^l_{c^l}``, with ``r^0`` the vector; the reconstruction
    is ``sum_l e^l_{c^l}``. ``fit`` is greedy, because beam search in training degraded the second level in our
    measurements; a beam at ``encode`` finds closer combinations of the same codewords. See :func:`cluster` for the
    initialisation.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level, coarse to fine; any size, not only powers of two.
    iterations : int
        k-means iterations per step.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Faiss threads during ``fit``. A different number can give slightly different codebooks.
    force : bool
        Fit even with fewer than 20 rows per code.
    balance_last : bool
        Train the last level with balanced k-means (OneSearch, arXiv 2509.03236, section on RQ-KMeans). Only ``fit`` is
        balanced: ``encode`` takes the nearest codeword, so usage is nearly, not exactly, uniform. Balancing every level
        would destroy the hierarchy and is not supported.

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
        """Codes ``int32 [items, levels]`` by greedy search level by level, or by beam search of width ``beam``."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.codebooks_[0].shape[1])
        return residual_codes(rows, self.codebooks_, beam)

    def decode(self, codes: Codes) -> Floats:
        """Sum of the codewords, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes), self.codebooks_)

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth`` levels of the codes, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes)[:, :depth], self.codebooks_)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = [tensors[f"codebook.{level}"].astype(np.float32) for level in range(len(self.sizes))]
        return self
