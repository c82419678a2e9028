"""Base class of the encoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.estimator import Estimator
from semantic_ids.item_vectors import CONTENT, ItemVectors
from semantic_ids.pairs.given import Pairs, item_pairs
from semantic_ids.pairs.mining import BacktestSplit, ItemPairs
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError, TooFewPairsError

Items = ItemVectors | npt.ArrayLike
"""What encoders accept as items: item vectors, or a matrix ``[items, dim]``, which counts as one modality."""


class Encoder(Estimator):
    """Map content vectors to one ``float32 [items, dim]`` matrix; a scikit-learn transformer.

    The constructor stores its arguments unchanged; ``fit`` sets attributes that end in ``_``; ``config`` and ``tensors``
    together restore a fitted encoder. ``fit`` of a subclass receives :class:`ItemVectors` and
    :class:`~semantic_ids.pairs.mining.ItemPairs`, even where the caller has arrays.
    """

    group = "sidkit.encoders"
    modules: ClassVar[tuple[str, ...]] = ()
    """Optional modules that ``fit`` imports; without them, a codebook is refused before its fit."""
    modalities_: tuple[str, ...]
    """The modalities that ``fit`` saw, in alphabetical order; ``encode`` is given the same."""

    @abstractmethod
    def fit(self, items: Items, pairs: Pairs = None) -> Self:
        """Fit on the items known at the cut-off, and on pairs of them.

        Parameters
        ----------
        items : ItemVectors or array-like
            An array ``[items, dim]`` counts as one modality.
        pairs : ItemPairs or array-like, optional
            Pairs of the items, for an encoder that learns from them; an array has shape ``[pairs, 2]``.
        """

    @abstractmethod
    def encode(self, items: Items) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality."""

    def transform(self, items: Items) -> Floats:
        """Vectors ``float32 [items, dim]``: the same as :meth:`encode`."""
        return self.encode(self.as_items(items))

    def fit_transform(self, items: Items, pairs: Pairs = None) -> Floats:
        """Fit on the items, and return their vectors, ``float32 [items, dim]``."""
        given = ItemVectors.of(items)
        return self.fit(given, pairs).encode(given)

    def as_items(self, items: Items) -> ItemVectors:
        """Item vectors for ``encode``: a matrix becomes the modality of the fit, if that had only one.

        Raises
        ------
        FitError
            When the items are an array that is not a numeric matrix.
        """
        fitted: tuple[str, ...] = getattr(self, "modalities_", ())
        return ItemVectors.of(items, fitted[0] if len(fitted) == 1 else CONTENT)

    def _items_like_fit(self, items: Items, widths: Mapping[str, int]) -> ItemVectors:
        """Item vectors for ``encode`` of a fitted encoder, checked against the widths of the modalities at ``fit``.

        Raises
        ------
        FitError
            When modalities or widths differ from those of ``fit``, or a vector is not finite.
        """
        given = self.as_items(items)
        if tuple(sorted(given.matrices)) != self.modalities_:
            raise FitError(f"expected modalities {self.modalities_}, as at fit, got {tuple(given.matrices)}")
        for name, matrix in given.matrices.items():
            if given.present[name].any() and matrix.shape[1] != widths[name]:
                raise FitError(
                    f"expected vectors of {name!r} with {widths[name]} elements, as at fit, got {matrix.shape[1]}"
                )
        refuse_not_finite(given)
        return given

    @staticmethod
    def _rows(data: Any) -> tuple[ItemVectors, int, int]:
        items = ItemVectors.of(data)
        return items, len(items), items.width

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """Width of the vectors of a fitted encoder."""

    @property
    def views(self) -> dict[str, tuple[int, int]]:
        """Half-open range of the vectors' columns by view; one of all columns, unless an encoder keeps modalities apart."""
        return {CONTENT: (0, self.output_dim)}

    @property
    def content_columns(self) -> tuple[int, int]:
        """Half-open range of the vectors' columns that were not trained on clicks.

        The other columns have seen the labels of the fit window. They are more predictive inside that window than after
        it, so a ranker trained on rows of the window would rely on them too much.
        """
        return (0, 0 if self.needs_pairs else self.output_dim)


def refuse_not_finite(items: ItemVectors) -> None:
    """Refuse NaN and infinite values in the vectors that items have.

    Raises
    ------
    FitError
        When a modality has any.
    """
    bad = dict.fromkeys(items.matrices, 0)
    for _, part in items.blocks():
        for name, matrix in part.matrices.items():
            bad[name] += int((~np.isfinite(matrix).all(axis=1) & part.present[name]).sum())
    for name, count in bad.items():
        if count:
            raise FitError(
                f"{count} of {int(items.present[name].sum())} vectors of {name!r} contain NaN or infinite values; remove them "
                "from the source data"
            )


def usable_pairs(encoder: str, items: ItemVectors, pairs: Pairs) -> ItemPairs:
    """The pairs in which both items have content.

    Raises
    ------
    FitError
        When there are none, or the pairs were mined for a different set of items.
    """
    remedy = (
        "pass an (n, 2) array of the rows of trigger and target, mine them from the clicks before the cut-off "
        "(semantic_ids.pairs.mining.mine_pairs), move the cut-off to a time with clicks, or use the encoder 'content', which "
        "needs no pairs"
    )
    pairs = item_pairs(pairs, len(items))
    if pairs is None or not len(pairs):
        raise TooFewPairsError(f"the encoder {encoder!r} learns from pairs of items, got none; {remedy}")
    largest = int(max(pairs.trigger.max(), pairs.target.max()))
    if len(pairs.clicks) != len(items) or largest >= len(items):
        raise FitError(
            f"expected pairs mined for {len(items)} items, got pairs for {len(pairs.clicks)} items (largest index "
            f"{largest}); mine them for these items, in the same order"
        )
    usable = _between_present(items, pairs)
    if not len(usable):
        raise TooFewPairsError(f"none of the {len(pairs)} pairs has content for both items; {remedy}")
    if pairs.backtest is None:
        return usable
    earlier, later = (_between_present(items, half) for half in (pairs.backtest.earlier, pairs.backtest.later))
    return replace(usable, backtest=BacktestSplit.of(earlier, later))


def _between_present(items: ItemVectors, pairs: ItemPairs) -> ItemPairs:
    return pairs.where(items.any_present[pairs.trigger] & items.any_present[pairs.target])
