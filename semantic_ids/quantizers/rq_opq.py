"""RQ-OPQ: residual k-means for the hierarchy, then OPQ codes that separate the items of one prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import Quantizer, checked_vectors, int_codes
from semantic_ids.quantizers.opq import OptimizedProductQuantizer
from semantic_ids.quantizers.pq import check_parts
from semantic_ids.quantizers.residual_kmeans import LastLevel, LocalParent, ResidualKMeans, with_last_level
from semantic_ids.quantizers.sizes import as_sizes, check_sizes, default_sizes
from semantic_ids.quantizers.training_sample import training_sample
from sidkit.core.arrays import Codes, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError


class ResidualOPQ(Quantizer):
    """Residual k-means, then OPQ of the last residual (OneSearch, arXiv 2509.03236, tokenizer: RQ-OPQ).

    With the residual ``r = x - sum_l e^l_{c^l}`` of the residual levels, OPQ minimises
    ``sum_i ||R r_i - [C_1(o_i^1); C_2(o_i^2)]||^2`` over orthogonal ``R``. The first ``residual_levels`` codes refine each
    other; the OPQ codes after them do not. The rotation is saved.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes of the residual levels, coarse to fine; the paper uses decreasing sizes, (4096, 1024, 512). Default: three
        decreasing levels, chosen at ``fit`` from the number of rows
        (:func:`~semantic_ids.quantizers.sizes.falling_sizes`).
    opq_sizes : sequence of int or None
        Codes of each part of the residual. None: two parts of the size of the last level; vectors of odd width are
        zero-padded.
    last_level, local_parent : str
        How the last residual level is clustered; see :class:`~semantic_ids.quantizers.residual_kmeans.ResidualKMeans`. The
        paper names balanced k-means; the authors' published code has a local level.
    iterations, seed, threads, force
        As for :class:`~semantic_ids.quantizers.residual_kmeans.ResidualKMeans`.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level: those of the residual levels, then those of the OPQ parts.
    residual_ : ResidualKMeans
        The fitted residual levels.
    opq_ : OptimizedProductQuantizer
        The fitted quantizer of the last residual.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    OneSearch (arXiv 2509.03236), section on the tokenizer (RQ-OPQ).

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ResidualOPQ
    >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype("float32")
    >>> quantizer = ResidualOPQ().fit(x)
    >>> quantizer.sizes_, quantizer.residual_levels
    ((64, 16, 8, 8, 8), 3)
    >>> quantizer.transform(x).shape
    (2000, 5)
    """

    name = "rq_opq"

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        opq_sizes: Sequence[int] | None = None,
        last_level: LastLevel = "global",
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
        local_parent: LocalParent = "prefix",
    ) -> None:
        self.sizes = sizes
        self.opq_sizes = opq_sizes
        self.last_level = last_level
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force
        self.local_parent = local_parent

    @classmethod
    def arguments_of_release(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of this release: ``balance_last`` was a flag."""
        return with_last_level(arguments)

    @property
    def residual_levels(self) -> int:
        """Number of leading levels that refine each other; the OPQ codes follow."""
        self._refuse_unfitted()
        return len(self.residual_.sizes_)

    @property
    def _argument_sizes(self) -> tuple[int, ...]:
        return self.residual_._argument_sizes

    def sizes_for(self, rows: Floats) -> tuple[int, ...]:
        """The sizes to fit on ``rows``: those of the residual levels, then those of the OPQ parts."""
        residual = self.default_sizes(rows) if self.sizes is None else as_sizes(self.sizes)
        parts = self._parts(residual)
        if residual and not parts:
            raise FitError("opq_sizes must have at least one size, got (); use residual_kmeans for codes without OPQ")
        sizes = (*residual, *parts) if residual else ()
        check_sizes(sizes, len(rows), force=self.force)
        return sizes

    def default_sizes(self, rows: Floats) -> tuple[int, ...]:
        """Three decreasing residual levels."""
        return default_sizes(len(rows), falling=True, distinct=ItemVectors.of(rows).distinct())

    def _parts(self, residual: tuple[int, ...]) -> tuple[int, ...]:
        return residual[-1:] * 2 if self.opq_sizes is None else as_sizes(self.opq_sizes, "opq_sizes")

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn the residual levels, then the rotation and codebooks of the last residual.

        Raises
        ------
        FitError
            When the vectors are not finite, too few for the sizes, or their width is not a multiple of the OPQ parts, or
            when there is no residual level or no OPQ part.
        """
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        levels = len(sizes) - (2 if self.opq_sizes is None else len(self.opq_sizes))
        if self.opq_sizes is not None:
            check_parts(rows.shape[1], sizes[levels:])
        if self.last_level != "local":
            rows = rows[training_sample(rows, sizes, self.seed)]
        shared = (self.iterations, self.seed, self.threads, self.force)
        residual = ResidualKMeans(sizes[:levels], *shared, self.last_level, self.local_parent).fit(rows)
        left = rows - residual.decode(residual.encode(rows))
        self.opq_ = OptimizedProductQuantizer(sizes[levels:], *shared).fit(_divisible(left, len(sizes) - levels))
        self.residual_ = residual
        self.sizes_ = (*residual.sizes_, *self.opq_.sizes_)
        return self

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` is the beam width over the residual levels."""
        self._refuse_unfitted()
        first = self.residual_.encode(vectors, beam=beam)
        rows = checked_vectors(vectors)
        codes = np.empty((len(rows), len(self.sizes_)), dtype=np.int32)
        codes[:, : self.residual_levels] = first
        step = 2**16
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            left = rows[part] - self.residual_.decode(first[part])
            codes[part, self.residual_levels :] = self.opq_.encode(_divisible(left, len(self.opq_.sizes_)))
        return codes

    def decode(self, codes: Codes) -> Floats:
        """Sum of the residual codewords and the OPQ reconstruction, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        coarse = self.residual_.decode(checked[:, : self.residual_levels])
        return coarse + self.opq_.decode(checked[:, self.residual_levels :])[:, : coarse.shape[1]]

    def decode_flat(self, codes: Codes) -> Floats:
        """Reconstruction from the OPQ codes only, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        width = self.residual_.decode(checked[:1, : self.residual_levels]).shape[1]
        return self.opq_.decode(checked[:, self.residual_levels :])[:, :width]

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth <= residual_levels`` levels, ``float32 [items, dim]``."""
        return self.residual_.decode_prefix(int_codes(codes, self.sizes_)[:, : self.residual_levels], depth)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        parts = {"residual": self.residual_.tensors(), "opq": self.opq_.tensors()}
        return {f"{part}.{key}": value for part, tensors in parts.items() for key, value in tensors.items()}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.residual_ = ResidualKMeans(last_level=self.last_level, local_parent=self.local_parent)
        self.residual_.load_tensors(tensors_under(tensors, "residual."))
        self.opq_ = OptimizedProductQuantizer().load_tensors(tensors_under(tensors, "opq."))
        self.sizes_ = (*self.residual_.sizes_, *self.opq_.sizes_)
        return self


def _divisible(rows: Floats, parts: int) -> Floats:
    """Zero-pad the rows to a multiple of the number of OPQ parts."""
    missing = -rows.shape[1] % parts
    return np.pad(rows, ((0, 0), (0, missing))) if missing else rows
