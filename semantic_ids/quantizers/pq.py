"""Product quantization: each part of the vector has a codebook of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, check_sizes, checked_vectors, int_codes
from semantic_ids.quantizers.kmeans import cluster
from semantic_ids.quantizers.nearest import nearest
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

_TWINS = 1e-6  # codewords closer than this share of the longest vector are one: rounding could not keep them apart


class ProductQuantizer(Quantizer):
    """Product quantization (Jegou et al., Product Quantization for Nearest Neighbor Search, 2011, section 3).

    The vector is cut into as many equal parts as there are ``sizes``; each part takes the nearest of its own codewords,
    clustered by faiss. ``encode(decode(codes)) == codes`` for all codes that ``encode`` can give. Codewords of one part
    that coincide become one: the first of them is used, the others never.

    Parameters
    ----------
    sizes : sequence of int
        Codes per part; any size, not only powers of two. The vectors' width must divide into the parts.
    iterations : int
        k-means iterations per step.
    seed : int
        Decides everything random; the order of the rows decides nothing.
    threads : int
        Threads of faiss during ``fit``. Another number can give slightly other codebooks.
    force : bool
        Fit though there are under 20 rows per code.
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
        """0: the parts stand side by side, none refines another."""
        return 0

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn one codebook per part.

        Raises
        ------
        FitError
            When the vectors are not finite, too few for the sizes, or of a width that does not divide into the parts.
        """
        rows = checked_vectors(vectors)
        check_sizes(self.sizes, len(rows), force=self.force)
        check_parts(rows.shape[1], self.sizes)
        self._fit_parts(self._prepared(rows[canonical_order(rows)]))
        return self

    def _prepared(self, rows: Floats) -> Floats:
        """The rows as they are cut into parts; what that takes is learned here."""
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
        """Codes ``int32 [items, parts]``: the nearest codeword of each part, the nearest combination whatever ``beam``."""
        check_beam(beam)
        rows = checked_vectors(vectors, self._dim)
        width = self._dim // len(self.sizes)
        codes = np.empty((len(rows), len(self.sizes)), dtype=np.int32)
        for part, codebook in enumerate(self.codebooks_):
            codes[:, part] = nearest(np.ascontiguousarray(rows[:, part * width : (part + 1) * width]), codebook)
        return codes

    def decode(self, codes: Codes) -> Floats:
        """The codewords side by side, ``float32 [items, dim]``."""
        checked = int_codes(codes, self.sizes)
        return np.concatenate([book[checked[:, part]] for part, book in enumerate(self.codebooks_)], axis=1)

    @property
    def _dim(self) -> int:
        return sum(book.shape[1] for book in self.codebooks_)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``threads`` and ``force`` belong to the machine and the moment."""
        return {"sizes": list(self.sizes), "iterations": self.iterations, "seed": self.seed}

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""
        return {f"codebook.{part}": codebook for part, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
        self.codebooks_ = [tensors[f"codebook.{part}"].astype(np.float32) for part in range(len(self.sizes))]
        return self


def check_parts(dim: int, sizes: Sequence[int]) -> None:
    """Refuse a width that does not divide into the parts.

    Raises
    ------
    FitError
        When it does not.
    """
    if dim % len(sizes):
        fitting = [count for count in range(1, min(dim, 16) + 1) if dim % count == 0]
        raise FitError(
            f"vectors of width {dim} do not divide into {len(sizes)} equal parts (one per size); give as many sizes as "
            f"divide it ({', '.join(map(str, fitting))}), or an encoder whose width is a multiple of {len(sizes)}"
        )


def _without_twins(codebook: Floats, apart: float) -> Floats:
    """The codebook in which each codeword within ``apart`` of an earlier one equals it."""
    merged = codebook.copy()
    wide = codebook.astype(np.float64)
    for code in range(1, len(codebook)):
        close = np.flatnonzero(((wide[:code] - wide[code]) ** 2).sum(axis=1) <= apart**2)
        if close.size:
            merged[code], wide[code] = merged[close[0]], wide[close[0]]
    return merged
