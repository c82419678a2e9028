"""The contract of a quantizer, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

ROWS_PER_CODE = 20


class Quantizer(ABC):
    """Vectors ``float32 [items, dim]`` in, codes ``int32 [items, levels]`` out, and back.

    The constructor stores its arguments unchanged; ``fit`` sets attributes that end in ``_``. New rows never change the
    codes of old ones: ``encode`` depends on nothing but the row and the fitted state.
    """

    name: str
    sizes: tuple[int, ...]
    needs_pairs: bool = False
    """Whether ``fit`` learns from pairs of items; the others ignore them."""

    @property
    def residual_levels(self) -> int:
        """How many of the first levels refine each other, so that a prefix of them is a coarser code."""
        return len(self.sizes)

    @abstractmethod
    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn the codebooks; ``pairs`` are of the rows of ``vectors``."""

    @abstractmethod
    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` > 1 looks for a closer combination where the kind has one."""

    @abstractmethod
    def decode(self, codes: Codes) -> Floats:
        """What the codes stand for, ``float32 [items, dim]``."""

    def decode_flat(self, codes: Codes) -> Floats:
        """What the codes after ``residual_levels`` stand for, ``float32 [items, dim]``; zeros where there are none."""
        decoded = self.decode(codes)
        return decoded if self.residual_levels == 0 else np.zeros_like(decoded)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""


def roundtrip_share(quantizer: Quantizer, codes: Codes, beam: int = 1) -> float:
    """Share of ``codes`` (``int32 [items, levels]``) that come back when what they stand for is encoded again.

    1 for ``pq`` and ``opq`` by construction, as long as the codes came from ``encode``; residual kinds may take another
    way to the same place, and kinds without meaning seldom come back. 1 where there are no codes.
    """
    if not len(codes):
        return 1.0
    return float((quantizer.encode(quantizer.decode(codes), beam=beam) == codes).all(axis=1).mean())


LEAST_ITEMS = 2 * ROWS_PER_CODE
"""Items below which not even levels of 2 codes have 20 items per code."""


def most_codes(items: int) -> int:
    """The largest power of two of codes that have 20 items each, at least 2."""
    return int(2 ** max(1, (items // ROWS_PER_CODE).bit_length() - 1))


def default_size(items: int) -> int:
    """The default level size: the power of two nearest items / 40, within 16..1024.

    For fewer than 320 items, which cannot fill 16 codes, it is the largest power of two with 20 items per code, at least 2.
    """
    powers = 2 ** np.arange(4, 11)
    return min(int(powers[np.abs(powers - items / 40).argmin()]), most_codes(items))


def checked_vectors(vectors: npt.ArrayLike, dim: int | None = None) -> Floats:
    """The vectors as a contiguous ``float32`` matrix.

    Raises
    ------
    FitError
        When they are no matrix, of the wrong width, or not finite.
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise FitError(f"vectors of shape {matrix.shape} came; [items, dim] is needed")
    if dim is not None and matrix.shape[1] != dim:
        raise FitError(f"vectors are {matrix.shape[1]} wide; the quantizer was fitted on {dim}")
    step = max(1, 2**22 // max(1, matrix.shape[1]))
    rows = sum(int((~np.isfinite(matrix[at : at + step]).all(axis=1)).sum()) for at in range(0, len(matrix), step))
    if rows:
        raise FitError(f"{rows} of {len(matrix)} vectors hold NaN or infinite values; drop those rows first")
    return matrix


def check_sizes(sizes: Sequence[int], rows: int, *, force: bool) -> None:
    """Refuse sizes that the data cannot fill.

    Raises
    ------
    FitError
        When a level is larger than the data, or has under 20 rows per code and ``force`` is not given.
    """
    if not sizes or min(sizes) < 2:
        raise FitError(f"sizes {tuple(sizes)}: at least one level, and at least 2 codes in each, are needed")
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
    """An order of the rows that depends on their bytes alone, so that shuffling them changes nothing."""
    keys = vectors.view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1]))).ravel()
    return np.argsort(keys, kind="stable")


def check_beam(beam: int) -> None:
    """Refuse a beam without paths.

    Raises
    ------
    FitError
        When it is below 1.
    """
    if beam < 1:
        raise FitError(f"a beam of {beam} paths keeps none; use 1 (greedy) or more")


def int_codes(codes: npt.ArrayLike, sizes: Sequence[int]) -> Codes:
    """The codes as ``int32 [items, levels]``.

    Raises
    ------
    FitError
        When the shape, the type or a value does not fit the sizes.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or array.shape[1] != len(sizes):
        raise FitError(f"codes of shape {array.shape} came; [items, {len(sizes)}] is needed")
    if array.dtype.kind not in "iu":
        raise FitError(f"codes of type {array.dtype} came; whole numbers are needed")
    beyond = (array < 0) | (array >= np.asarray(sizes))
    if beyond.any():
        wrong = array[beyond.any(axis=1)][0].tolist()
        raise FitError(f"codes {wrong} came; the levels have {list(sizes)} codes, counted from 0")
    return array.astype(np.int32)
