"""Pooling of the history items that share the candidate's first codes (QARM, arXiv 2411.11739: cross features)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch
from ranking.data.time_gaps import TIME_BUCKETS
from ranking.models.attention import TargetAttention
from ranking.models.histories.base import History, Space, joined, with_products
from ranking.models.representations.matches import same_codes
from ranking.models.spec import ModelSpec

_DEPTHS = 2


class SidMatchHistory(History):
    """Pool the history items that share the candidate's prefix of depth 1 and of depth 2, by mean or target attention.

    The output is the pooled vector of each depth and its product with the candidate; zeros if no item matches.

    Parameters
    ----------
    modality_dim, behaviour_dim : int
        Widths of the spaces.
    spec : ModelSpec
        ``sid_match`` selects the pooling.
    residual_levels : int
        Number of levels that refine each other; with one, only depth 1 is used.
    """

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec, residual_levels: int) -> None:
        super().__init__()
        self.residual_levels = residual_levels
        self.depths = min(_DEPTHS, residual_levels)
        dim = modality_dim + behaviour_dim
        attend = spec.sid_match == "attention"
        self.attentions = nn.ModuleList(
            TargetAttention.from_spec(dim, spec, TIME_BUCKETS) for _ in range(self.depths if attend else 0)
        )
        self.dim = 2 * self.depths * dim * (spec.heads if attend else 1)

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`History`."""
        space = joined(modality, behaviour)
        alike = same_codes(batch.items, batch.candidate, batch.history, batch.mask, self.residual_levels)[: self.depths]
        if self.attentions:
            pooled = [
                attention(space.candidate, space.items, batch.history, mask, batch.gap_bucket)
                for attention, mask in zip(self.attentions, alike, strict=True)
            ]
        else:
            masks = torch.stack(alike, dim=1)
            weight = masks / masks.sum(dim=2, keepdim=True).clamp(min=1)
            pooled = list(torch.bmm(weight, space.history(batch)).unbind(dim=1))
        return with_products(pooled, [space.candidate] * self.depths)
