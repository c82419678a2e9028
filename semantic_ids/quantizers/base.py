"""Base class of the quantizers, and the argument checks they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.estimator import Estimator
from semantic_ids.item_vectors import ItemVectors, float_matrix
from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.sizes import as_sizes, check_sizes, default_sizes
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

__all__ = [
    "CodeGroup",
    "Quantizer",
    "canonical_order",
    "check_beam",
    "check_sizes",
    "checked_vectors",
    "int_codes",
    "numbered",
    "roundtrip_share",
]


@dataclass(frozen=True)
class CodeGroup:
    """Levels ``start`` to below ``stop`` that belong together; ``ordered`` if each refines the one before it."""

    name: str
    start: int
    stop: int
    ordered: bool


class Quantizer(Estimator):
    """Vectors ``float32 [items, dim]`` in, codes ``int32 [items, levels]`` out, and back; a scikit-learn transformer.

    The constructor takes ``sizes`` (codes per level, or None to choose them at ``fit``), ``force`` where it can refuse data
    that are too few, and stores its arguments unchanged; ``fit`` sets attributes that end in ``_``. New rows never change the
    codes of old ones: ``encode`` depends on nothing but the row and the fitted state.
    :func:`semantic_ids.laws.check_quantizer` checks all of this.

    A subclass that chooses its sizes sets :attr:`sizes_` in ``fit`` (``self.sizes_ = self.sizes_for(rows)``) and in
    ``load_tensors``.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level, of all levels that ``encode`` gives.
    """

    group = "sidkit.quantizers"
    modules: ClassVar[tuple[str, ...]] = ()
    """Optional modules that ``fit`` imports, besides faiss for built-in quantizers; without them, a codebook is refused before
    its fit."""
    sizes: Sequence[int] | None
    """The constructor's argument."""
    _sizes: tuple[int, ...] | None = None

    @property
    def sizes_(self) -> tuple[int, ...]:
        """Codes per level of a fitted quantizer, of all levels that ``encode`` gives.

        A subclass that does not set them has those of its argument ``sizes``.

        Raises
        ------
        FitError
            When the sizes are chosen at ``fit``, and it was not called.
        """
        if self._sizes is not None:
            return self._sizes
        if self.sizes is None:
            raise FitError(f"this {type(self).__name__} is not fitted, and its sizes are chosen at fit; call fit first")
        return tuple(self.sizes)

    @sizes_.setter
    def sizes_(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes

    def sizes_for(self, rows: Floats) -> tuple[int, ...]:
        """The sizes to fit on ``rows``: the argument ``sizes`` or, if it is None, those of :meth:`default_sizes`.

        Raises
        ------
        FitError
            When they are not integers of at least 2, or the rows are too few for them.
        """
        sizes = self.default_sizes(rows) if self.sizes is None else as_sizes(self.sizes)
        check_sizes(sizes, len(rows), force=bool(getattr(self, "force", False)))
        return sizes

    def default_sizes(self, rows: Floats) -> tuple[int, ...]:
        """The sizes for which None stands: three equal levels, :func:`semantic_ids.quantizers.sizes.default_size`."""
        return default_sizes(len(rows), distinct=ItemVectors.of(rows).distinct())

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values; sizes that were chosen at ``fit`` are those that were chosen."""
        arguments = super().config()
        if arguments.get("sizes", ()) is None and self._sizes is not None:
            arguments["sizes"] = list(self._argument_sizes)
        return arguments

    @property
    def _argument_sizes(self) -> tuple[int, ...]:
        """The sizes chosen at ``fit``, as the argument ``sizes`` would state them."""
        return self.sizes_

    @classmethod
    def arguments_without_pairs(cls, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments with which it learns from vectors alone; None where it cannot."""
        return None if cls.needs_pairs_with(arguments) else dict(arguments)

    @property
    def residual_levels(self) -> int:
        """Number of leading levels that refine each other, so that a prefix of them is a coarser code."""
        return len(self.sizes_)

    @property
    def code_groups(self) -> tuple[CodeGroup, ...]:
        """The levels by group: ``residual``, those that refine each other, and ``flat``, those of equal rank."""
        refining, levels = self.residual_levels, len(self.sizes_)
        groups = (CodeGroup("residual", 0, refining, True), CodeGroup("flat", refining, levels, False))
        return tuple(group for group in groups if group.stop > group.start)

    def name_views(self, views: Mapping[str, tuple[int, int]]) -> None:
        """Say before ``fit`` which columns of the vectors are which view (:attr:`Encoder.views
        <semantic_ids.encoders.base.Encoder.views>`); most quantizers do not distinguish them.
        """

    @abstractmethod
    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn the codebooks.

        Parameters
        ----------
        vectors : array-like
            ``[items, dim]``.
        pairs : ItemPairs or array-like, optional
            Pairs of the rows, for a quantizer that learns from them; an array has shape ``[pairs, 2]``.
        """

    @abstractmethod
    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` > 1 searches for closer combinations in residual quantizers."""

    @abstractmethod
    def decode(self, codes: Codes) -> Floats:
        """Reconstruct vectors from codes, ``float32 [items, dim]``."""

    def decode_flat(self, codes: Codes) -> Floats:
        """Reconstruction from the codes after ``residual_levels`` only, ``float32 [items, dim]``; zeros without any."""
        decoded = self.decode(codes)
        return decoded if self.residual_levels == 0 else np.zeros_like(decoded)

    def transform(self, vectors: npt.ArrayLike) -> Codes:
        """Codes ``int32 [items, levels]``, by greedy search: the same as :meth:`encode`."""
        return self.encode(float_matrix(vectors))

    def fit_transform(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Codes:
        """Fit on the vectors, and return their codes, ``int32 [items, levels]``."""
        matrix = float_matrix(vectors)
        return self.fit(matrix, pairs).encode(matrix)

    def inverse_transform(self, codes: npt.ArrayLike) -> Floats:
        """Reconstruct vectors from codes, ``float32 [items, dim]``: the same as :meth:`decode`."""
        return self.decode(np.asarray(codes))

    @staticmethod
    def _rows(data: Any) -> tuple[Floats, int, int]:
        matrix = float_matrix(data)
        return matrix, *matrix.shape


def roundtrip_share(quantizer: Quantizer, codes: Codes, beam: int = 1) -> float:
    """Share of ``codes`` (``int32 [items, levels]``) for which ``encode(decode(codes)) == codes``.

    1 for ``pq`` and ``opq`` by construction, if the codes come from ``encode``. Residual quantizers may find another
    combination for the same reconstruction; random and shuffled codes rarely round-trip. 1 for an empty input.
    """
    if not len(codes):
        return 1.0
    return float((quantizer.encode(quantizer.decode(codes), beam=beam) == codes).all(axis=1).mean())


def checked_vectors(vectors: npt.ArrayLike, dim: int | None = None) -> Floats:
    """The vectors as a contiguous ``float32`` matrix.

    Raises
    ------
    FitError
        When they are not a numeric matrix, have the wrong width, or are not finite.
    """
    matrix = float_matrix(vectors)
    if dim is not None and matrix.shape[1] != dim:
        raise FitError(f"expected vectors of shape (items, {dim}), as at fit, got {matrix.shape}")
    step = max(1, 2**22 // max(1, matrix.shape[1]))
    rows = sum(int((~np.isfinite(matrix[at : at + step]).all(axis=1)).sum()) for at in range(0, len(matrix), step))
    if rows:
        raise FitError(f"{rows} of {len(matrix)} vectors contain NaN or infinite values; drop those rows first")
    return matrix


def canonical_order(vectors: Floats) -> npt.NDArray[np.int64]:
    """Sort order of the rows by their bytes, so that a fit does not depend on the input order."""
    keys = vectors.view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1]))).ravel()
    return np.argsort(keys, kind="stable")


