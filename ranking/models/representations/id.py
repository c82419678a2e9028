"""Learned item id embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.data.vocabulary import PADDING, UNKNOWN
from ranking.models.representations.base import ItemShape, Representation, Table
from ranking.models.spec import START, ModelSpec


class IdRepresentation(Representation):
    """One embedding per item of the training window; all other items share that of the unknown id.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` is the number of rows.
    dim : int
        Width.
    dropout : float
        Share of ids replaced by the unknown id in training, so that its row is trained on ordinary items.
    start : float
        Standard deviation of the initial embeddings.
    """

    knows_ids = True
    reads_codes = False

    def __init__(self, shape: ItemShape, dim: int = 32, dropout: float = 0.1, start: float = START) -> None:
        super().__init__(dim)
        self.dropout = dropout
        self.table = Table(shape.vocabulary, dim, start)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.id_dropout, spec.id_table_start)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        index = dropped(items.index, self.dropout) if self.training else items.index
        return self.table.rows(index)


def dropped(index: Tensor, share: float) -> Tensor:
    """Replace a random ``share`` of the ids ``int64 [items]`` by the unknown id; padding is unchanged."""
    if share <= 0:
        return index
    replaced = (torch.rand(index.shape, device=index.device) < share) & (index != PADDING)
    return torch.where(replaced, UNKNOWN, index)
