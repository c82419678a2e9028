"""Gated attention (GateSID, arXiv 2603.22916): a gate mixes the attention of the behaviour and of the modality space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch
from ranking.models.attention import mixed_maps
from ranking.models.histories.base import Space, with_products
from ranking.models.histories.bidirectional import BidirectionalHistory
from ranking.models.item_statistics import ItemStatistics
from ranking.models.losses import gated_alignment
from ranking.models.parts import Gate
from ranking.models.spec import ModelSpec


class SharedGatedHistory(BidirectionalHistory):
    """One attention map for both spaces, mixed from the maps of the two spaces by a gate per row.

    With attention weights ``a_b`` in the behaviour space and ``a_s`` in the modality space, the shared weights are ``a = g a_b
    + (1 - g) a_s``; the output is ``[sum a m; sum a b]`` and the product of each with the candidate. The gate is ``g =
    sigmoid(MLP([id vector; content vector; item statistics as of the row]))``: an item with many interactions may rely on
    behaviour, one with few on its content. The paper states that intra-modal attention maps are fused by a gate from embeddings
    and statistics; the form is ours.

    In training, :func:`~ranking.models.losses.gated_alignment` pulls the id vector of a candidate towards its content vector
    where the gate is low.
    """

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__(modality_dim, behaviour_dim, spec)
        self.dim = 2 * spec.heads * (modality_dim + behaviour_dim)
        self.spec = spec
        self.statistics = ItemStatistics(spec.shuffled_counts)
        width = modality_dim + behaviour_dim + self.statistics.dim
        first, last = nn.Linear(width, spec.gate_hidden), nn.Linear(spec.gate_hidden, 1)
        nn.init.zeros_(last.bias)
        self.gate_net = nn.Sequential(first, nn.ReLU(), last)
        self.gate = Gate(per_row=True)
        # Only the loss needs one width for both spaces.
        self.align = nn.Linear(modality_dim, behaviour_dim, bias=False) if spec.alignment_weight > 0 else None
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None

    def gate_of(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """The gate ``g`` of each row, ``float32 [rows]``; 1 is the attention of the behaviour space."""
        statistics = self.statistics(batch.numeric, batch.at_us, batch.candidate_index)
        features = torch.cat([behaviour.candidate, modality.candidate, statistics], dim=1)
        gate: Tensor = self.gate(torch.sigmoid(self.gate_net(features).squeeze(1)))
        return gate

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`ranking.models.histories.base.History`."""
        gate = self.gate_of(modality, behaviour, batch)
        self._latest = (gate.detach(), behaviour.candidate, modality.candidate) if self.training else None
        shared, maps = self._attend(modality, behaviour, batch, gate)
        for attention, weights in zip((self.modality, self.behaviour), maps.chunk(2, dim=1), strict=True):
            attention.observe(weights, batch.mask)
        units = torch.split(shared, [modality.items.shape[1], behaviour.items.shape[1]], dim=2)
        return with_products([each.flatten(1) for each in units], [modality.candidate, behaviour.candidate])

    def weights(self, modality: Space, behaviour: Space, batch: Batch) -> dict[str, Tensor]:
        """Attention weights ``modality`` (a_s), ``behaviour`` (a_b) and ``shared``."""
        _, maps = self._attend(modality, behaviour, batch)
        named = dict(zip(("modality", "behaviour"), maps.chunk(2, dim=1), strict=True))
        return {**named, "shared": mixed_maps(maps, self.gate_of(modality, behaviour, batch))}

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """``alignment``, if its weight is above 0."""
        return {"alignment": "alignment_weight"} if spec.alignment_weight > 0 else {}

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """The gated alignment of the latest batch's candidates, a mean over its distinct candidates."""
        if self.align is None or self._latest is None or self.spec.alignment_weight == 0:
            return {}
        gate, own, content = self._latest
        self._latest = None
        loss = gated_alignment(
            own,
            self.align(content),
            gate,
            batch.candidate,
            self.spec.alignment_temperature,
            self.spec.contrast_negatives,
        )
        return {"alignment": self.spec.alignment_weight * loss}
