"""Codes that attend over the views of their item, with masked-code prediction (CCFRec, arXiv 2503.12183)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ranking.data.batch import Batch, ItemBatch
from ranking.data.gather_rows import gather_rows
from ranking.models.losses import masked_code_prediction, symmetric_info_nce
from ranking.models.representations.base import ItemShape
from ranking.models.representations.code_tables import CodeTables
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.representations.matches import CONTENT_MATCHES, content_matches
from ranking.models.set_attention import CodeQueryLayer
from ranking.models.spec import ModelSpec

_USERS = 128
"""Maximum number of histories of a batch that the alignment reads."""
_MASKED, _RANDOM = 0.8, 0.1
"""Of the chosen codes: the share replaced by the mask, and by a random code of their level; others are kept."""


class CodeQueriesRepresentation(CodedRepresentation):
    """The mean of an item's codes after layers of attention among them and over the item's views.

    The rows of the item's codes are queries, ``Q`` float32 [codes, dim]. A layer is self-attention among ``Q``, cross-attention
    of ``Q`` to the views, and a feed-forward network, without positions: codes are a set. Views are equal ranges of the content
    vector, each projected to ``dim``; with the encoder ``whitened_views`` they are the modalities. The authors whiten each view
    a second time to the width of the ranker; the projection takes the place of that. A view that is all zeros is missing. The
    vector of a history item is the mean of the last layer; that of a candidate also has the mean of its code rows.

    Two losses train codes without clicks, on the candidates of a batch and the items of up to 128 histories. A share of their
    codes is chosen (``mask_ratio``) and, as in BERT, replaced by a mask (80 %), by a random code of its level (10 %), or kept.
    The mask is the row of items without codes, which is thereby trained.

    - ``masked_codes``: the chosen codes are predicted from the other codes and the views, by a softmax of cosines over the rows
      of all codes.
    - ``masked_users``: the mean vector of a history with masked codes is contrasted with that of the same history without them
      (symmetric InfoNCE). The authors contrast the outputs of their sequence encoder, which this ranker does not have.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level, ``content_dim`` is the width of the content.
    spec : ModelSpec
        Width, layers, views and losses.
    """

    def __init__(self, shape: ItemShape, spec: ModelSpec) -> None:
        super().__init__(shape, spec.dim)
        self.spec = spec
        self.matched = shape.matched
        self.match_dim += CONTENT_MATCHES if shape.matches_content else 0
        self.codes = CodeTables(shape.sizes, spec.dim, start=spec.code_table_start)
        self.register_buffer("level_sizes", torch.tensor(shape.sizes), persistent=False)
        self.columns = min(spec.query_view_columns, shape.content_dim)
        count = -(-shape.content_dim // self.columns)
        self.views = nn.ModuleList(nn.Linear(self.columns, spec.dim) for _ in range(count))
        layers = (CodeQueryLayer(spec.dim, spec.heads, count, spec.query_dropout) for _ in range(spec.query_layers))
        self.layers = nn.ModuleList(layers)

    level_sizes: Tensor

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        return self._tokens(self.codes(items.codes), items).mean(dim=1)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; a candidate also has the mean of its code rows."""
        queries = self.codes(batch.items.codes)
        vectors = self._tokens(queries, batch.items).mean(dim=1)
        return vectors, gather_rows(vectors + queries.mean(dim=1), batch.candidate)

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Match features of content, then of the codes."""
        content = content_matches(items, candidate, history, mask, self.matched)
        return torch.cat([content, super().match(items, candidate, history, mask)], dim=1)

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """``masked_codes`` and ``masked_users``, if their weights are above 0."""
        keys = {"masked_codes": "masked_codes_weight", "masked_users": "masked_users_weight"}
        return {loss: key for loss, key in keys.items() if getattr(spec, key) > 0}

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """The losses whose weights are above 0."""
        wanted = self.losses(self.spec)
        if not wanted:
            return {}
        history = _distinct_histories(batch)
        known = history >= 0
        chosen = torch.unique(torch.cat([batch.candidate, history[known]]))
        items = batch.items.take(chosen)
        rows = self.codes.rows(items.codes)
        masked = (torch.rand(rows.shape, device=rows.device) < self.spec.mask_ratio) & (rows > 0)
        tokens = self._tokens(self._masked(rows, masked), items)
        losses = {}
        if "masked_codes" in wanted:
            table = self.codes.table.weight[1:]
            loss = masked_code_prediction(tokens[masked], table, rows[masked] - 1, self.spec.masked_temperature)
            losses["masked_codes"] = self.spec.masked_codes_weight * loss
        if "masked_users" in wanted:
            place = torch.zeros_like(batch.items.index)
            place[chosen] = torch.arange(len(chosen), device=place.device)
            own = self._tokens(self.codes.table.rows(rows), items).mean(dim=1)
            masked_users, users = (
                _means(vectors, place[history.clamp(min=0)], known) for vectors in (tokens.mean(dim=1), own)
            )
            loss = symmetric_info_nce(masked_users, users, self.spec.masked_temperature)
            losses["masked_users"] = self.spec.masked_users_weight * loss
        return losses

    def _tokens(self, queries: Tensor, items: ItemBatch) -> Tensor:
        """The codes of items after all layers, ``float32 [items, codes, dim]``, from ``queries`` of the same shape."""
        missing = len(self.views) * self.columns - items.content.shape[1]
        content = functional.pad(items.content, (0, missing)) if missing else items.content
        parts = torch.split(content, self.columns, dim=1)
        has_view = torch.stack([(part != 0).any(dim=1) for part in parts], dim=1)
        views = torch.stack([view(part) for view, part in zip(self.views, parts, strict=True)], dim=1)
        for layer in self.layers:
            queries = layer(queries, views, has_view)
        return queries

    def _masked(self, rows: Tensor, masked: Tensor) -> Tensor:
        """Code embeddings ``float32 [items, codes, dim]`` of table ``rows`` int64, replaced where ``masked`` bool."""
        draw = torch.rand(rows.shape, device=rows.device)
        other = self.codes.starts + (torch.rand(rows.shape, device=rows.device) * self.level_sizes).long()
        replaced = masked & (draw >= _MASKED) & (draw < _MASKED + _RANDOM)
        return self.codes.table.rows(torch.where(replaced, other, torch.where(masked & (draw < _MASKED), 0, rows)))


def _distinct_histories(batch: Batch) -> Tensor:
    """At most :data:`_USERS` distinct histories, ``int64 [users, length]`` into the items of the batch; -1 for padding."""
    known = torch.where(batch.mask, batch.history, -1)[batch.mask.any(dim=1)]
    distinct = torch.unique(known, dim=0) if len(known) else known
    return distinct[torch.randperm(len(distinct), device=distinct.device)[:_USERS]]


def _means(vectors: Tensor, history: Tensor, known: Tensor) -> Tensor:
    """Mean vectors ``float32 [users, dim]`` of the ``known`` bool items of ``history`` int64 [users, length]."""
    weight = known / known.sum(dim=1, keepdim=True).clamp(min=1)
    return (weight[:, None, :] @ gather_rows(vectors, history)).squeeze(1)
