"""The item id as a learned row."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ranking.model_spec import ModelSpec
from ranking.representations.base import ItemBatch, ItemShape, Representation, small_embedding

PADDING, UNKNOWN = 0, 1


class IdRepresentation(Representation):
    """One row per item of the training window; all others share the row of the unknown id.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` rows.
    dim : int
        Width.
    dropout : float
        Share of ids that are replaced by the unknown id in training, so that its row is trained on ordinary items.
    """

    def __init__(self, shape: ItemShape, dim: int = 32, dropout: float = 0.1) -> None:
        super().__init__(dim)
        self.dropout = dropout
        self.table = small_embedding(shape.vocabulary, dim)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.id_dropout)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        index = items.index
        if self.training and self.dropout > 0:
            dropped = (torch.rand(index.shape, device=index.device) < self.dropout) & (index != PADDING)
            index = torch.where(dropped, UNKNOWN, index)
        vectors: Tensor = self.table(index)
        return vectors