def check_beam(beam: int) -> None:
    """Check the beam width.

    Raises
    ------
    FitError
        When it is below 1.
    """
    if beam < 1:
        raise FitError(f"beam must be at least 1 (greedy), got {beam}")


def int_codes(codes: npt.ArrayLike, sizes: Sequence[int]) -> Codes:
    """The codes as ``int32 [items, levels]``.

    Raises
    ------
    FitError
        When the shape, the type or a value does not match the sizes.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or array.shape[1] != len(sizes):
        raise FitError(f"expected codes of shape (items, {len(sizes)}), got {array.shape}")
    if array.dtype.kind not in "iu":
        raise FitError(f"expected integer codes, got {array.dtype}")
    out_of_range = (array < 0) | (array >= np.asarray(sizes))
    if out_of_range.any():
        wrong = array[out_of_range.any(axis=1)][0].tolist()
        raise FitError(f"expected codes from 0 to below {list(sizes)}, the sizes of the levels, got {wrong}")
    return array.astype(np.int32)


def numbered(tensors: Mapping[str, npt.NDArray[np.generic]], prefix: str) -> list[Floats]:
    """The tensors ``<prefix>0``, ``<prefix>1``, ... as ``float32`` arrays, in order."""
    count = sum(key.startswith(prefix) for key in tensors)
    return [tensors[f"{prefix}{at}"].astype(np.float32) for at in range(count)]
