"""SMILE's item vector with a loss that keeps both of its views in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch
from ranking.data.vocabulary import UNKNOWN
from ranking.models.losses import keep_view
from ranking.models.representations.base import ItemShape
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation
from ranking.models.spec import ModelSpec
from sidkit.core.errors import ConfigError


class KeptViewsRepresentation(RqOpqGateRepresentation):
    """The item vector of ``rq_opq_gate``, and the loss ``keep_view``, so that the gate erases neither id nor codes.

    The idea is that of CMiMC (arXiv 2403.10068), a paper on perception: keep mutual information between each view and what the
    views are fused to. Views are the id row and the RQ vector of an item; the fused vector is its candidate vector, with the
    mean gate of its rows in the batch. ``keep_view`` is half the mean of the views' local terms, plus half the global term of
    the mean of the views (:func:`ranking.models.losses.keep_view`), over the distinct candidates with codes and a known id.
    Other losses do not move the gate; this one does.

    Parameters
    ----------
    shape : ItemShape
        As of ``rq_opq_gate``.
    spec : ModelSpec
        Besides its settings, ``keep_view_weight``.
    fitted : mapping
        As of ``rq_opq_gate``.

    Raises
    ------
    ConfigError
        When there is no gate (``gate_parts = "opq"``).
    """

    def __init__(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor]) -> None:
        super().__init__(shape, spec, fitted)
        if not self.gated:
            raise ConfigError(
                'kept_views keeps the views that a gate mixes, but gate_parts = "opq" has no gate; use rq_opq_gate, or set '
                'gate_parts = "rq_opq" or "rq"'
            )
        self.local, self.whole = (nn.Parameter(torch.eye(spec.dim)) for _ in range(2))

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """Those of ``rq_opq_gate``, and ``keep_view``, if its weight is above 0."""
        own = {"keep_view": "keep_view_weight"} if spec.keep_view_weight > 0 else {}
        return super().losses(spec) | own

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """Those of ``rq_opq_gate``, and ``keep_view``, over at most ``contrast_negatives`` items; 0 for fewer than two."""
        losses = super().auxiliary(batch)
        if self.spec.keep_view_weight > 0:
            losses["keep_view"] = self.spec.keep_view_weight * self._keep_view(batch)
        return losses

    def _keep_view(self, batch: Batch) -> Tensor:
        places, back = torch.unique(batch.candidate, return_inverse=True)
        items, gate = batch.items.take(places), self.gate(batch)
        zero = torch.zeros(len(places), dtype=gate.dtype, device=gate.device)
        mean = zero.index_add(0, back, gate) / zero.index_add(0, back, torch.ones_like(gate))
        used = torch.nonzero((items.codes >= 0).all(dim=1) & (items.index > UNKNOWN)).squeeze(1)
        if len(used) < 2:
            return gate.sum() * 0.0
        if len(used) > self.spec.contrast_negatives:
            used = used[torch.randperm(len(used), device=used.device)[: self.spec.contrast_negatives]]
        items, share = items.take(used), mean[used][:, None]
        own, shared = self.table.rows(items.index), self._rq(items.codes)
        fused = share * own + (1 - share) * shared
        if self.has_opq:
            fused = fused + self.spec.opq_scale * self._opq(items.codes)
        local = (keep_view(own, fused, self.local) + keep_view(shared, fused, self.local)) / 2
        return (local / 2 + keep_view((own + shared) / 2, fused, self.whole) / 2).mean()
