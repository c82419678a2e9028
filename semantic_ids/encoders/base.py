"""Base class of the encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.estimator import Estimator
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import BacktestSplit, ItemPairs
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError, TooFewPairsError


class Encoder(Estimator, ABC):
    """Map content vectors to one ``float32 [items, dim]`` matrix.

    The constructor stores its arguments unchanged; ``fit`` sets attributes that end in ``_``; ``config`` and ``tensors``
    together restore a fitted encoder.
    """

    modalities_: tuple[str, ...]
    """The modalities that ``fit`` saw, in alphabetical order; ``encode`` is given the same."""

    @abstractmethod
    def fit(self, items: ItemVectors, pairs: ItemPairs | None = None) -> Self:
        """Fit on the items known at the cut-off, and on pairs of them."""

    @abstractmethod
    def encode(self, items: ItemVectors) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality."""

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """Width of the vectors of a fitted encoder."""

    @property
    def content_columns(self) -> tuple[int, int]:
        """Half-open range of the vectors' columns that were not trained on clicks.

        The other columns have seen the labels of the fit window. They are more predictive inside that window than after
        it, so a ranker trained on rows of the window would rely on them too much.
        """
        return (0, 0 if self.needs_pairs else self.output_dim)

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""

    def _refuse_unfitted(self, state: str) -> None:
        """Raise FitError if ``state``, an attribute set by ``fit``, is missing."""
        if not hasattr(self, state):
            raise FitError("this encoder is not fitted; call fit first")


def usable_pairs(encoder: str, items: ItemVectors, pairs: ItemPairs | None) -> ItemPairs:
    """The pairs in which both items have content.

    Raises
    ------
    FitError
        When there are none, or the pairs were mined for a different set of items.
    """
    remedy = (
        "mine them from the clicks before the cut-off (semantic_ids.pairs.mining.mine_pairs), move the cut-off to "
        "a time with clicks, or use the encoder 'content', which needs no pairs"
    )
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
