"""Content encoder: standardise the modalities, impute missing ones from the others, and reduce with PCA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, Items, refuse_not_finite
from semantic_ids.encoders.moments import Parts, in_parts, moments, regression
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError

_NO_SPREAD = 1e-5  # relative spread below which a modality is constant up to float32 rounding
_LEAST_SPREAD = 1e-30  # below it 1 / spread overflows float32
_FIT_ITEMS = 2**17
_LEAST_PRESENT = 1_000  # items of a modality that a sample must have
_SQUARED_ROWS = 16_384
_FURTHEST = 1e6
"""Standardised elements are clipped to +- this, so that products of extreme later vectors stay finite."""


class ContentEncoder(Encoder):
    """Standardised, imputed and PCA-reduced content.

    Each modality is centred and divided by its total standard deviation, so that modalities of different width have
    equal weight, then weighted by the square root of its coverage. A missing modality is imputed by ridge regression on
    the item's other modalities (fitted on items that have both), so that missingness does not become a direction of the
    space. The concatenated vector is reduced by PCA. ``fit`` learns from a random sample of 2**17 items if there are more,
    unless a modality is too rare for the sample.

    Parameters
    ----------
    dim : int
        Output dimension; smaller if the content has fewer dimensions.
    ridge : float
        Ridge penalty, relative to the number of items the regression is fitted on.

    Attributes
    ----------
    modalities_ : tuple of str
        The modalities of the fit, in alphabetical order; ``("content",)`` for a plain array.
    axes_ : ndarray
        The principal axes, ``float32 [columns of all modalities, dim]``.
    output_dim : int
        Width of the vectors.
    n_features_in_ : int
        Number of columns of all modalities.

    References
    ----------
    Jolliffe: Principal Component Analysis, 2nd edition 2002, chapters 2 and 3. The weighting of the modalities and the
    imputation are ours.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ContentEncoder, ItemVectors
    >>> text = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    >>> ContentEncoder(dim=4).fit_transform(text).shape
    (50, 4)

    Two modalities, of which only 30 items have the second one:

    >>> image, has_image = np.random.default_rng(1).normal(size=(50, 3)).astype("float32"), np.arange(50) < 30
    >>> image[~has_image] = 0
    >>> items = ItemVectors({"text": text, "image": image}, {"text": np.ones(50, bool), "image": has_image})
    >>> encoder = ContentEncoder(dim=4).fit(items)
    >>> encoder.transform(items).shape, encoder.modalities_
    ((50, 4), ('image', 'text'))
    """

    name = "content"

    def __init__(self, dim: int = 64, ridge: float = 0.1) -> None:
        self.dim = dim
        self.ridge = ridge

    def fit(self, items: Items, pairs: Pairs = None) -> Self:
        """Learn means, scales, regressions and principal axes.

        Raises
        ------
        FitError
            When no item has a modality, a vector is not finite, or ``dim`` is below 1.
        """
        if self.dim < 1:
            raise FitError(f"dim must be at least 1, got {self.dim}")
        items = _sample(ItemVectors.of(items))
        self.modalities_ = tuple(sorted(items.matrices))
        self.mean_: dict[str, Floats] = {}
        self.scale_: dict[str, float] = {}
        for name in self.modalities_:
            if not items.present[name].any():
                raise FitError(f"no item known at the cut-off has a vector of modality {name!r}; remove the modality")
        refuse_not_finite(items)
        for name in self.modalities_:
            self._learn_scale(items, name)
        centred = in_parts(items, self._centred)
        self.bridges_ = self._fit_bridges(centred)
        mean, covariance = moments(
            lambda: (self._joined(vectors, part)[part.any_present] for part, vectors in centred())
        )
        self.centre_ = mean.astype(np.float32)
        values, axes = np.linalg.eigh(covariance)
        leading = np.argsort(values)[::-1][: min(self.dim, int(items.any_present.sum()) - 1)]
        axes = axes[:, leading]
        # The sign of an axis is arbitrary; fix it so that the same data give the same codes on every machine.
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        self.axes_: Floats = axes.astype(np.float32)
        return self

    def encode(self, items: Items) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality.

        Raises
        ------
        FitError
            When it is not fitted, modalities or widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted()
        items = self._items_like_fit(items, {name: len(mean) for name, mean in self.mean_.items()})
        vectors = np.empty((len(items), self.output_dim), dtype=np.float32)
        for place, part in items.blocks():
            vectors[place] = _product(self._joined(self._centred(part), part) - self.centre_, self.axes_)
        vectors[~items.any_present] = 0
        return vectors

    def _centred(self, items: ItemVectors) -> dict[str, Floats]:
        centred = {}
        for name in self.modalities_:
            matrix = np.zeros((len(items), len(self.mean_[name])), dtype=np.float32)
            present = items.present[name]
            if present.any():
                with np.errstate(over="ignore"):
                    scaled = (items.matrices[name][present] - self.mean_[name]) * np.float32(self.scale_[name])
                matrix[present] = np.clip(scaled, -_FURTHEST, _FURTHEST)
            centred[name] = matrix
        return centred

    def _learn_scale(self, items: ItemVectors, name: str) -> None:
        """Learn the mean and the scale of a modality that items have."""
        held = in_parts(items, lambda part: part.matrices[name][part.present[name]])
        count = int(items.present[name].sum())
        self.mean_[name] = (sum(rows.sum(axis=0, dtype=np.float64) for _, rows in held()) / count).astype(np.float32)
        around, lengths = [], []
        for _, rows in held():
            for start in range(0, len(rows), _SQUARED_ROWS):
                some = rows[start : start + _SQUARED_ROWS]
                around.append(((some - self.mean_[name]).astype(np.float64) ** 2).sum(axis=1))
                lengths.append((some.astype(np.float64) ** 2).sum(axis=1))
        spread, length = (float(np.sqrt(np.concatenate(squares).mean())) for squares in (around, lengths))
        # A modality without variance gives no scale for later items; ignore it.
        varies = spread > max(_NO_SPREAD * length, _LEAST_SPREAD)
        self.scale_[name] = np.sqrt(count / len(items)) / spread if varies else 0.0

    def _fit_bridges(self, centred: Parts[dict[str, Floats]]) -> dict[str, Floats]:
        """Ridge coefficients: ``bridges[a>b]`` predicts modality ``b`` from modality ``a``; the last row is the intercept.

        Without the intercept, items with and without ``b`` would have different means, and missingness would become a
        direction of the space.
        """
        bridges = {}
        for source in self.modalities_:
            for target in self.modalities_:
                if source == target:
                    continue

                def both(source: str = source, target: str = target) -> Iterator[tuple[Floats, Floats]]:
                    for part, vectors in centred():
                        rows = part.present[source] & part.present[target]
                        yield vectors[source][rows], vectors[target][rows]

                slope = regression(both, self.ridge)
                if slope is not None:
                    bridges[f"{source}>{target}"] = slope
        return bridges

    def _joined(self, centred: dict[str, Floats], items: ItemVectors) -> Floats:
        filled = []
        for target in self.modalities_:
            missing = ~items.present[target]
            matrix = centred[target]
            if not missing.any():
                filled.append(matrix)
                continue
            predictions = np.zeros(len(items), dtype=np.float32)
            total = np.zeros_like(matrix)
            for source in self.modalities_:
                bridge = self.bridges_.get(f"{source}>{target}")
                rows = missing & items.present[source]
                if bridge is not None and rows.any():
                    total[rows] += _product(centred[source][rows], bridge[:-1]) + bridge[-1]
                    predictions[rows] += 1
            filled.append(np.where(missing[:, None], total / np.maximum(predictions, 1)[:, None], matrix))
        return filled[0] if len(filled) == 1 else np.concatenate(filled, axis=1)

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return int(self.axes_.shape[1])

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        state: dict[str, npt.NDArray[np.generic]] = {"axes": self.axes_, "centre": self.centre_}
        for name in self.modalities_:
            state[f"mean.{name}"] = self.mean_[name]
            state[f"scale.{name}"] = np.array([self.scale_[name]], dtype=np.float64)
        return state | {f"bridge.{name}": matrix for name, matrix in self.bridges_.items()}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.axes_ = tensors["axes"].astype(np.float32)
        self.centre_ = tensors["centre"].astype(np.float32)
        self.mean_ = {key[5:]: value.astype(np.float32) for key, value in tensors.items() if key.startswith("mean.")}
        self.scale_ = {key[6:]: float(value[0]) for key, value in tensors.items() if key.startswith("scale.")}
        self.bridges_ = {
            key[7:]: value.astype(np.float32) for key, value in tensors.items() if key.startswith("bridge.")
        }
        self.modalities_ = tuple(sorted(self.mean_))
        return self


def _product(rows: Floats, matrix: Floats) -> Floats:
    """``float32 [rows, columns]``, computed in double precision so that the rounding does not depend on the batch."""
    return (rows.astype(np.float64) @ matrix.astype(np.float64)).astype(np.float32)


def _sample(items: ItemVectors) -> ItemVectors:
    """A random sample in the order of the items; all items if they are few, or one with too few items of a modality."""
    if len(items) <= _FIT_ITEMS:
        return items
    rows = np.sort(np.random.default_rng(0).choice(len(items), _FIT_ITEMS, replace=False))
    for present in items.present.values():
        if present[rows].sum() < min(_LEAST_PRESENT, present.sum()):
            return items
    return items.rows(rows)
