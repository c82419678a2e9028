"""Projected content vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.representations.matches import CONTENT_MATCHES, content_matches
from ranking.models.spec import ModelSpec


class ContentRepresentation(Representation):
    """A linear projection of the encoder's frozen vector; it treats new and old items alike.

    Parameters
    ----------
    shape : ItemShape
        ``content_dim`` is the input width.
    dim : int
        Width.
    """

    reads_codes = False

    def __init__(self, shape: ItemShape, dim: int = 32) -> None:
        super().__init__(dim)
        self.matched = shape.matched
        self.match_dim = CONTENT_MATCHES if shape.matches_content else 0
        self.projection = nn.Linear(shape.content_dim, dim)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        vectors: Tensor = self.projection(items.content)
        return vectors

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See :func:`content_matches`."""
        return content_matches(items, candidate, history, mask, self.matched)
