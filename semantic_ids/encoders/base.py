"""The contract of an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs, Rehearsal
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError, TooFewPairsError


class Encoder(ABC):
    """Content vectors in, one ``float32 [items, dim]`` matrix out.

    The constructor stores its arguments unchanged; ``fit`` sets attributes that end in ``_``; ``tensors`` and ``config``
    are all that is needed to build the fitted encoder again.
    """

    name: str
    needs_pairs: bool = False
    """Whether ``fit`` learns from behaviour; such an encoder is given pairs, the others ignore them."""
    modalities_: tuple[str, ...]

    @abstractmethod
    def fit(self, items: ItemVectors, pairs: ItemPairs | None = None) -> Self:
        """Learn from the items that were known at the cut-off, and from pairs of them."""

    @abstractmethod
    def encode(self, items: ItemVectors) -> Floats:
        """Vectors ``float32 [items, dim]``; zeros for an item without any modality."""

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """Width of the vectors of a fitted encoder."""

    @property
    def content_columns(self) -> tuple[int, int]:
        """The columns of a fitted encoder's vectors, from where to where, that learned from no click.

        What learned from clicks knows the answers of the rows that those clicks are: on the rows of its own window it
        says more than it ever will on later ones, and whoever trains on them would trust it too much.
        """
        return (0, 0 if self.needs_pairs else self.output_dim)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""

    def _refuse_unfitted(self, state: str) -> None:
        """Refuse to go on without ``state``, an attribute that ``fit`` sets."""
        if not hasattr(self, state):
            raise FitError("this encoder is not fitted; call fit first")


def usable_pairs(encoder: str, items: ItemVectors, pairs: ItemPairs | None) -> ItemPairs:
    """The pairs whose two items both have content.

    Raises
    ------
    FitError
        When there are none, or the pairs were mined for other items.
    """
    remedy = (
        "mine them from the clicks before the cut-off (semantic_ids.pairs.mining.mine_pairs), move the cut-off to "
        "where there are clicks, or use the encoder 'content', which needs none"
    )
    if pairs is None or not len(pairs):
        raise TooFewPairsError(f"the encoder {encoder!r} learns from pairs of items and none came; {remedy}")
    largest = int(max(pairs.trigger.max(), pairs.target.max()))
    if len(pairs.clicks) != len(items) or largest >= len(items):
        raise FitError(
            f"the pairs were mined for {len(pairs.clicks)} items (largest row {largest}), and {len(items)} came; "
            "mine them for these items, in the same order"
        )
    found = _between_present(items, pairs)
    if not len(found):
        raise TooFewPairsError(f"none of the {len(pairs)} pairs holds two items with content; {remedy}")
    if pairs.rehearsal is None:
        return found
    earlier, later = (_between_present(items, half) for half in (pairs.rehearsal.earlier, pairs.rehearsal.later))
    return replace(found, rehearsal=Rehearsal.of(earlier, later))


def _between_present(items: ItemVectors, pairs: ItemPairs) -> ItemPairs:
    return pairs.where(items.any_present[pairs.trigger] & items.any_present[pairs.target])
