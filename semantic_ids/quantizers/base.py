"""Base class of the quantizers, and the argument checks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.estimator import Estimator
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

ROWS_PER_CODE = 20


class Quantizer(Estimator, ABC):
    """Vectors ``float32 [items, dim]`` in, codes ``int32 [items, levels]`` out, and back.

    The constructor takes ``sizes`` (codes per level), ``force`` where it can refuse data that are too few, and stores its
    arguments unchanged; ``fit`` sets attributes that end in ``_``. New rows never change the codes of old ones: ``encode``
    depends on nothing but the row and the fitted state. :func:`semantic_ids.laws.check_quantizer` checks all of this.
    """

    sizes: tuple[int, ...]
    """Codes per level, of all levels that ``encode`` gives."""

    @classmethod
    def arguments_without_pairs(cls, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments with which it learns from vectors alone; None where it cannot."""
        return None if cls.needs_pairs_with(arguments) else dict(arguments)

    @property
    def residual_levels(self) -> int:
        """Number of leading levels that refine each other, so that a prefix of them is a coarser code."""
        return len(self.sizes)

    @abstractmethod
    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn the codebooks; ``pairs`` are of the rows of ``vectors``."""

    @abstractmethod
    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` > 1 searches for closer combinations in residual quantizers."""

    @abstractmethod
    def decode(self, codes: Codes) -> Floats:
        """Reconstruct vectors from codes, ``float32 [items, dim]``."""

    def decode_flat(self, codes: Codes) -> Floats:
        """Reconstruction from the codes after ``residual_levels`` only, ``float32 [items, dim]``; zeros without any."""
        decoded = self.decode(codes)
        return decoded if self.residual_levels == 0 else np.zeros_like(decoded)

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""


def roundtrip_share(quantizer: Quantizer, codes: Codes, beam: int = 1) -> float:
    """Share of ``codes`` (``int32 [items, levels]``) for which ``encode(decode(codes)) == codes``.

    1 for ``pq`` and ``opq`` by construction, if the codes come from ``encode``. Residual quantizers may find another
    combination for the same reconstruction; random and shuffled codes rarely round-trip. 1 for an empty input.
    """
    if not len(codes):
        return 1.0
    return float((quantizer.encode(quantizer.decode(codes), beam=beam) == codes).all(axis=1).mean())


LEAST_ITEMS = 2 * ROWS_PER_CODE
"""With fewer items, not even levels of 2 codes have 20 items per code."""


def most_codes(items: int) -> int:
    """The largest power of two of codes with 20 items per code, at least 2."""
    return int(2 ** max(1, (items // ROWS_PER_CODE).bit_length() - 1))


def default_size(items: int) -> int:
    """The default level size: the power of two nearest to items / 40, within 16..1024.

    Fewer than 320 items cannot fill 16 codes; the size is then the largest power of two with 20 items per code, at least 2.
    """
    powers = 2 ** np.arange(4, 11)
    return min(int(powers[np.abs(powers - items / 40).argmin()]), most_codes(items))


def checked_vectors(vectors: npt.ArrayLike, dim: int | None = None) -> Floats:
    """The vectors as a contiguous ``float32`` matrix.

    Raises
    ------
    FitError
        When they are not a matrix, have the wrong width, or are not finite.
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise FitError(f"expected vectors of shape (items, dim), got {matrix.shape}")
    if dim is not None and matrix.shape[1] != dim:
        raise FitError(f"expected vectors of shape (items, {dim}), as at fit, got {matrix.shape}")
    step = max(1, 2**22 // max(1, matrix.shape[1]))
    rows = sum(int((~np.isfinite(matrix[at : at + step]).all(axis=1)).sum()) for at in range(0, len(matrix), step))
    if rows:
        raise FitError(f"{rows} of {len(matrix)} vectors contain NaN or infinite values; drop those rows first")
    return matrix


def check_sizes(sizes: Sequence[int], rows: int, *, force: bool) -> None:
    """Check that the data can fill levels of these sizes.

    Raises
    ------
    FitError
        When a level has more codes than rows, or fewer than 20 rows per code and ``force`` is false.
    """
    if not sizes or min(sizes) < 2:
        raise FitError(f"sizes must have at least one level, and at least 2 codes per level, got {tuple(sizes)}")
    if max(sizes) > rows:
        raise FitError(
            f"a level of {max(sizes)} codes is larger than the data ({rows} rows). Set `sizes` in the preset's [codebook] to "
            f"at most {most_codes(rows)} codes per level, or fit on more items"
        )
    if rows < ROWS_PER_CODE * max(sizes) and not force:
        raise FitError(
            f"{rows} rows for {max(sizes)} codes is {rows / max(sizes):.1f} per code; with fewer than {ROWS_PER_CODE} per "
            f"code the codes are noise. {_remedy(rows)}"
        )


def _remedy(rows: int) -> str:
    force = (
        "set `force = true` in the preset's [codebook] (`--force` of `sidkit codebooks fit`, `force=True` in Python)"
    )
    if rows < LEAST_ITEMS:
        return f"Fit on at least {LEAST_ITEMS} items, or {force}"
    return (
        f"Set `sizes` in the preset's [codebook] to at most {rows // ROWS_PER_CODE} codes per level (the default for "
        f"{rows} items is {default_size(rows)}), or {force}"
    )


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
