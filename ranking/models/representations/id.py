"""The item id as a learned row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.data.vocabulary import PADDING, UNKNOWN
from ranking.models.representations.base import ItemShape, Representation, Table
from ranking.models.spec import ModelSpec


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

    knows_ids = True
    reads_codes = False

    def __init__(self, shape: ItemShape, dim: int = 32, dropout: float = 0.1) -> None:
        super().__init__(dim)
        self.dropout = dropout
        self.table = Table(shape.vocabulary, dim)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.id_dropout)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        index = dropped(items.index, self.dropout) if self.training else items.index
        return self.table.rows(index)


def dropped(index: Tensor, share: float) -> Tensor:
    """Ids ``int64 [items]`` of which about ``share`` are replaced by the unknown id, at random; padding stays."""
    if share <= 0:
        return index
    lost = (torch.rand(index.shape, device=index.device) < share) & (index != PADDING)
    return torch.where(lost, UNKNOWN, index)
