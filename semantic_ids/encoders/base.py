"""The contract of an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.pairs import ItemPairs
from semantic_ids.item_vectors import Floats, ItemVectors


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

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
