"""Product quantization: each part of the vector is quantized with its own codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, check_sizes, checked_vectors, int_codes
from semantic_ids.quantizers.kmeans import cluster
from semantic_ids.quantizers.nearest import nearest
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

_TWINS = 1e-6  # codewords closer than this share of the longest vector are merged: rounding cannot separate them


class ProductQuantizer(Quantizer):
    """Product quantization (Jegou et al., Product Quantization for Nearest Neighbor Search, 2011, section 3).

    The vector is split into ``len(sizes)`` equal parts; each part is assigned the nearest codeword of its own codebook,
    trained by k-means on faiss. ``encode(decode(codes)) == codes`` for all codes that ``encode`` returns. Coinciding
    codewords of a part are merged: only the first is ever used.

    Parameters
    ----------
    sizes : sequence of int
        Codes per part; any size, not only powers of two. The vectors' width must be a multiple of the number of parts.
    iterations : int
        k-means iterations per step.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Faiss threads during ``fit``. A different number can give slightly different codebooks.
    force : bool
        Fit even with fewer than 20 rows per code.
    """

    name = "pq"

    def __init__(
        self,
        sizes: Sequence[int] = (256, 256, 256, 256),
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = tuple(sizes)
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force

    @property
    def residual_levels(self) -> int:
        """0: no part refines another."""
        return 0

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn one codebook per part.

        Raises
        ------
        FitError
            When the vectors are not finite, too few for the sizes, or their width is not a multiple of the parts.
        """
        rows = checked_vectors(vectors)
        check_sizes(self.sizes, len(rows), force=self.force)
        check_parts(rows.shape[1], self.sizes)
        self._fit_parts(self._prepared(rows[canonical_order(rows)]))
        return self

    def _prepared(self, rows: Floats) -> Floats:
        """Fit and apply a transformation of the rows before they are split; the identity here."""
        return rows

    def _fit_parts(self, rows: Floats) -> None:
        parts = np.split(rows, len(self.sizes), axis=1)
        books = [
            cluster(np.ascontiguousarray(part), size, self.iterations, self.seed + index, self.threads)
            for index, (part, size) in enumerate(zip(parts, self.sizes, strict=True))
        ]
        longest = float(np.sqrt(sum(float((book.astype(np.float64) ** 2).sum(axis=1).max()) for book in books)))
        self.codebooks_: list[Floats] = [_without_twins(book, _TWINS * longest) for book in books]

    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, parts]``: the nearest codeword of each part; ``beam`` has no effect."""
        check_beam(beam)
        rows = checked_vectors(vectors, self._dim)
        width = self._dim // len(self.sizes)
        codes = np.empty((len(rows), len(self.sizes)), dtype=np.int32)
        for part, codebook in enumerate(self.codebooks_):
            codes[:, part] = nearest(np.ascontiguousarray(rows[:, part * width : (part + 1) * width]), codebook)
        return codes

    def decode(self, codes: Codes) -> Floats:
        """The concatenated codewords, ``float32 [items, dim]``."""
        checked = int_codes(codes, self.sizes)
        return np.concatenate([book[checked[:, part]] for part, book in enumerate(self.codebooks_)], axis=1)

    @property
    def _dim(self) -> int:
        return sum(book.shape[1] for book in self.codebooks_)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {f"codebook.{part}": codebook for part, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = [tensors[f"codebook.{part}"].astype(np.float32) for part in range(len(self.sizes))]
        return self


def check_parts(dim: int, sizes: Sequence[int]) -> None:
    """Check that the width is a multiple of the number of parts.

    Raises
    ------
    FitError
        When it is not.
    """
    if dim % len(sizes):
        fitting = [count for count in range(1, min(dim, 16) + 1) if dim % count == 0]
        raise FitError(
            f"vectors of width {dim} cannot be split into {len(sizes)} equal parts (one per size); use a number of sizes "
            f"that divides it ({', '.join(map(str, fitting))}), or an encoder whose width is a multiple of {len(sizes)}"
        )


def _without_twins(codebook: Floats, apart: float) -> Floats:
    """Replace each codeword within distance ``apart`` of an earlier one by that one."""
    merged = codebook.copy()
    wide = codebook.astype(np.float64)
    for code in range(1, len(codebook)):
        close = np.flatnonzero(((wide[:code] - wide[code]) ** 2).sum(axis=1) <= apart**2)
        if close.size:
            merged[code], wide[code] = merged[close[0]], wide[close[0]]
    return merged
