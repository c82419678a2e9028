"""Residual k-means: each level clusters what the levels before left unexplained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.pairs import ItemPairs
from semantic_ids.item_vectors import Floats
from semantic_ids.quantizers.base import (
    Codes,
    Doubles,
    Quantizer,
    canonical_order,
    check_beam,
    check_sizes,
    checked_vectors,
    int_codes,
)

_CELLS = 2**23  # distances held at once: 64 MB


class ResidualKMeans(Quantizer):
    """Residual k-means on faiss, trained greedily level by level.

    A beam in training ruins the second level (measured), so ``fit`` is greedy; a beam at ``encode`` finds closer
    combinations of the same codewords. Each level is trained in growing numbers of principal dimensions, each step
    started from the last, which gives lower error than k-means from random rows.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level, coarse to fine; any size, not only powers of two.
    iterations : int
        k-means iterations per step.
    seed : int
        Decides everything random; the order of the rows decides nothing.
    threads : int
        Threads of faiss during ``fit``. Another number can give slightly other codebooks.
    force : bool
        Fit though there are under 20 rows per code.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 8)).astype("float32")
    >>> codes = ResidualKMeans(sizes=(16, 8)).fit(x).encode(x)
    >>> codes.shape, codes.dtype
    ((500, 2), dtype('int32'))
    """

    name = "residual_kmeans"

    def __init__(
        self,
        sizes: Sequence[int] = (256, 256, 256),
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

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Learn one codebook per level.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes.
        """
        rows = checked_vectors(vectors)
        check_sizes(self.sizes, len(rows), force=self.force)
        residual = rows[canonical_order(rows)].copy()
        self.codebooks_: list[Floats] = []
        for level, size in enumerate(self.sizes):
            codebook = _cluster(residual, size, self.iterations, self.seed + level, self.threads)
            self.codebooks_.append(codebook)
            residual -= codebook[_nearest(residual, codebook)]
        return self

    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``: the nearest codeword level by level, or the best of ``beam`` paths."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.codebooks_[0].shape[1])
        codes = np.empty((len(rows), len(self.sizes)), dtype=np.int32)
        step = max(1, _CELLS // (beam * max(self.sizes)))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            codes[start : start + step] = self._greedy(chunk) if beam == 1 else self._beam(chunk, beam)
        return codes

    def _greedy(self, rows: Floats) -> Codes:
        residual = rows.copy()
        codes = np.empty((len(rows), len(self.sizes)), dtype=np.int32)
        for level, codebook in enumerate(self.codebooks_):
            codes[:, level] = _nearest(residual, codebook)
            residual -= codebook[codes[:, level]]
        return codes

    def _beam(self, rows: Floats, beam: int) -> Codes:
        count, dim = rows.shape
        paths = np.empty((count, 1, 0), dtype=np.int32)
        residuals = rows[:, None, :]  # [n, paths, dim]
        for codebook in self.codebooks_:
            distance = _squared_distances(residuals.reshape(-1, dim), codebook).reshape(count, -1)
            kept = min(beam, distance.shape[1])
            best = np.argpartition(distance, kept - 1, axis=1)[:, :kept]
            order = np.argsort(np.take_along_axis(distance, best, axis=1), axis=1, kind="stable")
            best = np.take_along_axis(best, order, axis=1)
            path, code = np.divmod(best, len(codebook))
            paths = np.concatenate(
                [np.take_along_axis(paths, path[:, :, None], axis=1), code[:, :, None].astype(np.int32)], axis=2
            )
            residuals = np.take_along_axis(residuals, path[:, :, None], axis=1) - codebook[code]
        return paths[:, 0]

    def decode(self, codes: Codes) -> Floats:
        """Sum of the codewords, ``float32 [items, dim]``."""
        checked = int_codes(codes, self.sizes)
        total = np.zeros((len(checked), self.codebooks_[0].shape[1]), dtype=np.float32)
        for level, codebook in enumerate(self.codebooks_):
            total += codebook[checked[:, level]]
        return total

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``threads`` and ``force`` belong to the machine and the moment."""
        return {"sizes": list(self.sizes), "iterations": self.iterations, "seed": self.seed}

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""
        return {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
        self.codebooks_ = [tensors[f"codebook.{level}"].astype(np.float32) for level in range(len(self.sizes))]
        return self


def _cluster(rows: Floats, size: int, iterations: int, seed: int, threads: int) -> Floats:
    import faiss

    faiss.omp_set_num_threads(threads)
    dim = rows.shape[1]
    progressive = len(rows) > dim  # its PCA needs more rows than dimensions
    parameters: Any = faiss.ProgressiveDimClusteringParameters() if progressive else faiss.ClusteringParameters()
    parameters.seed, parameters.niter = seed, iterations
    parameters.min_points_per_centroid, parameters.max_points_per_centroid = 1, 2**31 // size
    clustering: Any
    if progressive:
        parameters.progressive_dim_steps = min(parameters.progressive_dim_steps, max(1, dim.bit_length() - 1))
        clustering = faiss.ProgressiveDimClustering(dim, size, parameters)
        clustering.train(len(rows), faiss.swig_ptr(rows), faiss.ProgressiveDimIndexFactory())
    else:
        clustering = faiss.Clustering(dim, size, parameters)
        clustering.train(rows, faiss.IndexFlatL2(dim))
    centroids = faiss.vector_to_array(clustering.centroids).reshape(size, dim)
    return np.ascontiguousarray(centroids, dtype=np.float32)


def _nearest(rows: Floats, codebook: Floats) -> npt.NDArray[np.int64]:
    nearest = np.empty(len(rows), dtype=np.int64)
    step = max(1, _CELLS // len(codebook))
    for start in range(0, len(rows), step):
        nearest[start : start + step] = _squared_distances(rows[start : start + step], codebook).argmin(axis=1)
    return nearest


def _squared_distances(rows: Floats, codebook: Floats) -> Floats:
    """``float32 [rows, codes]``.

    The last bits of a product depend on the shape of the batch. Computed in double and rounded once, they do not reach
    the result, so a row that lies between two codewords gets the same one in every batch: the first.
    """
    wide, words = rows.astype(np.float64), codebook.astype(np.float64)
    cross: Doubles = wide @ words.T
    cross *= -2
    cross += np.einsum("kd,kd->k", words, words)
    cross += np.einsum("nd,nd->n", wide, wide)[:, None]
    return cross.astype(np.float32)
