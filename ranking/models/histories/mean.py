"""Mean pooling of the history."""

from __future__ import annotations

from torch import Tensor

from ranking.data.batch import Batch
from ranking.models.histories.base import History, Space, joined, with_products
from ranking.models.spec import ModelSpec


class MeanHistory(History):
    """The mean of the history's vectors and its product with the candidate: the baseline for attention."""

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        self.dim = 2 * (modality_dim + behaviour_dim)

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`History`."""
        space = joined(modality, behaviour)
        weight = batch.mask / batch.mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = (weight[:, None, :] @ space.history(batch)).squeeze(1)
        return with_products([pooled], [space.candidate])
