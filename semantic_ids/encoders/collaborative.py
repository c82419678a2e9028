"""Collaborative vectors that every item can have: what content says of where an item would lie among co-clicks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, usable_pairs
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError, TooFewPairsError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


_DENSE_BELOW = 500  # items up to which the exact SVD is as fast
_NO_SPREAD = 1e-9


class CollaborativeEncoder(Encoder):
    """Co-occurrence within the window, factorised, and regressed on content.

    The pairs make a symmetric matrix of weights; its shifted positive pointwise mutual information
    ``max(log(w_ij * total / (w_i * w_j)) - log(shift), 0)`` (Levy and Goldberg, NIPS 2014) is factorised by truncated
    SVD, ``U * sqrt(S)``. A ridge regression predicts these vectors from content, on the items that have any, each
    weighted by its evidence ``w_i / (w_i + median w)``. **Every** item gets the prediction, those with pairs too: a true
    collaborative vector that cold items lack would put "is cold" into the codes.

    Parameters
    ----------
    dim : int
        Dimensions of the collaborative part; fewer where the pairs have fewer.
    with_content : bool
        Put content beside it, both scaled to the same spread.
    content_dim : int
        Dimensions of that content.
    input_dim : int
        Principal axes of content that the regression sees.
    shift : float
        By which co-occurrence must exceed chance, at least 1.
    ridge : float
        Strength of the regression's penalty, relative to the evidence; also that of :class:`ContentEncoder`.
    seed : int
        Of the start vector of the sparse SVD.
    """

    name = "collaborative"
    needs_pairs = True

    def __init__(
        self,
        dim: int = 64,
        with_content: bool = False,
        content_dim: int = 64,
        input_dim: int = 256,
        shift: float = 1.0,
        ridge: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.dim = dim
        self.with_content = with_content
        self.content_dim = content_dim
        self.input_dim = input_dim
        self.shift = shift
        self.ridge = ridge
        self.seed = seed

    def fit(self, items: ItemVectors, pairs: ItemPairs | None = None) -> Self:
        """Learn from pairs of rows of ``items``.

        Raises
        ------
        FitError
            When there are no pairs, none occurs more often than chance, an argument is out of range, or the content
            cannot be used.
        """
        for name in ("dim", "content_dim", "input_dim", "shift"):
            if not 1 <= getattr(self, name) < np.inf:
                raise FitError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        pairs = usable_pairs(self.name, items, pairs)
        content = ContentEncoder(max(self.input_dim, self.content_dim), self.ridge).fit(items)
        seen = content.encode(items).astype(np.float64)
        present = items.any_present
        matrix, strength = shifted_ppmi(pairs, len(items), self.shift)
        having = np.flatnonzero(matrix.sum(axis=1) > 0)
        if len(having) < 2:
            raise TooFewPairsError(
                f"none of the {len(pairs)} pairs occurs more often than {self.shift:g} times chance; lower shift, mine more "
                "pairs, or use the encoder 'content'"
            )
        known = truncated_svd(matrix[having][:, having], self.dim, self.seed)
        evidence = strength[having] / (strength[having] + np.median(strength[having]))
        bridge = _ridge(seen[having, : self.input_dim], known, evidence, self.ridge)
        centre = seen[present].mean(axis=0)
        blocks = [np.zeros((seen.shape[1], known.shape[1]))]
        blocks[0][: self.input_dim] = bridge
        if self.with_content:
            blocks.append(np.eye(seen.shape[1], min(self.content_dim, seen.shape[1])))
        moved = seen[present] - centre
        scaled = [block * _to_one_spread(moved @ block) for block in blocks]
        self.content_ = content
        self.modalities_ = content.modalities_
        self.centre_: Floats = centre.astype(np.float32)
        self.matrix_: Floats = np.hstack(scaled).astype(np.float32)
        return self

    def encode(self, items: ItemVectors) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality.

        Raises
        ------
        FitError
            When it is not fitted, the modalities or their widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted("matrix_")
        moved = self.content_.encode(items).astype(np.float64) - self.centre_
        vectors = (moved @ self.matrix_.astype(np.float64)).astype(np.float32)
        vectors[~items.any_present] = 0
        return vectors

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return int(self.matrix_.shape[1])

    @property
    def content_columns(self) -> tuple[int, int]:
        """Content stands last, where it stands beside what is regressed."""
        beside = min(self.content_dim, self.matrix_.shape[0]) if self.with_content else 0
        return (self.output_dim - beside, self.output_dim)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        return {
            "dim": self.dim,
            "with_content": self.with_content,
            "content_dim": self.content_dim,
            "input_dim": self.input_dim,
            "shift": self.shift,
            "ridge": self.ridge,
            "seed": self.seed,
        }

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state; the collaborative vectors themselves are no part of it."""
        return {
            "centre": self.centre_,
            "matrix": self.matrix_,
            **{f"content.{key}": value for key, value in self.content_.tensors().items()},
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
        self.centre_ = tensors["centre"].astype(np.float32)
        self.matrix_ = tensors["matrix"].astype(np.float32)
        self.content_ = ContentEncoder(max(self.input_dim, self.content_dim), self.ridge).load_tensors(
            tensors_under(tensors, "content.")
        )
        self.modalities_ = self.content_.modalities_
        return self


def shifted_ppmi(pairs: ItemPairs, items: int, shift: float) -> tuple[csr_array, Doubles]:
    """The shifted positive PMI, sparse ``[items, items]`` and symmetric, and the weight ``w_i`` of each item.

    Weights count in both directions, so a pair that was mined both ways counts with both.
    """
    from scipy.sparse import coo_array, csr_array

    one_way = coo_array((pairs.weight.astype(np.float64), (pairs.trigger, pairs.target)), shape=(items, items)).tocsr()
    both = (one_way + one_way.T).tocoo()
    strength = np.asarray(both.sum(axis=1)).ravel()
    rows, columns = both.coords
    told = np.log(both.data * strength.sum() / (strength[rows] * strength[columns])) - np.log(shift)
    above = told > 0
    return csr_array((told[above], (rows[above], columns[above])), shape=(items, items)), strength


def truncated_svd(matrix: csr_array, dim: int, seed: int = 0) -> Doubles:
    """``U * sqrt(S)`` ``float64 [items, at most dim]``, strongest first; the largest entry of a column is positive."""
    from scipy.sparse.linalg import svds

    items = matrix.shape[0]
    kept = min(dim, items - 1)
    if items <= _DENSE_BELOW or kept > items // 4:
        left, values, _ = np.linalg.svd(matrix.toarray())
        left, values = left[:, :kept], values[:kept]
    else:
        start = np.random.default_rng(seed).normal(size=items)
        left, values, _ = svds(matrix, k=kept, v0=start, return_singular_vectors="u")
        order = np.argsort(values)[::-1]
        left, values = left[:, order], values[order]
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(kept)])
    return np.asarray(left * signs * np.sqrt(np.maximum(values, 0)))


def _ridge(x: Doubles, y: Doubles, weight: Doubles, ridge: float) -> Doubles:
    """Coefficients ``float64 [columns of x, columns of y]`` of a weighted ridge regression with an intercept."""
    x, y = (values - np.average(values, axis=0, weights=weight) for values in (x, y))
    gram = x.T @ (x * weight[:, None])
    penalty = ridge * np.trace(gram) / len(gram)
    if penalty == 0:
        return np.asarray(np.linalg.lstsq(gram, x.T @ (y * weight[:, None]), rcond=None)[0])
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ (y * weight[:, None])))


def _to_one_spread(rows: Doubles) -> float:
    """The factor that makes the total variance 1; 0 where nothing varies."""
    spread = float(np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()))
    return 1 / spread if spread > _NO_SPREAD else 0.0
