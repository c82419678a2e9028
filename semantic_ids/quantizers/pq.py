"""Product quantization: each part of the vector is quantized with its own codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import Quantizer, check_beam, checked_vectors, int_codes, numbered
from semantic_ids.quantizers.kmeans import cluster
from semantic_ids.quantizers.nearest import nearest
from semantic_ids.quantizers.sizes import default_sizes
from semantic_ids.quantizers.training_sample import training_sample
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

_PARTS = 4  # by default, where the width is divisible
_TWINS = 1e-6  # codewords closer than this share of the longest vector are merged: rounding cannot separate them


class ProductQuantizer(Quantizer):
    """Product quantization (Jegou et al., Product Quantization for Nearest Neighbor Search, 2011, section 3).

    The vector is split into ``len(sizes)`` equal parts; each part is assigned the nearest codeword of its own codebook,
    trained by k-means on faiss. ``encode(decode(codes)) == codes`` for all codes that ``encode`` returns. Coinciding
    codewords of a part are merged: only the first is ever used.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes per part; any size, not only powers of two. The vectors' width must be a multiple of the number of parts.
        Default: four equal parts (three, two or one if the width is no multiple of four), chosen at ``fit`` from the number
        of rows (about rows / 40).
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
        Codes per part.
    codebooks_ : list of ndarray
        Codewords of each part, ``float32 [codes, dim / parts]``.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    Jegou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, IEEE TPAMI 2011, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ProductQuantizer
    >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> quantizer = ProductQuantizer().fit(x)
    >>> codes = quantizer.transform(x)
    >>> codes.shape, quantizer.sizes_
    ((1000, 4), (32, 32, 32, 32))
    >>> bool((quantizer.transform(quantizer.inverse_transform(codes)) == codes).all())
    True
    """

    name = "pq"

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = sizes
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force

    @property
    def residual_levels(self) -> int:
        """0: no part refines another."""
        return 0

    def default_sizes(self, rows: Floats) -> tuple[int, ...]:
        """Four equal parts, or as many as divide the width."""
        parts = next(count for count in range(_PARTS, 0, -1) if rows.shape[1] % count == 0)
        return default_sizes(len(rows), parts, distinct=ItemVectors.of(rows).distinct())

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn one codebook per part.

        Raises
        ------
        FitError
            When the vectors are not finite, too few for the sizes, or their width is not a multiple of the parts.
        """
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        check_parts(rows.shape[1], sizes)
        self._fit_parts(self._prepared(rows[training_sample(rows, sizes, self.seed)], sizes), sizes)
        self.sizes_ = sizes
        return self

    def _prepared(self, rows: Floats, sizes: tuple[int, ...]) -> Floats:
        """Fit and apply a transformation of the rows before they are split; the identity here."""
        return rows

    def _fit_parts(self, rows: Floats, sizes: tuple[int, ...]) -> None:
        parts = np.split(rows, len(sizes), axis=1)
        books = [
            cluster(np.ascontiguousarray(part), size, self.iterations, self.seed + index, self.threads)
            for index, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ]
        longest = float(np.sqrt(sum(float((book.astype(np.float64) ** 2).sum(axis=1).max()) for book in books)))
        self.codebooks_: list[Floats] = [_without_twins(book, _TWINS * longest) for book in books]

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, parts]``: the nearest codeword of each part; ``beam`` has no effect."""
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, self._dim)
        width = self._dim // len(self.codebooks_)
        codes = np.empty((len(rows), len(self.codebooks_)), dtype=np.int32)
        for part, codebook in enumerate(self.codebooks_):
            codes[:, part] = nearest(np.ascontiguousarray(rows[:, part * width : (part + 1) * width]), codebook)
        return codes

    def decode(self, codes: Codes) -> Floats:
        """The concatenated codewords, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        return np.concatenate([book[checked[:, part]] for part, book in enumerate(self.codebooks_)], axis=1)

    @property
    def _dim(self) -> int:
        return sum(book.shape[1] for book in self.codebooks_)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {f"codebook.{part}": codebook for part, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = numbered(tensors, "codebook.")
        self.sizes_ = tuple(len(codebook) for codebook in self.codebooks_)
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
