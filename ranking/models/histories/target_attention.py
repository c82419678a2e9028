"""Target attention over the concatenated representations, as in DIN."""

from __future__ import annotations

from torch import Tensor

from ranking.data.batch import Batch
from ranking.data.time_gaps import TIME_BUCKETS
from ranking.models.attention import TargetAttention
from ranking.models.histories.base import History, Space, joined, with_products
from ranking.models.spec import ModelSpec


class TargetAttentionHistory(History):
    """The history pooled by target attention, and its product with the candidate, per head."""

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        dim = modality_dim + behaviour_dim
        self.dim = 2 * spec.heads * dim
        self.attention = TargetAttention.from_spec(dim, spec, TIME_BUCKETS)

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`History`."""
        space = joined(modality, behaviour)
        pooled = self.attention(space.candidate, space.items, batch.history, batch.mask, batch.gap_bucket)
        return with_products([pooled], [space.candidate])

    def weights(self, modality: Space, behaviour: Space, batch: Batch) -> dict[str, Tensor]:
        """The attention weights, as ``attention``."""
        space = joined(modality, behaviour)
        weights = self.attention.weights(space.candidate, space.items, batch.history, batch.mask, batch.gap_bucket)
        return {"attention": weights}
