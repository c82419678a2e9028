"""Bi-directional target attention (SaviorRec, arXiv 2508.01375, Figure 2): each space's weights pool both spaces' values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking.data.batch import Batch
from ranking.data.time_gaps import TIME_BUCKETS
from ranking.models.attention import TargetAttention, attend
from ranking.models.histories.base import History, Space, joined, with_products
from ranking.models.spec import ModelSpec


class BidirectionalHistory(History):
    """Four target-attention units from two sets of weights.

    With attention weights ``alpha`` in the modality space and ``beta`` in the behaviour space, the output is ``[sum alpha
    m; sum alpha b; sum beta m; sum beta b]`` and the product of each with the candidate of the value's space. Each set of
    weights is computed once.
    """

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        self.dim = 4 * spec.heads * (modality_dim + behaviour_dim)
        self.modality = TargetAttention.from_spec(modality_dim, spec, TIME_BUCKETS)
        self.behaviour = TargetAttention.from_spec(behaviour_dim, spec, TIME_BUCKETS)

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`History`."""
        pooled_heads, maps = self._attend(modality, behaviour, batch)
        for attention, weights in zip((self.modality, self.behaviour), maps.chunk(2, dim=1), strict=True):
            attention.observe(weights, batch.mask)
        widths = [modality.items.shape[1], behaviour.items.shape[1]]
        pooled = [
            unit.flatten(1) for heads in pooled_heads.chunk(2, dim=1) for unit in torch.split(heads, widths, dim=2)
        ]
        return with_products(pooled, [modality.candidate, behaviour.candidate] * 2)

    def weights(self, modality: Space, behaviour: Space, batch: Batch) -> dict[str, Tensor]:
        """Attention weights ``modality`` (alpha) and ``behaviour`` (beta)."""
        _, maps = self._attend(modality, behaviour, batch)
        return dict(zip(("modality", "behaviour"), maps.chunk(2, dim=1), strict=True))

    def _attend(
        self, modality: Space, behaviour: Space, batch: Batch, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pooled vectors of both sets of weights, ``float32 [rows, 2 * heads, dim]``, and the weights; with a ``share``
        float32 [rows] of the behaviour's, of the mixed weights, ``[rows, heads, dim]``.

        The spaces are concatenated, with zero-padded queries, so that one matrix product computes all scores.
        """
        queries = torch.cat(
            [
                functional.pad(self.modality.queries(modality.candidate), (0, behaviour.items.shape[1])),
                functional.pad(self.behaviour.queries(behaviour.candidate), (modality.items.shape[1], 0)),
            ],
            dim=1,
        )
        recency = torch.cat([self.modality.biases(), self.behaviour.biases()], dim=1)
        items = joined(modality, behaviour).items
        of_modality, of_behaviour = self.modality.key_scale(modality.items), self.behaviour.key_scale(behaviour.items)
        scale = None if of_modality is None or of_behaviour is None else torch.cat([of_modality, of_behaviour], dim=1)
        return attend(queries, items, batch.history, batch.mask, batch.gap_bucket, recency, scale, share)
