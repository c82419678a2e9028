"""Optimized product quantization: a learned rotation followed by product quantization."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.quantizers.base import checked_vectors
from semantic_ids.quantizers.kmeans import cluster, refine
from semantic_ids.quantizers.nearest import nearest
from semantic_ids.quantizers.pq import ProductQuantizer
from sidkit.core.arrays import Codes, Doubles, Floats

_STEP = 2**14  # rows rotated at once
_SAMPLE = 2**16  # rows that the rotation is learned on
_ALTERNATIONS = 20


class OptimizedProductQuantizer(ProductQuantizer):
    """Product quantization of rotated vectors (Ge et al., Optimized Product Quantization, 2013).

    Minimises ``sum_i ||R x_i - c(R x_i)||^2`` over orthogonal ``R`` and the codebooks. The rotation starts from the
    principal axes, allocated so that the parts have equal products of variances (section 3.2), and is optimised in
    alternation with the codebooks (section 3.1, the non-parametric solution); at the end the parts are clustered again on
    all rows. The rotation is saved with the codebooks and orthogonal to double precision. Rows are rotated in double
    precision and rounded once, so codes do not depend on the batch and ``encode(decode(codes)) == codes``.

    Parameters
    ----------
    sizes, iterations, seed, threads, force
        As for :class:`~semantic_ids.quantizers.pq.ProductQuantizer`.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per part.
    codebooks_ : list of ndarray
        Codewords of each part of the rotated vectors, ``float32 [codes, dim / parts]``.
    rotation_ : ndarray
        ``float64 [dim, dim]``, orthogonal; applied as ``rows @ rotation_``.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    Ge, He, Ke, Sun: Optimized Product Quantization, CVPR 2013, sections 3.1 and 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import OptimizedProductQuantizer
    >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> quantizer = OptimizedProductQuantizer(sizes=(16, 16)).fit(x)
    >>> quantizer.transform(x).shape
    (1000, 2)
    >>> bool(np.allclose(quantizer.rotation_ @ quantizer.rotation_.T, np.eye(8)))
    True
    """

    name = "opq"

    def _prepared(self, rows: Floats, sizes: tuple[int, ...]) -> Floats:
        self.rotation_ = _rotation(rows, sizes, self.seed, self.threads)
        return _rotated(rows, self.rotation_)

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, parts]``: the nearest codeword of each part; ``beam`` has no effect."""
        self._refuse_unfitted()
        rows = checked_vectors(vectors, self._dim)
        codes = np.empty((len(rows), len(self.sizes_)), dtype=np.int32)
        for start in range(0, len(rows), _STEP):
            rotated = _rotated(rows[start : start + _STEP], self.rotation_)
            codes[start : start + _STEP] = super().encode(rotated, beam=beam)
        if not len(rows):
            super().encode(rows, beam=beam)  # checks the beam width
        return codes

    def decode(self, codes: Codes) -> Floats:
        """The concatenated codewords, rotated back, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return _rotated(super().decode(codes), self.rotation_.T)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays, with the rotation (``float64 [dim, dim]``, applied as ``rows @ rotation``)."""
        return {**super().tensors(), "rotation": self.rotation_}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.rotation_ = tensors["rotation"].astype(np.float64)
        return super().load_tensors(tensors)


def _rotation(rows: Floats, sizes: tuple[int, ...], seed: int, threads: int) -> Doubles:
    """Learn the rotation, orthogonal ``float64 [dim, dim]``, on at most 2**16 evenly spaced rows."""
    sample = np.ascontiguousarray(rows[:: -(-len(rows) // _SAMPLE)])
    if len(sample) < max(sizes):
        sample = rows
    rotation = _allocated_principal_axes(sample, len(sizes))
    books: list[Floats] = []
    for _ in range(_ALTERNATIONS):
        parts = [np.ascontiguousarray(part) for part in np.split(_rotated(sample, rotation), len(sizes), axis=1)]
        if books:
            books = [refine(part, book, 1, seed, threads) for part, book in zip(parts, books, strict=True)]
        else:
            books = [cluster(part, size, 5, seed, threads) for part, size in zip(parts, sizes, strict=True)]
        words = np.concatenate([book[nearest(part, book)] for part, book in zip(parts, books, strict=True)], axis=1)
        left, _, right = np.linalg.svd(sample.T.astype(np.float64) @ words.astype(np.float64))
        rotation = left @ right
    return np.ascontiguousarray(rotation, dtype=np.float64)


def _allocated_principal_axes(rows: Floats, parts: int) -> Doubles:
    """Eigenvalue allocation: each axis goes to the part with the lowest product of variances (Ge et al. 2013, 3.2)."""
    wide = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    variance, axes = np.linalg.eigh(wide.T @ wide)
    dim = rows.shape[1]
    weight = np.log(np.maximum(variance, 1e-12 * max(variance.max(), 1e-300)))
    weight -= weight.min()
    load = np.zeros(parts)
    members: list[list[int]] = [[] for _ in range(parts)]
    for axis in range(dim - 1, -1, -1):
        part = min((at for at in range(parts) if len(members[at]) < dim // parts), key=lambda at: load[at])
        members[part].append(axis)
        load[part] += weight[axis]
    return axes[:, [axis for part in members for axis in part]]


def _rotated(rows: Floats, rotation: Doubles) -> Floats:
    rotated: Floats = (rows.astype(np.float64) @ rotation).astype(np.float32)
    return rotated
