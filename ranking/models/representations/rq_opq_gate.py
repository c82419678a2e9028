"""SMILE's item vector (arXiv 2510.12604, steps 1 and 2): a gated mixture of id and RQ codes, plus OPQ codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.data.vocabulary import UNKNOWN
from ranking.models.losses import directional_transfer, masked_info_nce
from ranking.models.parts import Gate
from ranking.models.representations.base import ItemShape, Table
from ranking.models.representations.code_tables import CodeTables
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.representations.id import dropped
from ranking.models.representations.opq_neighbours import cell_keys, opq_neighbours
from ranking.models.spec import ModelSpec
from sidkit.core.errors import ConfigError


class _Parts(NamedTuple):
    """Per item: id vector, RQ vector and lambda times the OPQ vector (float32 [items, dim] each), whether it has codes and
    whether its id is known (bool [items]).
    """

    id: Tensor
    rq: Tensor
    opq: Tensor
    coded: Tensor
    known: Tensor


class RqOpqGateRepresentation(CodedRepresentation):
    """``T * id + (1 - T) * RQ + lambda * OPQ``.

    The gate ``T`` is a scalar per row: the sigmoid of a small network on the row's numeric features (cross, user and
    point-in-time item features), with an initial bias in favour of the codes. For an unknown id it is capped at
    ``gate_unknown``; for an item without codes, ``T = 1`` and there is no OPQ part.

    History items have no row features. Their gate is ``n / (n + k)``, where ``n`` is the number of training rows of their
    id and ``k`` is learned: the more an id was trained, the higher its weight, and an unknown id has weight 0. (``n``
    describes this model's id table; it is not an item feature, and candidates do not use it.)

    ``gate_parts`` of the spec removes a part: ``rq`` has no OPQ, ``opq`` is ``id + lambda * OPQ`` without a gate.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` ids, ``numeric_dim`` features for the gate, codes of all ``sizes``.
    spec : ModelSpec
        Widths, gate and losses.
    fitted : mapping
        Result of :meth:`fit`; without it, ids have weight 0 in histories and there is no OPQ loss.

    Raises
    ------
    ConfigError
        When the codebook lacks RQ or OPQ codes that are needed.
    """

    knows_ids = True
    # Plain id and code embeddings, which the ablation baseline has too.
    part_roles: ClassVar[Mapping[str, str]] = {
        "table": "id.table",
        "rq.table": "sid.codes.table",
        "opq.table": "sid.codes.table",
    }

    def __init__(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor]) -> None:
        super().__init__(shape, spec.dim)
        self.spec = spec
        self.gated, self.has_opq = spec.gate_parts != "opq", spec.gate_parts != "rq"
        if self.has_opq and self.residual_levels == len(shape.sizes):
            raise ConfigError(
                f"rq_opq_gate needs OPQ codes, but all {len(shape.sizes)} levels of the codebook refine each other; use "
                'the quantizer rq_opq, or disable the OPQ part (gate_parts = "rq")'
            )
        if self.gated and self.residual_levels == 0:
            raise ConfigError(
                "rq_opq_gate needs codes that refine each other, but the codebook has none; use the quantizer rq_opq, or "
                'disable the gate (gate_parts = "opq")'
            )
        self.table = Table(shape.vocabulary, spec.dim, spec.id_table_start)
        if self.gated:
            self.rq = CodeTables(shape.sizes[: self.residual_levels], spec.dim, start=spec.code_table_start)
            fused = self.residual_levels * spec.dim
            self.fuse = nn.Linear(fused, spec.dim) if spec.gate_fuse == "concat" else None
            last = nn.Linear(spec.gate_hidden, 1)
            nn.init.constant_(last.bias, spec.gate_bias)
            self.gate_net = nn.Sequential(nn.Linear(shape.numeric_dim, spec.gate_hidden), nn.ReLU(), last)
            self.candidate_gate, self.history_gate = Gate(per_row=True), Gate()
            self.log_evidence = nn.Parameter(torch.tensor(float(np.log(spec.gate_evidence))))
        if self.has_opq:
            flat = shape.sizes[self.residual_levels :]
            self.opq = CodeTables(flat, spec.dim, start=spec.code_table_start)
            self.opq_join = nn.Linear(len(flat) * spec.dim, spec.dim, bias=False)
        self._keep(_nothing_fitted(shape, spec) | dict(fitted))

    fitted_counts: Tensor
    fitted_cells: Tensor
    fitted_cell_codes: Tensor
    fitted_neighbours: Tensor
    fitted_born_us: Tensor

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Compute training rows per id, and OPQ neighbours among the codes of the training rows."""
        counts = np.bincount(seen.index, weights=seen.shown, minlength=shape.vocabulary)
        counts[: UNKNOWN + 1] = 0
        fitted = _nothing_fitted(shape, spec) | {"counts": torch.from_numpy(counts.astype(np.float32))}
        if spec.gate_parts != "rq" and shape.refining < len(shape.sizes):
            fitted |= opq_neighbours(seen, shape.refining, shape.sizes, spec.neighbours)
        return fitted

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec, fitted or {})

    def forward(self, items: ItemBatch) -> Tensor:
        """Vectors of the items as used in histories; see :class:`Representation`."""
        return self._in_history(items, self._parts(items))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; candidates are gated by their row's numeric features."""
        parts = self._parts(batch.items)
        candidate = batch.candidate
        vectors = gather_rows(parts.id, candidate)
        if self.gated:
            gate = self._gate(batch.numeric, parts.coded[candidate], parts.known[candidate])[:, None]
            vectors = gate * vectors + (1 - gate) * gather_rows(parts.rq, candidate)
        return self._in_history(batch.items, parts), vectors + gather_rows(parts.opq, candidate)

    def gate(self, batch: Batch) -> Tensor:
        """The gate ``T`` of each row's candidate, ``float32 [rows]``; 1 without a gate."""
        if not self.gated:
            return torch.ones_like(batch.label)
        index, codes = batch.items.index[batch.candidate], batch.items.codes[batch.candidate]
        return self._gate(batch.numeric, (codes >= 0).all(dim=1), index > UNKNOWN)

    def _gate(self, numeric: Tensor, coded: Tensor, known: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate_net(numeric).squeeze(1))
        gate = torch.where(known, gate, gate.clamp(max=self.spec.gate_unknown))
        return torch.where(coded, self.candidate_gate(gate), 1.0)

    def _in_history(self, items: ItemBatch, parts: _Parts) -> Tensor:
        if not self.gated:
            return parts.id + parts.opq
        count = torch.where(parts.known, self.fitted_counts[items.index], 0.0)
        gate = self.history_gate(count / (count + self.log_evidence.exp()))
        gate = torch.where(parts.coded, gate, 1.0)[:, None]
        return gate * parts.id + (1 - gate) * parts.rq + parts.opq

    def _parts(self, items: ItemBatch) -> _Parts:
        index = dropped(items.index, self.spec.id_dropout) if self.training else items.index
        ids = self.table.rows(index)
        rq = self._rq(items.codes) if self.gated else ids
        opq = self.spec.opq_scale * self._opq(items.codes) if self.has_opq else torch.zeros_like(ids)
        return _Parts(ids, rq, opq, (items.codes >= 0).all(dim=1), index > UNKNOWN)

    def _rq(self, codes: Tensor) -> Tensor:
        rows = self.rq(codes[:, : self.residual_levels])
        fused: Tensor = rows.mean(dim=1) if self.fuse is None else self.fuse(rows.flatten(1))
        return fused

    def _opq(self, codes: Tensor) -> Tensor:
        """OPQ vectors; zeros for items without codes."""
        joined: Tensor = self.opq_join(self.opq(codes[:, self.residual_levels :]).flatten(1))
        return torch.where((codes >= 0).all(dim=1)[:, None], joined, 0.0)

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """``transfer`` and ``contrast``, where the model has the parts and a weight above 0."""
        weights = {"transfer": spec.transfer_weight, "contrast": spec.contrast_weight}
        absent = {"rq": "contrast", "opq": "transfer"}.get(spec.gate_parts)
        return {name: f"{name}_weight" for name, weight in weights.items() if weight > 0 and name != absent}

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """Transfer and contrastive loss, averaged over the distinct candidates of the batch, so head items count once."""
        places, back = torch.unique(batch.candidate, return_inverse=True)
        items = batch.items.take(places)
        coded = (items.codes >= 0).all(dim=1)
        losses = {}
        if self.gated and self.spec.transfer_weight > 0:
            losses["transfer"] = self.spec.transfer_weight * self._transfer(batch, items, back, coded)
        if self.has_opq and self.spec.contrast_weight > 0 and len(self.fitted_cells):
            earliest = torch.full_like(places, torch.iinfo(torch.int64).max)
            earliest = earliest.scatter_reduce(0, back, batch.at_us, "amin")
            losses["contrast"] = self.spec.contrast_weight * self._contrast(items.codes[coded], earliest[coded])
        return losses

    def _transfer(self, batch: Batch, items: ItemBatch, back: Tensor, coded: Tensor) -> Tensor:
        """Mean over the distinct candidates with codes and a known id; an item in several rows uses their mean gate."""
        gate = self.gate(batch).detach()
        count = torch.zeros_like(coded, dtype=gate.dtype)
        mean = count.index_add(0, back, gate) / count.index_add(0, back, torch.ones_like(gate))
        used = coded & (items.index > UNKNOWN)
        ids, rq = self.table.rows(items.index[used]), self._rq(items.codes[used])
        temperature, terms = self.spec.transfer_temperature, self.spec.transfer_terms
        loss = directional_transfer(ids, rq, mean[used], temperature, terms)
        return loss.sum() / used.sum().clamp(min=1)

    def _contrast(self, codes: Tensor, at_us: Tensor) -> Tensor:
        """Mean over the distinct candidates ``codes`` with a neighbour that existed at ``at_us`` int64 [items]."""
        keys = cell_keys(codes, self.residual_levels, self.sizes)
        positive, neighbours, has_positive = self.positives(keys, at_us)
        vectors = self._opq(codes)
        positives = self.opq_join(self.opq(self.fitted_cell_codes[positive[has_positive]]).flatten(1))
        others, most = torch.arange(len(keys), device=keys.device), self.spec.contrast_negatives
        if len(keys) > most:
            others = torch.randperm(len(keys), device=keys.device)[:most]
        excluded = _equal_pairs(torch.cat([keys[:, None], neighbours], dim=1)[has_positive], keys[others])
        anchors, temperature = vectors[has_positive], self.spec.contrast_temperature
        loss = masked_info_nce(anchors, positives, vectors[others], excluded, temperature)
        return loss.sum() / has_positive.sum().clamp(min=1)

    def positives(self, keys: Tensor, at_us: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample a positive for each item from its nearest OPQ codes that existed at the time.

        Parameters
        ----------
        keys, at_us : Tensor
            Cells (:func:`cell_keys`) and times of the items, ``int64 [items]``.

        Returns
        -------
        tuple
            The positive's cell index, ``int64 [items]`` (arbitrary without a positive); the keys of all neighbours,
            existing or not, ``int64 [items, neighbours]``, padded with -1; whether there is a positive, ``bool [items]``.
        """
        place = torch.searchsorted(self.fitted_cells, keys).clamp(max=max(len(self.fitted_cells) - 1, 0))
        listed = torch.where((self.fitted_cells[place] == keys)[:, None], self.fitted_neighbours[place], -1)
        valid = listed >= 0
        existing = valid & (self.fitted_born_us[listed.clamp(min=0)] <= at_us[:, None])
        draw = torch.rand(listed.shape, device=listed.device).masked_fill(~existing, -1.0)
        positive = listed.gather(1, draw.argmax(dim=1, keepdim=True)).squeeze(1).clamp(min=0)
        return positive, torch.where(valid, self.fitted_cells[listed.clamp(min=0)], -1), existing.any(dim=1)


def _equal_pairs(listed: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Index pairs (list, key) for which the key ``int64 [keys]`` occurs in the list ``int64 [lists, length]``."""
    ascending, order = keys.sort()
    low = torch.searchsorted(ascending, listed).flatten()
    count = torch.searchsorted(ascending, listed, right=True).flatten() - low
    entry = torch.repeat_interleave(count)
    within = torch.arange(len(entry), device=keys.device) - (count.cumsum(0) - count)[entry]
    return entry // listed.shape[1], order[low[entry] + within]


def _nothing_fitted(shape: ItemShape, spec: ModelSpec) -> dict[str, Tensor]:
    """The fitted state of a model without training rows."""
    none = torch.zeros(0, dtype=torch.int64)
    return {
        "counts": torch.zeros(shape.vocabulary),
        "cells": none,
        "cell_codes": none.view(0, len(shape.sizes) - shape.refining),
        "neighbours": none.view(0, spec.neighbours),
        "born_us": none,
    }
