"""Collaborative encoder: predict an item's co-click embedding from its content, so that cold items have one too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, Items, usable_pairs
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError, TooFewPairsError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


_DENSE_BELOW = 500  # items up to which the exact SVD is as fast
_NO_SPREAD = 1e-9


class CollaborativeEncoder(Encoder):
    """Factorised co-occurrence, regressed on content.

    The pair weights form a symmetric matrix; its shifted positive pointwise mutual information
    ``max(log(w_ij * total / (w_i * w_j)) - log(shift), 0)`` (Levy and Goldberg, NIPS 2014) is factorised by truncated
    SVD, ``U * sqrt(S)``. A ridge regression, weighted by ``w_i / (w_i + median w)``, predicts these vectors from content.
    **Every** item gets the prediction, including items with pairs: cold items have no co-click vector, so using the
    vectors themselves would encode coldness into the codes.

    Parameters
    ----------
    dim : int
        Dimension of the collaborative part; smaller if the pairs have a lower rank.
    with_content : bool
        Concatenate content, with both parts scaled to the same total variance.
    content_dim : int
        Dimension of the concatenated content.
    input_dim : int
        Number of principal components of content used by the regression.
    shift : float
        Factor by which co-occurrence must exceed chance, at least 1.
    ridge : float
        Ridge penalty, relative to the sample weights; also passed to :class:`ContentEncoder`.
    seed : int
        Seed of the sparse SVD's start vector.

    Attributes
    ----------
    modalities_ : tuple of str
        The modalities of the fit, in alphabetical order.
    content_ : ContentEncoder
        The fitted encoder of the input.
    centre_, matrix_ : ndarray
        The linear map of content vectors, ``float32 [width]`` and ``[width, dim]``.
    output_dim : int
        Width of the vectors.
    n_features_in_ : int
        Number of columns of all modalities.

    References
    ----------
    Levy, Goldberg: Neural Word Embedding as Implicit Matrix Factorization, NIPS 2014, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import CollaborativeEncoder
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 16)).astype("float32")
    >>> trigger = rng.integers(0, 200, 1000)
    >>> pairs = np.stack([trigger, (trigger + rng.integers(1, 200, 1000)) % 200], axis=1)
    >>> CollaborativeEncoder(dim=8).fit_transform(x, pairs).shape
    (200, 8)
    """

    name = "collaborative"
    needs_pairs = True
    modules = ("scipy",)

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

    def fit(self, items: Items, pairs: Pairs = None) -> Self:
        """Fit on ``items`` and on pairs of them.

        Raises
        ------
        FitError
            When there are no pairs, no pair occurs more often than chance, an argument is out of range, or the content
            cannot be used.
        """
        for name in ("dim", "content_dim", "input_dim", "shift"):
            if not 1 <= getattr(self, name) < np.inf:
                raise FitError(f"{name} must be at least 1, got {getattr(self, name)}")
        items = ItemVectors.of(items)
        pairs = usable_pairs(self.name, items, pairs)
        content = ContentEncoder(max(self.input_dim, self.content_dim), self.ridge).fit(items)
        features = content.encode(items).astype(np.float64)
        present = items.any_present
        matrix, strength = shifted_ppmi(pairs, len(items), self.shift)
        paired = np.flatnonzero(matrix.sum(axis=1) > 0)
        if len(paired) < 2:
            raise TooFewPairsError(
                f"none of the {len(pairs)} pairs occurs more often than {self.shift:g} times chance; lower shift, mine more "
                "pairs, or use the encoder 'content'"
            )
        factors = truncated_svd(matrix[paired][:, paired], self.dim, self.seed)
        sample_weight = strength[paired] / (strength[paired] + np.median(strength[paired]))
        slope = _ridge(features[paired, : self.input_dim], factors, sample_weight, self.ridge)
        centre = features[present].mean(axis=0)
        blocks = [np.zeros((features.shape[1], factors.shape[1]))]
        blocks[0][: self.input_dim] = slope
        if self.with_content:
            blocks.append(np.eye(features.shape[1], min(self.content_dim, features.shape[1])))
        centred = features[present] - centre
        scaled = [block * _to_unit_variance(centred @ block) for block in blocks]
        self.content_ = content
        self.modalities_ = content.modalities_
        self.centre_: Floats = centre.astype(np.float32)
        self.matrix_: Floats = np.hstack(scaled).astype(np.float32)
        return self

    def encode(self, items: Items) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality.

        Raises
        ------
        FitError
            When it is not fitted, modalities or widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted()
        items = self.as_items(items)
        centred = self.content_.encode(items).astype(np.float64) - self.centre_
        vectors = (centred @ self.matrix_.astype(np.float64)).astype(np.float32)
        vectors[~items.any_present] = 0
        return vectors

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return int(self.matrix_.shape[1])

    @property
    def content_columns(self) -> tuple[int, int]:
        """The columns of the concatenated content, which come last; an empty range without ``with_content``."""
        width = min(self.content_dim, self.matrix_.shape[0]) if self.with_content else 0
        return (self.output_dim - width, self.output_dim)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays; the co-click vectors themselves are not saved."""
        return {
            "centre": self.centre_,
            "matrix": self.matrix_,
            **{f"content.{key}": value for key, value in self.content_.tensors().items()},
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.centre_ = tensors["centre"].astype(np.float32)
        self.matrix_ = tensors["matrix"].astype(np.float32)
        self.content_ = ContentEncoder(max(self.input_dim, self.content_dim), self.ridge).load_tensors(
            tensors_under(tensors, "content.")
        )
        self.modalities_ = self.content_.modalities_
        return self


def shifted_ppmi(pairs: ItemPairs, items: int, shift: float) -> tuple[csr_array, Doubles]:
    """Shifted positive PMI, a sparse symmetric ``[items, items]`` matrix, and the total weight ``w_i`` of each item.

    Weights are added in both directions, so a pair mined both ways counts twice.
    """
    from scipy.sparse import coo_array, csr_array

    one_way = coo_array((pairs.weight.astype(np.float64), (pairs.trigger, pairs.target)), shape=(items, items)).tocsr()
    both = (one_way + one_way.T).tocoo()
    strength = np.asarray(both.sum(axis=1)).ravel()
    rows, columns = both.coords
    shifted_pmi = np.log(both.data * strength.sum() / (strength[rows] * strength[columns])) - np.log(shift)
    above = shifted_pmi > 0
    return csr_array((shifted_pmi[above], (rows[above], columns[above])), shape=(items, items)), strength


def truncated_svd(matrix: csr_array, dim: int, seed: int = 0) -> Doubles:
    """``U * sqrt(S)``, ``float64 [items, at most dim]``, largest singular value first; signs are fixed per column."""
    from scipy.sparse.linalg import svds

    items = matrix.shape[0]
    rank = min(dim, items - 1)
    if items <= _DENSE_BELOW or rank > items // 4:
        left, values, _ = np.linalg.svd(matrix.toarray())
        left, values = left[:, :rank], values[:rank]
    else:
        start = np.random.default_rng(seed).normal(size=items)
        left, values, _ = svds(matrix, k=rank, v0=start, return_singular_vectors="u")
        order = np.argsort(values)[::-1]
        left, values = left[:, order], values[order]
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    return np.asarray(left * signs * np.sqrt(np.maximum(values, 0)))


def _ridge(x: Doubles, y: Doubles, weight: Doubles, ridge: float) -> Doubles:
    """Coefficients ``float64 [columns of x, columns of y]`` of a weighted ridge regression with an intercept."""
    x, y = (values - np.average(values, axis=0, weights=weight) for values in (x, y))
    gram = x.T @ (x * weight[:, None])
    penalty = ridge * np.trace(gram) / len(gram)
    if penalty == 0:
        return np.asarray(np.linalg.lstsq(gram, x.T @ (y * weight[:, None]), rcond=None)[0])
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ (y * weight[:, None])))


def _to_unit_variance(rows: Doubles) -> float:
    """The factor that scales the total variance to 1; 0 for constant rows."""
    spread = float(np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()))
    return 1 / spread if spread > _NO_SPREAD else 0.0
