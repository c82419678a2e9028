"""Attribute graph: content propagated over the attributes that items share, so that a new item is placed without training."""

from __future__ import annotations

from dataclasses import fields
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, Items, refuse_not_finite
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError

_ROWS_AT_ONCE = 16_384


class AttributeGraphEncoder(Encoder):
    """One graph convolution over the bipartite graph of items and attributes (ColdGPT, arXiv 2306.14462).

    One modality holds the attributes of an item, one column per attribute (``sidkit data embed --attributes``): a positive
    number is an edge. The others are its content, standardised by :class:`ContentEncoder`. A network of three layers maps the
    content x of a node to h; items and attributes share it. With degrees d that count a self-loop,

        H_i = h_i / d_i + sum_a h_a / sqrt(d_i d_a)        H_a = h_a / d_a + sum_i h_i / sqrt(d_a d_i)

    Training pulls the two ends of an edge together, and items, and attributes, apart: the sum of ``mean ||n(H_i) -
    n(H_a)||^2`` over edges and of ``log mean_{j != k} exp(-2 ||n(H_j) - n(H_k)||^2)`` over items and over attributes, with n
    the vector of length 1. The authors' tasks on purchases and reviews are left out: this encoder learns from no click.

    Attributes have no text here, as they have in the paper: the content of an attribute is the mean of that of its items, and
    all are scaled to the mean length of items, since means of many are short. The
    degrees and the vectors of attributes are those of the fit. A new item is its own content and attributes, propagated, and
    changes the vector of no other item; attributes that no item of the fit had are ignored.

    Parameters
    ----------
    attributes : str
        The modality of attributes. If it is the only one, it is the content too.
    dim : int
        Width of the vectors.
    input_dim : int
        Number of principal components of content used as input.
    ridge : float
        Passed to :class:`ContentEncoder`.
    steps : int
        Maximum number of training steps.
    items_per_step : int
        Items of a step, a sample, with the attributes that they have.
    patience : int
        Training stops after so many evaluations, one every 10 steps, without an improvement of the loss by 0.001.
    learning_rate, weight_decay : float
        Of AdamW.
    seed : int
        Random seed.
    threads : int
        Torch threads during ``fit``; not saved in codebooks. A different number can change the last bits.

    Attributes
    ----------
    modalities_ : tuple of str
        The modalities of the fit, in alphabetical order.
    content_ : ContentEncoder
        The fitted encoder of the content.
    layers_ : tuple of ndarray
        Weights and biases of the three layers, ``float32``.
    passed_ : ndarray
        What an attribute passes on, ``h_a / sqrt(d_a)``, ``float32 [attributes, dim]``; zeros for one without items.
    curve_ : tuple of float
        The loss at each evaluation.
    output_dim : int
        Width of the vectors.
    n_features_in_ : int
        Number of columns of all modalities.

    References
    ----------
    ColdGPT (arXiv 2306.14462), sections 3 and 4; Wang, Isola: Understanding Contrastive Representation Learning through
    Alignment and Uniformity (arXiv 2005.10242), for the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ItemVectors
    >>> from semantic_ids.encoders.attribute_graph import AttributeGraphEncoder
    >>> rng = np.random.default_rng(0)
    >>> views = {"text": rng.normal(size=(200, 16)), "attributes": rng.random((200, 12)) < 0.2}
    >>> items = ItemVectors({k: v.astype("float32") for k, v in views.items()}, {k: np.ones(200, bool) for k in views})
    >>> AttributeGraphEncoder(dim=8, steps=20).fit_transform(items).shape
    (200, 8)
    """

    name = "attribute_graph"

    def __init__(
        self,
        attributes: str = "attributes",
        dim: int = 64,
        input_dim: int = 64,
        ridge: float = 0.1,
        steps: int = 300,
        items_per_step: int = 1024,
        patience: int = 5,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.attributes = attributes
        self.dim = dim
        self.input_dim = input_dim
        self.ridge = ridge
        self.steps = steps
        self.items_per_step = items_per_step
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.threads = threads

    def fit(self, items: Items, pairs: Pairs = None) -> Self:
        """Learn the network, and keep what every attribute passes on.

        Raises
        ------
        FitError
            When there is no modality of attributes, no item has any, an argument is out of range, or the content cannot be
            used.
        """
        self._check_arguments()
        items = ItemVectors.of(items)
        if self.attributes not in items.matrices:
            raise FitError(
                f"attribute_graph expects a modality {self.attributes!r} with one column per attribute, got "
                f"{', '.join(sorted(items.matrices))}; write it with `sidkit data embed SOURCE --attributes COLUMNS`, or name "
                "another one (attributes)"
            )
        refuse_not_finite(items.only([self.attributes]))
        edges = self._edges(items)
        if not edges.any():
            raise FitError(
                f"no item known at the cut-off has an attribute in {self.attributes!r}; use the encoder content"
            )
        from semantic_ids.encoders.attribute_graph_training import GraphTraining, train

        content = ContentEncoder(self.input_dim, self.ridge).fit(self._content(items))
        x = content.encode(self._content(items))
        there = items.any_present
        training = GraphTraining(**{field.name: getattr(self, field.name) for field in fields(GraphTraining)})
        of_attributes = _content_of_attributes(x, edges)
        learned = train(training, x[there], of_attributes, edges[there])
        self.content_, self.modalities_ = content, tuple(sorted(items.matrices))
        self.layers_, self.curve_ = learned.layers, learned.curve
        degree = 1.0 + edges.sum(axis=0)
        passed = self._network(of_attributes.astype(np.float64)) / np.sqrt(degree)[:, None]
        passed[degree == 1.0] = 0.0
        self.passed_: Floats = passed.astype(np.float32)
        return self

    def encode(self, items: Items) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality.

        Raises
        ------
        FitError
            When it is not fitted, modalities or widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted()
        items = self._items_like_fit(items, self._widths(self.as_items(items)))
        content = self.content_.encode(self._content(items))
        vectors = np.zeros((len(items), self.output_dim), dtype=np.float32)
        known = self.passed_.any(axis=1)
        for start in range(0, len(items), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            edges = self._edges(items.rows(part)) & known
            degree = 1.0 + edges.sum(axis=1, dtype=np.float64)[:, None]
            # A sum per item over its attributes in order, so that it does not depend on the other items of the batch.
            row, attribute = np.nonzero(edges)
            propagated = np.zeros((len(edges), self.output_dim))
            np.add.at(propagated, row, self.passed_[attribute].astype(np.float64))
            own = self._network(content[part].astype(np.float64))
            vectors[part] = own / degree + propagated / np.sqrt(degree)
        vectors[~items.any_present] = 0
        return vectors

    def _edges(self, items: ItemVectors) -> npt.NDArray[np.bool_]:
        """Whether an item has an attribute, ``bool [items, attributes]``."""
        edges: npt.NDArray[np.bool_] = items.matrices[self.attributes] > 0
        return edges & items.present[self.attributes][:, None]

    def _content(self, items: ItemVectors) -> ItemVectors:
        """The modalities besides the attributes; the attributes themselves if there are no others."""
        others = [name for name in items.matrices if name != self.attributes]
        return items.only(others) if others else items

    def _widths(self, items: ItemVectors) -> dict[str, int]:
        """Widths of the modalities at the fit; those that the content's encoder checks are as given."""
        return {name: matrix.shape[1] for name, matrix in items.matrices.items()} | {self.attributes: len(self.passed_)}

    def _network(self, rows: Doubles) -> Doubles:
        """``h``, in double precision and row by row, so that it does not depend on the batch."""
        for place in range(0, len(self.layers_), 2):
            weight, bias = self.layers_[place].astype(np.float64), self.layers_[place + 1].astype(np.float64)
            rows = np.einsum("nk,kd->nd", rows, weight) + bias
            if place + 2 < len(self.layers_):
                rows = np.where(rows > 0, rows, np.expm1(np.minimum(rows, 0)))
        return rows

    def _check_arguments(self) -> None:
        for name in ("dim", "input_dim", "steps", "patience", "threads"):
            if getattr(self, name) < 1:
                raise FitError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.items_per_step < 2:
            raise FitError(f"items_per_step must be at least 2, so that items differ, got {self.items_per_step}")
        if not 0 < self.learning_rate < np.inf:
            raise FitError(f"learning_rate must be a finite number above 0, got {self.learning_rate}")

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return int(self.passed_.shape[1])

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {
            **{f"layer.{place}": each for place, each in enumerate(self.layers_)},
            "passed": self.passed_,
            "curve": np.array(self.curve_, dtype=np.float64),
            **{f"content.{key}": value for key, value in self.content_.tensors().items()},
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        layers = tensors_under(tensors, "layer.")
        self.layers_ = tuple(layers[str(place)].astype(np.float32) for place in range(len(layers)))
        self.passed_ = tensors["passed"].astype(np.float32)
        self.curve_ = tuple(tensors["curve"].astype(np.float64).tolist())
        self.content_ = ContentEncoder(self.input_dim, self.ridge).load_tensors(tensors_under(tensors, "content."))
        self.modalities_ = tuple(sorted({*self.content_.modalities_, self.attributes}))
        return self


def _content_of_attributes(content: Floats, edges: npt.NDArray[np.bool_]) -> Floats:
    """Mean content ``float32 [attributes, width]`` of the items of each attribute, scaled to the mean square of items."""
    mean: Floats = edges.T.astype(np.float32) @ content / np.maximum(edges.sum(axis=0), 1).astype(np.float32)[:, None]
    used = edges.any(axis=0)
    square = float(np.square(mean[used]).sum(axis=1).mean())
    scale = np.sqrt(np.square(content).sum(axis=1).mean() / square) if square > 0 else 1.0
    return np.asarray(mean * np.float32(scale), dtype=np.float32)
