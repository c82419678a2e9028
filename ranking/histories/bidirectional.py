"""Bi-directional target attention (SaviorRec, arXiv 2508.01375, Figure 2): each space's scores weigh both spaces' values."""

from __future__ import annotations

import torch
from torch import Tensor

from ranking.attention import TargetAttention
from ranking.histories.base import History, Space, with_products
from ranking.model_spec import ModelSpec
from ranking.representations.base import Batch
from ranking.time_gaps import TIME_BUCKETS


class BidirectionalHistory(History):
    """Four units from two score maps: with modality scores ``alpha`` and behaviour scores ``beta``,

    ``[sum alpha m; sum alpha b; sum beta m; sum beta b]`` and the product of each with the candidate of its value's
    space. Each map is computed once.
    """

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        self.dim = 4 * spec.heads * (modality_dim + behaviour_dim)
        self.modality = TargetAttention(modality_dim, spec.heads, TIME_BUCKETS)
        self.behaviour = TargetAttention(behaviour_dim, spec.heads, TIME_BUCKETS)

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`History`."""
        m, b = modality.history(batch), behaviour.history(batch)
        alpha = self.modality.weights(modality.candidate, m, batch.mask, batch.gap_bucket)
        beta = self.behaviour.weights(behaviour.candidate, b, batch.mask, batch.gap_bucket)
        pooled = [torch.bmm(weight, value).flatten(1) for weight in (alpha, beta) for value in (m, b)]
        return with_products(pooled, [modality.candidate, behaviour.candidate] * 2)
