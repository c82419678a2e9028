"""Whitened views: every modality is whitened alone, and all stand side by side, for product quantization."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, Items, refuse_not_finite
from semantic_ids.encoders.moments import in_parts, moments
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.errors import FitError

_STEP = 2**14  # rows projected at once


class WhitenedViewsEncoder(Encoder):
    """PCA whitening of each modality, concatenated (CCFRec, arXiv 2503.12183, its codes).

    A view is a modality, such as the title, the brand and the description of an item, each embedded alone. Its vector is
    centred, projected on its first ``view_dim`` principal axes and divided by the standard deviation along each; an axis with
    less than ``floor`` of the first one's variance is divided by that of the floor, so that noise is not blown up. A view of
    fewer axes is filled up with zeros, and a view that an item lacks is zeros, its mean. With the quantizer ``pq`` and a
    number of codes that is a multiple of the views, every code belongs to one view; such codes are equal in rank.

    Parameters
    ----------
    view_dim : int
        Columns per view.
    floor : float
        Least variance of an axis, relative to the first one's.

    Attributes
    ----------
    modalities_ : tuple of str
        The modalities of the fit, in alphabetical order; ``("content",)`` for a plain array.
    mean_ : dict
        Mean of each view, ``float64 [columns]``.
    axes_ : dict
        Scaled axes of each view, ``float64 [columns, view_dim]``.
    output_dim : int
        Width of the vectors: views times ``view_dim``.
    n_features_in_ : int
        Number of columns of all modalities.

    References
    ----------
    CCFRec (arXiv 2503.12183), whose views have 128 columns and whose codes are 20 x 256.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ItemVectors, ProductQuantizer
    >>> from semantic_ids.encoders.whitened_views import WhitenedViewsEncoder
    >>> rng = np.random.default_rng(0)
    >>> views = {name: rng.normal(size=(400, 8)).astype("float32") for name in ("brand", "title")}
    >>> items = ItemVectors(views, {name: np.ones(400, bool) for name in views})
    >>> vectors = WhitenedViewsEncoder(view_dim=4).fit_transform(items)
    >>> vectors.shape, ProductQuantizer(sizes=(8, 8, 8, 8)).fit_transform(vectors).shape
    ((400, 8), (400, 4))
    """

    name = "whitened_views"

    def __init__(self, view_dim: int = 32, floor: float = 1e-3) -> None:
        self.view_dim = view_dim
        self.floor = floor

    def fit(self, items: Items, pairs: Pairs = None) -> Self:
        """Learn the mean and the scaled axes of every view.

        Raises
        ------
        FitError
            When no item has a view, a vector is not finite, or an argument is out of range.
        """
        if self.view_dim < 1 or not 0 < self.floor <= 1:
            raise FitError(
                f"expected view_dim of at least 1 and floor above 0 and at most 1, got {self.view_dim} and {self.floor}"
            )
        items = ItemVectors.of(items)
        self.modalities_ = tuple(sorted(items.matrices))
        self.mean_: dict[str, Doubles] = {}
        self.axes_: dict[str, Doubles] = {}
        for name in self.modalities_:
            if not items.present[name].any():
                raise FitError(f"no item known at the cut-off has a vector of modality {name!r}; remove the modality")
            refuse_not_finite(items.only([name]))
            self._learn_view(items, name)
        return self

    def _learn_view(self, items: ItemVectors, name: str) -> None:
        held = in_parts(items, lambda part: part.matrices[name][part.present[name]])
        self.mean_[name], covariance = moments(lambda: (rows for _, rows in held()))
        largest = max(float(np.abs(rows - self.mean_[name]).max(initial=0)) ** 2 for _, rows in held())
        self.axes_[name] = self._scaled_axes(covariance, largest)

    def _scaled_axes(self, covariance: Doubles, largest: float) -> Doubles:
        """Axes over the root of their variances; zeros if these are rounding beside the ``largest`` squared element."""
        variance, axes = np.linalg.eigh(covariance)
        order = np.argsort(-variance, kind="stable")[: self.view_dim]
        variance, axes = np.maximum(variance[order], 0.0), axes[:, order]
        axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
        scaled = np.zeros((len(axes), self.view_dim))
        if variance[0] > 1e-12 * max(largest, 1e-300):
            scaled[:, : len(order)] = axes / np.sqrt(np.maximum(variance, self.floor * variance[0]))
        return scaled

    def encode(self, items: Items) -> Floats:
        """Vectors ``float32 [items, views * view_dim]``; zeros for a view that an item lacks.

        Raises
        ------
        FitError
            When it is not fitted, modalities or widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted()
        items = self._items_like_fit(items, {name: len(mean) for name, mean in self.mean_.items()})
        vectors = np.zeros((len(items), self.output_dim), dtype=np.float32)
        for place, part in items.blocks(_STEP):
            for at, name in enumerate(self.modalities_):
                there = part.present[name]
                whitened = (part.matrices[name][there].astype(np.float64) - self.mean_[name]) @ self.axes_[name]
                columns = slice(at * self.view_dim, (at + 1) * self.view_dim)
                # Clipped, so that products of extreme later vectors stay finite.
                vectors[place, columns][there] = np.clip(whitened, -1e6, 1e6)
        return vectors

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return len(self.modalities_) * self.view_dim

    @property
    def views(self) -> dict[str, tuple[int, int]]:
        """Half-open range of the vectors' columns by modality."""
        width = self.view_dim
        return {name: (at * width, (at + 1) * width) for at, name in enumerate(self.modalities_)}

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        parts = {"mean": self.mean_, "axes": self.axes_}
        return {f"{part}.{name}": arrays[name] for part, arrays in parts.items() for name in self.modalities_}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.mean_ = {key[5:]: value.astype(np.float64) for key, value in tensors.items() if key.startswith("mean.")}
        self.axes_ = {key[5:]: value.astype(np.float64) for key, value in tensors.items() if key.startswith("axes.")}
        self.modalities_ = tuple(sorted(self.mean_))
        return self
