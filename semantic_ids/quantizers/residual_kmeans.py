"""Residual k-means: each level clusters the residuals of the levels before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, checked_vectors, int_codes, numbered
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
    sizes : sequence of int, optional
        Codes per level, coarse to fine; any size, not only powers of two. Default: three equal levels, chosen at ``fit``
        from the number of rows (about rows / 40).
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

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level.
    codebooks_ : list of ndarray
        Codewords of each level, ``float32 [codes, dim]``.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    OneSearch (arXiv 2509.03236), section on RQ-KMeans; QARM (arXiv 2411.11739), which quantizes residuals by k-means too.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ResidualKMeans
    >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype("float32")
    >>> quantizer = ResidualKMeans()
    >>> codes = quantizer.fit_transform(x)
    >>> codes.shape, codes.dtype, quantizer.sizes_
    ((2000, 3), dtype('int32'), (64, 64, 64))
    >>> quantizer.inverse_transform(codes).shape
    (2000, 8)
    >>> ResidualKMeans(sizes=(32, 8)).fit(x).transform(x[:5]).shape
    (5, 2)
    """

    name = "residual_kmeans"

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
        balance_last: bool = False,
    ) -> None:
        self.sizes = sizes
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force
        self.balance_last = balance_last

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn one codebook per level.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes.
        """
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        residual = rows[canonical_order(rows)].copy()
        codebooks: list[Floats] = []
        for level, size in enumerate(sizes):
            codebook = cluster(residual, size, self.iterations, self.seed + level, self.threads)
            last = level + 1 == len(sizes)
            if last and self.balance_last:
                codebook = balance(residual, codebook)
            codebooks.append(codebook)
            if not last:
                residual -= codebook[nearest(residual, codebook)]
        self.sizes_ = sizes
        self.codebooks_ = codebooks
        return self

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]`` by greedy search level by level, or by beam search of width ``beam``."""
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, self.codebooks_[0].shape[1])
        return residual_codes(rows, self.codebooks_, beam)

    def decode(self, codes: Codes) -> Floats:
        """Sum of the codewords, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return residual_sum(int_codes(codes, self.sizes_), self.codebooks_)

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth`` levels of the codes, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes_)[:, :depth], self.codebooks_)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = numbered(tensors, "codebook.")
        self.sizes_ = tuple(len(codebook) for codebook in self.codebooks_)
        return self
