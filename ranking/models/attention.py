"""Target attention: the candidate asks its user's history."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ranking.data.gather_rows import gather_rows

_BLOCK = 256
"""Rows whose histories are gathered at a time on a CPU, so that they stay in its cache."""


class TargetAttention(nn.Module):
    """Multi-head scaled dot-product attention of one candidate over a history.

    Padding gets no weight; an empty history gives zeros, whatever the candidate is.

    Parameters
    ----------
    dim : int
        Width of candidate and history vectors.
    heads : int
        Attention heads; each compares in ``dim / heads`` dimensions.
    time_buckets : int
        Buckets of the time gap between history item and row; each adds a learned number to the score.
    """

    def __init__(self, dim: int, heads: int = 2, time_buckets: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = max(1, dim // heads)
        self.query = nn.Linear(dim, self.head_dim * heads, bias=False)
        self.key = nn.Linear(dim, self.head_dim * heads, bias=False)
        self.recency = nn.Embedding(time_buckets, heads)
        nn.init.zeros_(self.recency.weight)

    def asked(self, candidate: Tensor) -> Tensor:
        """What each head looks for, as vectors ``float32 [batch, heads, dim]`` whose products with the items are the scores.

        ``(Q c) . (K h) = (c Q' K) . h``: with the two matrices multiplied first, the long side stays unprojected.
        """
        shape = (self.heads, self.head_dim, candidate.shape[1])
        both = torch.einsum("hdi,hde->ihe", self.query.weight.view(shape), self.key.weight.view(shape))
        asked = candidate @ (both.flatten(1) / math.sqrt(self.head_dim))
        return asked.view(len(candidate), self.heads, candidate.shape[1])

    def weights(self, candidate: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """How much each item counts, ``float32 [batch, heads, length]``, summing to 1 over what is there; see ``forward``."""
        return attend(self.asked(candidate), items, history, mask, gap_bucket, self.recency.weight)[1]

    def forward(self, candidate: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """Pool the history.

        Parameters
        ----------
        candidate : Tensor
            ``float32 [batch, dim]``.
        items : Tensor
            ``float32 [items, dim]``.
        history : Tensor
            ``int64 [batch, length]`` into ``items``.
        mask : Tensor
            ``bool [batch, length]``, true where there is an item.
        gap_bucket : Tensor
            ``int64 [batch, length]``.

        Returns
        -------
        Tensor
            ``float32 [batch, heads * dim]``.
        """
        return attend(self.asked(candidate), items, history, mask, gap_bucket, self.recency.weight)[0].flatten(1)


def attend(
    asked: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor, recency: Tensor
) -> tuple[Tensor, Tensor]:
    """Histories pooled by a masked softmax of products and recency, ``float32 [batch, heads, dim]``, and what weighed them.

    A few hundred rows at a time: the gathered histories, ``[batch, length, dim]`` and their gradient, never lie in memory as
    a whole, which is most of the time that an attention over some ten thousand vectors takes. It can be differentiated once,
    and not by its weights, ``float32 [batch, heads, length]``.

    Parameters
    ----------
    asked : Tensor
        ``float32 [batch, heads, dim]``.
    items, history, mask, gap_bucket
        As for :class:`TargetAttention`.
    recency : Tensor
        A number per time bucket and head, ``float32 [buckets, heads]``.
    """
    with torch.autocast(items.device.type, enabled=False):
        found: tuple[Tensor, Tensor] = _Attend.apply(  # type: ignore[no-untyped-call]
            asked.float(), items.float(), recency, history, torch.where(mask, gap_bucket, len(recency))
        )
    return found


class _Attend(torch.autograd.Function):
    """``bucket`` ``int64 [batch, length]`` is the number of buckets where there is no item."""

    @staticmethod
    def forward(
        ctx: Any, asked: Tensor, items: Tensor, recency: Tensor, history: Tensor, bucket: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Very low but finite, also when a score is added: a row of nothing but padding must not become NaN.
        nothing = recency.new_full((recency.shape[1], 1), torch.finfo(recency.dtype).min / 2)
        bias = torch.cat([recency.t(), nothing], dim=1)
        some = (bucket < len(recency)).any(dim=1)[:, None, None]
        weights, pooled = asked.new_empty((*asked.shape[:2], history.shape[1])), torch.empty_like(asked)
        for rows in _blocks(asked):
            past = gather_rows(items, history[rows])
            score = bias.index_select(1, bucket[rows].flatten()).view(len(bias), *past.shape[:2]).transpose(0, 1)
            score = torch.baddbmm(score, asked[rows], past.transpose(1, 2))
            weights[rows] = torch.softmax(score, dim=2) * some[rows]
            pooled[rows] = torch.bmm(weights[rows], past)
        ctx.save_for_backward(asked, items, history, bucket, weights)
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)  # no zeros for what has no gradient
        ctx.buckets = len(recency)
        return pooled, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        asked, items, history, bucket, weights = ctx.saved_tensors
        of_asked, of_items, of_score = torch.empty_like(asked), torch.zeros_like(items), torch.empty_like(weights)
        # An item's gradient is what it was weighed with times what came back, and what its score got times what was asked.
        back = torch.cat([gradient, asked], dim=1)
        for rows in _blocks(asked):
            places = history[rows].flatten()
            past, weight = gather_rows(items, history[rows]), weights[rows]
            of_weight = weight * torch.bmm(gradient[rows], past.transpose(1, 2))
            score = of_weight - weight * of_weight.sum(dim=2, keepdim=True)
            of_score[rows] = score
            of_asked[rows] = torch.bmm(score, past)
            both = torch.cat([weight, score], dim=1).transpose(1, 2)
            of_items.index_add_(0, places, torch.bmm(both, back[rows]).flatten(0, 1))
        flat = bucket.flatten()
        per_head = [torch.bincount(flat, each.flatten(), ctx.buckets + 1) for each in of_score.unbind(dim=1)]
        of_recency = torch.stack(per_head, dim=1)[: ctx.buckets].to(items.dtype)
        return of_asked, of_items, of_recency, None, None


def _blocks(rows: Tensor) -> list[slice]:
    """All rows in blocks; a GPU takes them at once."""
    size = _BLOCK if rows.device.type == "cpu" else max(len(rows), 1)
    return [slice(start, start + size) for start in range(0, len(rows), size)]
