"""PSRQ: residual levels that also see what the codes before them stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, checked_vectors, int_codes, numbered
from semantic_ids.quantizers.kmeans import cluster
from semantic_ids.quantizers.nearest import NearestCode
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

_STEP = 2**14  # rows encoded at once


class PrefixSemanticQuantizer(Quantizer):
    """Prefix-semantic residual quantization (PSRQ, arXiv 2508.20359).

    The first level clusters the vectors. Every later level clusters ``[r; w p]``, the residual beside the prefix
    reconstruction ``p``, the sum of the codewords before it, so that equal residuals under different prefixes may get
    different codes. The first half of a codeword is what its code adds: ``p' = p + e``, ``r' = r - e``. The weight ``w`` is
    ours: with 1, the plain concatenation, few codes per level all go to the prefix, which is longer than the residual, and
    later levels lower the error little.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes per level, coarse to fine. Default: three equal levels, chosen at ``fit`` from the number of rows.
    prefix_weight : float
        ``w``, at least 0. With 0, the codes are those of residual k-means.
    iterations : int
        k-means iterations per step.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Faiss threads during ``fit``. A different number can give slightly different codebooks.
    force : bool
        Fit even with fewer than 20 rows per code.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level.
    codebooks_ : list of ndarray
        Codewords of each level: ``float32 [codes, dim]`` of the first, ``[codes, 2 dim]`` of later ones (``[codes, dim]`` with
        ``prefix_weight = 0``).
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    arXiv 2508.20359 (CIKM 2025).

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids.quantizers.psrq import PrefixSemanticQuantizer
    >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> quantizer = PrefixSemanticQuantizer(sizes=(16, 8)).fit(x)
    >>> quantizer.transform(x).shape, [book.shape for book in quantizer.codebooks_]
    ((1000, 2), [(16, 8), (8, 16)])
    """

    name = "psrq"

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        prefix_weight: float = 0.25,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = sizes
        self.prefix_weight = prefix_weight
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn one codebook per level.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes, or the weight is below 0.
        """
        if not 0 <= self.prefix_weight < np.inf:
            raise FitError(f"expected prefix_weight of at least 0, got {self.prefix_weight}; 0 ignores the prefix")
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        residual = rows[canonical_order(rows)].copy()
        prefix = np.zeros_like(residual)
        self.codebooks_: list[Floats] = []
        for level, size in enumerate(sizes):
            seen = self._seen(residual, prefix, level)
            self.codebooks_.append(cluster(seen, size, self.iterations, self.seed + level, self.threads))
            if level + 1 < len(sizes):
                self._advance(residual, prefix, NearestCode(self.codebooks_[level])(seen), level)
        self.sizes_ = sizes
        return self

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]`` by greedy search level by level; ``beam`` has no effect."""
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, self.codebooks_[0].shape[1])
        codes = np.empty((len(rows), len(self.codebooks_)), dtype=np.int32)
        searches = [NearestCode(book) for book in self.codebooks_]
        for start in range(0, len(rows), _STEP):
            residual = rows[start : start + _STEP].copy()
            prefix = np.zeros_like(residual)
            for level, search in enumerate(searches):
                found = search(self._seen(residual, prefix, level))
                codes[start : start + _STEP, level] = found
                self._advance(residual, prefix, found, level)
        return codes

    def decode(self, codes: Codes) -> Floats:
        """Sum of the residual halves of the codewords, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return self._sum(int_codes(codes, self.sizes_))

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth`` levels of the codes, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return self._sum(int_codes(codes, self.sizes_)[:, :depth])

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {f"codebook.{level}": book for level, book in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = numbered(tensors, "codebook.")
        self.sizes_ = tuple(len(book) for book in self.codebooks_)
        return self

    def _seen(self, residual: Floats, prefix: Floats, level: int) -> Floats:
        """What a level clusters, ``float32 [rows, dim]`` or ``[rows, 2 dim]``."""
        if level == 0 or self.prefix_weight == 0:
            return residual
        return np.concatenate([residual, np.float32(self.prefix_weight) * prefix], axis=1)

    def _advance(self, residual: Floats, prefix: Floats, code: npt.NDArray[np.int64], level: int) -> None:
        """Move what the codes of a level stand for from the residuals to the prefixes, in place."""
        word = self.codebooks_[level][code, : residual.shape[1]]
        residual -= word
        prefix += word

    def _sum(self, codes: Codes) -> Floats:
        width = self.codebooks_[0].shape[1]
        total = np.zeros((len(codes), width), dtype=np.float32)
        for level in range(codes.shape[1]):
            total += self.codebooks_[level][codes[:, level], :width]
        return total
