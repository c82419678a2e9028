"""RQ-OPQ: residual k-means for the hierarchy, then OPQ codes that separate the items of one prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, check_sizes, checked_vectors, int_codes
from semantic_ids.quantizers.opq import OptimizedProductQuantizer
from semantic_ids.quantizers.pq import check_parts
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from sidkit.core.arrays import Codes, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError


class ResidualOPQ(Quantizer):
    """Residual k-means, then OPQ of the last residual (OneSearch, arXiv 2509.03236, tokenizer: RQ-OPQ).

    With the residual ``r = x - sum_l e^l_{c^l}`` of the first ``len(sizes)`` levels, OPQ minimises
    ``sum_i ||R r_i - [C_1(o_i^1); C_2(o_i^2)]||^2`` over orthogonal ``R``. The first ``residual_levels`` codes refine each
    other; the OPQ codes after them do not. The rotation is saved.

    Parameters
    ----------
    sizes : sequence of int
        Codes of the residual levels, coarse to fine; the paper uses decreasing sizes, (4096, 1024, 512).
        The attribute ``sizes`` includes the OPQ codes.
    opq_sizes : sequence of int or None
        Codes of each part of the residual. None: two parts of the size of the last level; vectors of odd width are
        zero-padded.
    balance_last : bool
        Train the last residual level with balanced k-means, as the paper does.
    iterations, seed, threads, force
        As for :class:`~semantic_ids.quantizers.residual_kmeans.ResidualKMeans`.
    """

    name = "rq_opq"

    def __init__(
        self,
        sizes: Sequence[int] = (256, 64, 32),
        opq_sizes: Sequence[int] | None = None,
        balance_last: bool = False,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.residual_sizes = tuple(sizes)
        self.opq_sizes = None if opq_sizes is None else tuple(opq_sizes)
        self.balance_last = balance_last
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force
        parts = self.residual_sizes[-1:] * 2 if self.opq_sizes is None else self.opq_sizes
        self.sizes = (*self.residual_sizes, *parts)
        self._residual = ResidualKMeans(self.residual_sizes, iterations, seed, threads, force, balance_last)
        self._opq = OptimizedProductQuantizer(parts, iterations, seed, threads, force)

    @property
    def residual_levels(self) -> int:
        """Number of leading levels that refine each other; the OPQ codes follow."""
        return len(self.residual_sizes)

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn the residual levels, then the rotation and codebooks of the last residual.

        Raises
        ------
        FitError
            When the vectors are not finite, too few for the sizes, or their width is not a multiple of the OPQ parts, or
            when there is no residual level or no OPQ part.
        """
        rows = checked_vectors(vectors)
        if self.residual_sizes and not self._opq.sizes:
            raise FitError("opq_sizes must have at least one size, got (); use residual_kmeans for codes without OPQ")
        check_sizes(self.sizes if self.residual_sizes else (), len(rows), force=self.force)
        if self.opq_sizes is not None:
            check_parts(rows.shape[1], self._opq.sizes)
        self._residual.fit(rows)
        self._opq.fit(self._divisible(rows - self._residual.decode(self._residual.encode(rows))))
        return self

    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` is the beam width over the residual levels."""
        first = self._residual.encode(vectors, beam=beam)
        rows = checked_vectors(vectors)
        codes = np.empty((len(rows), len(self.sizes)), dtype=np.int32)
        codes[:, : self.residual_levels] = first
        step = 2**16
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            codes[part, self.residual_levels :] = self._opq.encode(
                self._divisible(rows[part] - self._residual.decode(first[part]))
            )
        return codes

    def _divisible(self, rows: Floats) -> Floats:
        """Zero-pad the rows to a multiple of the number of OPQ parts."""
        missing = -rows.shape[1] % len(self._opq.sizes)
        return np.pad(rows, ((0, 0), (0, missing))) if missing else rows

    def decode(self, codes: Codes) -> Floats:
        """Sum of the residual codewords and the OPQ reconstruction, ``float32 [items, dim]``."""
        checked = int_codes(codes, self.sizes)
        coarse = self._residual.decode(checked[:, : self.residual_levels])
        return coarse + self._opq.decode(checked[:, self.residual_levels :])[:, : coarse.shape[1]]

    def decode_flat(self, codes: Codes) -> Floats:
        """Reconstruction from the OPQ codes only, ``float32 [items, dim]``."""
        checked = int_codes(codes, self.sizes)
        width = self._residual.decode(checked[:1, : self.residual_levels]).shape[1]
        return self._opq.decode(checked[:, self.residual_levels :])[:, :width]

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth <= residual_levels`` levels, ``float32 [items, dim]``."""
        return self._residual.decode_prefix(int_codes(codes, self.sizes)[:, : self.residual_levels], depth)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values; ``sizes`` are those of the residual levels."""
        return {**super().config(), "sizes": list(self.residual_sizes)}

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        parts = {"residual": self._residual.tensors(), "opq": self._opq.tensors()}
        return {f"{part}.{key}": value for part, tensors in parts.items() for key, value in tensors.items()}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        for part, quantizer in (("residual.", self._residual), ("opq.", self._opq)):
            quantizer.load_tensors(tensors_under(tensors, part))
        return self
