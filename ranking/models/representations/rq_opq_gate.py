"""SMILE's item vector (arXiv 2510.12604, steps 1 and 2): the id and its RQ codes behind a gate, plus what OPQ tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.data.vocabulary import UNKNOWN
from ranking.models.losses import directional_transfer, masked_info_nce
from ranking.models.representations.base import ItemShape, Table
from ranking.models.representations.code_tables import CodeTables
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.representations.id import dropped
from ranking.models.representations.opq_neighbours import cell_keys, opq_neighbours
from ranking.models.spec import ModelSpec
from sidkit.core.errors import ConfigError


class _Parts(NamedTuple):
    """Per item: id vector, RQ vector, lambda times the OPQ vector (float32 [items, dim] each), whether it has codes and
    whether its id is known (bool [items]).
    """

    own: Tensor
    shared: Tensor
    apart: Tensor
    coded: Tensor
    known: Tensor


class RqOpqGateRepresentation(CodedRepresentation):
    """``T * id + (1 - T) * RQ + lambda * OPQ``.

    The gate ``T`` is a scalar per row: a sigmoid on a small network of the row's numeric features (cross, user and
    point-in-time item features), whose bias starts in favour of the codes. An unknown id holds it at ``gate_unknown`` or
    below; an item without codes has ``T = 1`` and no OPQ part, since there is nothing else.

    Items of a history have no row of their own. What is known of them is how many training rows taught their id's table
    row, ``n``; their gate is ``n / (n + k)`` with one learned ``k``: the more an id was trained, the more it counts, and an
    unknown one does not count at all. (``n`` is a fact about this model's table, as the row itself is; it is no feature
    of the item, and candidates never see it.)

    ``gate_parts`` of the spec leaves a part out: ``rq`` has no OPQ, ``opq`` is ``id + lambda * OPQ`` without a gate.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` ids, ``numeric_dim`` features for the gate, codes of all ``sizes``.
    spec : ModelSpec
        Widths, gate and losses.
    fitted : mapping
        What :meth:`fit` gave; without it no id counts in histories, and there is no OPQ loss.

    Raises
    ------
    ConfigError
        When the codes have no part that this needs.
    """

    knows_ids = True

    def __init__(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor]) -> None:
        super().__init__(shape, spec.dim)
        self.spec = spec
        self.gated, self.has_opq = spec.gate_parts != "opq", spec.gate_parts != "rq"
        if self.has_opq and self.residual_levels == len(shape.sizes):
            raise ConfigError(
                f"rq_opq_gate needs OPQ codes and all {len(shape.sizes)} levels of the codebook refine each other; use "
                'the quantizer rq_opq, or leave the OPQ part out (gate_parts = "rq")'
            )
        if self.gated and self.residual_levels == 0:
            raise ConfigError(
                "rq_opq_gate leans on codes that refine each other and the codebook has none; use the quantizer rq_opq, or "
                'leave the gate out (gate_parts = "opq")'
            )
        self.table = Table(shape.vocabulary, spec.dim)
        if self.gated:
            self.rq = CodeTables(shape.sizes[: self.residual_levels], spec.dim)
            fused = self.residual_levels * spec.dim
            self.fuse = nn.Linear(fused, spec.dim) if spec.gate_fuse == "concat" else None
            last = nn.Linear(spec.gate_hidden, 1)
            nn.init.constant_(last.bias, spec.gate_bias)
            self.gate_net = nn.Sequential(nn.Linear(shape.numeric_dim, spec.gate_hidden), nn.ReLU(), last)
            self.log_evidence = nn.Parameter(torch.tensor(float(np.log(spec.gate_evidence))))
        if self.has_opq:
            flat = shape.sizes[self.residual_levels :]
            self.opq = CodeTables(flat, spec.dim)
            self.opq_join = nn.Linear(len(flat) * spec.dim, spec.dim, bias=False)
        self._keep(_nothing_fitted(shape, spec) | dict(fitted))

    fitted_counts: Tensor
    fitted_cells: Tensor
    fitted_cell_codes: Tensor
    fitted_neighbours: Tensor
    fitted_born_us: Tensor

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Training rows per id, and the OPQ neighbours among the codes that training rows showed."""
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
        """Vectors of the items as a history holds them; see :class:`Representation`."""
        return self._in_history(items, self._parts(items))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; the candidates are gated by their rows."""
        parts = self._parts(batch.items)
        candidate = batch.candidate
        vectors = gather_rows(parts.own, candidate)
        if self.gated:
            gate = self._gate(batch.numeric, parts.coded[candidate], parts.known[candidate])[:, None]
            vectors = gate * vectors + (1 - gate) * gather_rows(parts.shared, candidate)
        return self._in_history(batch.items, parts), vectors + gather_rows(parts.apart, candidate)

    def gate(self, batch: Batch) -> Tensor:
        """The gate ``T`` of each row's candidate, ``float32 [rows]``; 1 where there is no gate."""
        if not self.gated:
            return torch.ones_like(batch.label)
        index, codes = batch.items.index[batch.candidate], batch.items.codes[batch.candidate]
        return self._gate(batch.numeric, (codes >= 0).all(dim=1), index > UNKNOWN)

    def _gate(self, numeric: Tensor, coded: Tensor, known: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate_net(numeric).squeeze(1))
        gate = torch.where(known, gate, gate.clamp(max=self.spec.gate_unknown))
        return torch.where(coded, gate, 1.0)

    def _in_history(self, items: ItemBatch, parts: _Parts) -> Tensor:
        if not self.gated:
            return parts.own + parts.apart
        count = torch.where(parts.known, self.fitted_counts[items.index], 0.0)
        gate = torch.where(parts.coded, count / (count + self.log_evidence.exp()), 1.0)[:, None]
        return gate * parts.own + (1 - gate) * parts.shared + parts.apart

    def _parts(self, items: ItemBatch) -> _Parts:
        index = dropped(items.index, self.spec.id_dropout) if self.training else items.index
        own = self.table.rows(index)
        shared = self._rq(items.codes) if self.gated else own
        apart = self.spec.opq_scale * self._opq(items.codes) if self.has_opq else torch.zeros_like(own)
        return _Parts(own, shared, apart, (items.codes >= 0).all(dim=1), index > UNKNOWN)

    def _rq(self, codes: Tensor) -> Tensor:
        rows = self.rq(codes[:, : self.residual_levels])
        fused: Tensor = rows.mean(dim=1) if self.fuse is None else self.fuse(rows.flatten(1))
        return fused

    def _opq(self, codes: Tensor) -> Tensor:
        """OPQ vectors; zeros for items without codes."""
        joined: Tensor = self.opq_join(self.opq(codes[:, self.residual_levels :]).flatten(1))
        return torch.where((codes >= 0).all(dim=1)[:, None], joined, 0.0)

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """Transfer and contrast, over the distinct candidates of the batch: a head item counts once, as a tail item does."""
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
        """Mean over the distinct candidates with codes and a known id; an item of several rows has their mean gate."""
        gate = self.gate(batch).detach()
        count = torch.zeros_like(coded, dtype=gate.dtype)
        mean = count.index_add(0, back, gate) / count.index_add(0, back, torch.ones_like(gate))
        there = coded & (items.index > UNKNOWN)
        own, shared = self.table.rows(items.index[there]), self._rq(items.codes[there])
        loss = directional_transfer(own, shared, mean[there], self.spec.transfer_temperature)
        return loss.sum() / there.sum().clamp(min=1)

    def _contrast(self, codes: Tensor, at_us: Tensor) -> Tensor:
        """Mean over the distinct candidates ``codes`` that have a neighbour which existed at ``at_us`` int64 [items]."""
        keys = cell_keys(codes, self.residual_levels, self.sizes)
        positive, neighbours, found = self.positives(keys, at_us)
        vectors = self._opq(codes)
        towards = self.opq_join(self.opq(self.fitted_cell_codes[positive[found]]).flatten(1))
        others, most = torch.arange(len(keys), device=keys.device), self.spec.contrast_negatives
        if len(keys) > most:
            others = torch.randperm(len(keys), device=keys.device)[:most]
        alike = _equal_pairs(torch.cat([keys[:, None], neighbours], dim=1)[found], keys[others])
        loss = masked_info_nce(vectors[found], towards, vectors[others], alike, self.spec.contrast_temperature)
        return loss.sum() / found.sum().clamp(min=1)

    def positives(self, keys: Tensor, at_us: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a positive for each item from its nearest OPQ codes that existed then.

        Parameters
        ----------
        keys, at_us : Tensor
            Cells (:func:`cell_keys`) and moments of the items, ``int64 [items]``.

        Returns
        -------
        tuple
            The positive's place among the cells, ``int64 [items]`` (any where there is none); the keys of all its
            neighbours, ``int64 [items, neighbours]``, born or not, -1 where there are fewer; and whether it has a
            positive, ``bool [items]``.
        """
        place = torch.searchsorted(self.fitted_cells, keys).clamp(max=max(len(self.fitted_cells) - 1, 0))
        listed = torch.where((self.fitted_cells[place] == keys)[:, None], self.fitted_neighbours[place], -1)
        there = listed >= 0
        born = there & (self.fitted_born_us[listed.clamp(min=0)] <= at_us[:, None])
        draw = torch.rand(listed.shape, device=listed.device).masked_fill(~born, -1.0)
        positive = listed.gather(1, draw.argmax(dim=1, keepdim=True)).squeeze(1).clamp(min=0)
        return positive, torch.where(there, self.fitted_cells[listed.clamp(min=0)], -1), born.any(dim=1)


def _equal_pairs(listed: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of a list of ``int64 [lists, length]`` and one of the ``int64 [keys]`` that is in it: the numbers of both."""
    ascending, order = keys.sort()
    low = torch.searchsorted(ascending, listed).flatten()
    count = torch.searchsorted(ascending, listed, right=True).flatten() - low
    entry = torch.repeat_interleave(count)
    within = torch.arange(len(entry), device=keys.device) - (count.cumsum(0) - count)[entry]
    return entry // listed.shape[1], order[low[entry] + within]


def _nothing_fitted(shape: ItemShape, spec: ModelSpec) -> dict[str, Tensor]:
    """The fitted state before any row was seen."""
    none = torch.zeros(0, dtype=torch.int64)
    return {
        "counts": torch.zeros(shape.vocabulary),
        "cells": none,
        "cell_codes": none.view(0, len(shape.sizes) - shape.refining),
        "neighbours": none.view(0, spec.neighbours),
        "born_us": none,
    }
