"""Parallel aspects: one flat code for each of several learned projections of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import check_beam, checked_vectors, int_codes, numbered
from semantic_ids.quantizers.contrastive import ContrastiveQuantizer
from semantic_ids.quantizers.kmeans import cluster
from semantic_ids.quantizers.nearest import NearestCode
from sidkit.core.arrays import Codes, Doubles, Floats
from sidkit.core.errors import FitError

_STEP = 2**14  # rows projected at once
_RIDGE = 1e-3


class ParallelAspects(ContrastiveQuantizer):
    """Parallel codes of aspects (after LAMIA, arXiv 2409.07276): projections are learned, then each is clustered alone.

    The paper tunes a language model that gives one vector per aspect; here an aspect is a linear projection of the encoder's
    vector. With ``x`` standardised and ``z_a = W_a x``, training minimises ``||x - D [z_1; ...; z_A]||^2``, plus
    ``decorrelation`` times the mean squared correlation between columns of different aspects, plus ``contrast`` times the mean
    InfoNCE loss of pairs over the aspects, so that every aspect says which items the same users click. The codes of an aspect
    are those of k-means on ``z_a``. They are equal in rank: none refines another, and there are no prefixes. The linear case
    without pairs is :class:`~semantic_ids.quantizers.opq.OptimizedProductQuantizer`; compare with it.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes per aspect. Default: three equal sizes, chosen at ``fit`` from the number of rows.
    width : int, optional
        Columns of an aspect; default: those of the vectors divided by the number of aspects, at least 1.
    contrast : float
        Weight of InfoNCE. At 0, the default, pairs are ignored; a value above 0 requires pairs. In the paper this term carries
        the result: without it, recall was a third lower.
    decorrelation : float
        Weight of the correlation between aspects.
    epochs : int
        Passes over the rows.
    batch : int
        Rows, and pairs, per step.
    learning_rate : float
        Of Adam, with cosine decay.
    iterations : int
        k-means iterations per step.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Threads during ``fit``. A different number can give slightly different codes.
    force : bool
        Fit even with fewer than 20 rows per code.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per aspect.
    heads_ : ndarray
        ``float64 [dim, aspects, width]``, for vectors less ``mean_``.
    codebooks_ : list of ndarray
        Codewords of each aspect, ``float32 [codes, width]``.
    decoder_ : ndarray
        ``float64 [aspects * width, dim]``: least squares from the codewords of the fit's items to their vectors.
    mean_ : ndarray
        ``float32 [dim]``.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    LAMIA (arXiv 2409.07276).

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids.quantizers.parallel_aspects import ParallelAspects
    >>> x = np.random.default_rng(0).normal(size=(400, 8)).astype("float32")
    >>> quantizer = ParallelAspects(sizes=(8, 8), epochs=2).fit(x)
    >>> quantizer.transform(x).shape, quantizer.residual_levels
    ((400, 2), 0)
    """

    name = "parallel_aspects"
    modules = ("torch",)

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        width: int | None = None,
        contrast: float = 0.0,
        decorrelation: float = 1.0,
        epochs: int = 15,
        batch: int = 1024,
        learning_rate: float = 3e-3,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = sizes
        self.width = width
        self.contrast = contrast
        self.decorrelation = decorrelation
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force

    @property
    def residual_levels(self) -> int:
        """0: no aspect refines another."""
        return 0

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Train the projections and cluster each; ``pairs`` are used only if ``contrast`` is above 0.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes, an argument is out of range, or ``contrast`` is above 0
            and the pairs are missing, were mined for other items, or all share items.
        """
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        self._check_arguments()
        ordered, known = self._in_order(rows, pairs)
        self.mean_: Floats = ordered.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = ordered - self.mean_
        scale = float(np.sqrt(np.mean(centred.astype(np.float64) ** 2))) or 1.0
        width = self.width or max(1, rows.shape[1] // len(sizes))

        from semantic_ids.quantizers.aspect_training import AspectTraining, train_heads

        weights = (self.contrast, self.decorrelation, self.epochs, self.batch, self.learning_rate)
        training = AspectTraining(len(sizes), width, *weights, self.seed, self.threads)
        self.heads_: Doubles = train_heads(training, (centred / scale).astype(np.float32), known) / scale
        aspects = self._aspects(ordered)
        self.codebooks_: list[Floats] = []
        codes = np.empty((len(rows), len(sizes)), dtype=np.int32)
        for at, size in enumerate(sizes):
            part = np.ascontiguousarray(aspects[:, at])
            self.codebooks_.append(cluster(part, size, self.iterations, self.seed + at, self.threads))
            codes[:, at] = NearestCode(self.codebooks_[at])(part)
        words = self._words(codes)
        inner = words.T @ words
        inner += np.eye(len(inner)) * max(_RIDGE * float(np.trace(inner)) / len(inner), 1e-20)
        self.decoder_: Doubles = np.linalg.solve(inner, words.T @ centred.astype(np.float64))
        self.sizes_ = sizes
        return self

    def _check_arguments(self) -> None:
        for argument, value in {"width": self.width or 1, "epochs": self.epochs, "batch": self.batch}.items():
            if value < 1:
                raise FitError(f"{argument} must be at least 1, got {value}")
        if self.learning_rate <= 0 or min(self.contrast, self.decorrelation) < 0:
            raise FitError(
                "learning_rate must be above 0, and contrast and decorrelation at least 0, got "
                f"{self.learning_rate}, {self.contrast} and {self.decorrelation}"
            )

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, aspects]``: the nearest codeword of each aspect; ``beam`` has no effect."""
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, len(self.mean_))
        searches = [NearestCode(book) for book in self.codebooks_]
        codes = np.empty((len(rows), len(searches)), dtype=np.int32)
        for start in range(0, len(rows), _STEP):
            aspects = self._aspects(rows[start : start + _STEP])
            for at, search in enumerate(searches):
                codes[start : start + _STEP, at] = search(np.ascontiguousarray(aspects[:, at]))
        return codes

    def decode(self, codes: Codes) -> Floats:
        """The decoder's output for the codewords of all aspects, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return (self._words(int_codes(codes, self.sizes_)) @ self.decoder_ + self.mean_).astype(np.float32)

    def _aspects(self, rows: Floats) -> Floats:
        """Vectors of the aspects, ``float32 [rows, aspects, width]``; in double precision and rounded once, so that they do not
        depend on the batch.
        """
        _, aspects, width = self.heads_.shape
        flat = (rows - self.mean_).astype(np.float64) @ self.heads_.reshape(len(self.mean_), -1)
        return flat.astype(np.float32).reshape(len(rows), aspects, width)

    def _words(self, codes: Codes) -> Doubles:
        words = [book[codes[:, at]] for at, book in enumerate(self.codebooks_)]
        return np.concatenate(words, axis=1).astype(np.float64)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        books = {f"codebook.{at}": book for at, book in enumerate(self.codebooks_)}
        return {**books, "heads": self.heads_, "decoder": self.decoder_, "mean": self.mean_}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = numbered(tensors, "codebook.")
        self.heads_, self.decoder_ = (tensors[name].astype(np.float64) for name in ("heads", "decoder"))
        self.mean_ = tensors["mean"].astype(np.float32)
        self.sizes_ = tuple(len(book) for book in self.codebooks_)
        return self
