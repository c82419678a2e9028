"""The frozen content vector, projected."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ranking.model_spec import ModelSpec
from ranking.representations.base import ItemBatch, ItemShape, Representation


class ContentRepresentation(Representation):
    """A linear map of the encoder's vector; the same for every item, so new items are as good as old ones.

    Parameters
    ----------
    shape : ItemShape
        ``content_dim`` columns come in.
    dim : int
        Width.
    """

    def __init__(self, shape: ItemShape, dim: int = 32) -> None:
        super().__init__(dim)
        self.match_dim = 2
        self.projection = nn.Linear(shape.content_dim, dim)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        vectors: Tensor = self.projection(items.content)
        return vectors

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Largest and mean cosine between the candidate and the history's items; 0 for an empty history."""
        unit = nn.functional.normalize(items.content, dim=1)
        cosine = torch.einsum("bd,bld->bl", unit[candidate], unit[history])
        count = mask.sum(dim=1)
        mean = (cosine * mask).sum(dim=1) / count.clamp(min=1)
        largest = cosine.masked_fill(~mask, -1).amax(dim=1)
        return torch.stack([torch.where(count > 0, largest, 0.0), mean], dim=1)
