"""Target attention: the candidate attends over the user's history."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ranking.data.gather_rows import gather_rows
from ranking.models.parts import Attention
from ranking.models.plain import is_plain

_BLOCK = 256
"""Rows per block on a CPU, so that the gathered histories fit in cache."""


class TargetAttention(Attention):
    """Multi-head scaled dot-product attention of a candidate over a history.

    ``softmax_j((Q c) . (K h_j) / sqrt(head_dim) + recency[gap_j])`` weighs the history vectors ``h_j``. Padding is
    masked; an empty history gives zeros.

    Parameters
    ----------
    dim : int
        Width of candidate and history vectors.
    heads : int
        Attention heads of width ``dim / heads``.
    time_buckets : int
        Buckets of the time gap between history item and row; each adds a learned bias to the score.
    """

    def __init__(self, dim: int, heads: int = 2, time_buckets: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = max(1, dim // heads)
        self.query = nn.Linear(dim, self.head_dim * heads, bias=False)
        self.key = nn.Linear(dim, self.head_dim * heads, bias=False)
        self.recency = nn.Embedding(time_buckets, heads)
        nn.init.zeros_(self.recency.weight)

    def queries(self, candidate: Tensor) -> Tensor:
        """Queries ``float32 [batch, heads, dim]`` whose dot products with the unprojected items are the scores.

        ``(Q c) . (K h) = (c Q' K) . h``: multiplying the two matrices first avoids projecting the history. Zeros for an
        attention that is forced off, as in :meth:`biases`: all scores are equal then.
        """
        if self.is_off:
            return candidate.new_zeros((candidate.shape[0], self.heads, candidate.shape[1]))
        shape = (self.heads, self.head_dim, candidate.shape[1])
        both = torch.einsum("hdi,hde->ihe", self.query.weight.view(shape), self.key.weight.view(shape))
        projected = candidate @ (both.flatten(1) / math.sqrt(self.head_dim))
        return projected.view(candidate.shape[0], self.heads, candidate.shape[1])

    def biases(self) -> Tensor:
        """Recency biases ``float32 [buckets, heads]``."""
        return torch.zeros_like(self.recency.weight) if self.is_off else self.recency.weight

    def weights(self, candidate: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """Attention weights ``float32 [batch, heads, length]``, summing to 1 over the unmasked items; see ``forward``."""
        return attend(self.queries(candidate), items, history, mask, gap_bucket, self.biases())[1]

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
            ``bool [batch, length]``, false for padding.
        gap_bucket : Tensor
            ``int64 [batch, length]``.

        Returns
        -------
        Tensor
            ``float32 [batch, heads * dim]``.
        """
        pooled, weights = attend(self.queries(candidate), items, history, mask, gap_bucket, self.biases())
        self.observe(weights, mask)
        return pooled.flatten(1)


def attend(
    queries: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor, recency: Tensor
) -> tuple[Tensor, Tensor]:
    """Pool histories by a masked softmax of dot products plus recency biases.

    Works on a few hundred rows at a time, so the gathered histories ``[batch, length, dim]`` and their gradient are never
    materialised; this dominates the time of attention over some ten thousand vectors. Differentiable once, and only
    through the pooled vectors.

    Parameters
    ----------
    queries : Tensor
        ``float32 [batch, heads, dim]``.
    items, history, mask, gap_bucket
        See :class:`TargetAttention`.
    recency : Tensor
        Bias per time bucket and head, ``float32 [buckets, heads]``.

    Returns
    -------
    tuple of Tensor
        Pooled vectors ``float32 [batch, heads, dim]`` and attention weights ``float32 [batch, heads, length]``.
    """
    bucket = torch.where(mask, gap_bucket, len(recency))
    if is_plain():
        return _pool(queries.float(), items.float(), recency, history, bucket)
    with torch.autocast(items.device.type, enabled=False):
        pooled_and_weights: tuple[Tensor, Tensor] = _Attend.apply(  # type: ignore[no-untyped-call]
            queries.float(), items.float(), recency, history, bucket
        )
    return pooled_and_weights


class _Attend(torch.autograd.Function):
    """Autograd function of :func:`attend`; ``bucket`` ``int64 [batch, length]`` equals the bucket count for padding."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, items: Tensor, recency: Tensor, history: Tensor, bucket: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights, pooled = queries.new_empty((*queries.shape[:2], history.shape[1])), torch.empty_like(queries)
        for rows in _blocks(queries):
            pooled[rows], weights[rows] = _pool(queries[rows], items, recency, history[rows], bucket[rows])
        ctx.save_for_backward(queries, items, history, bucket, weights)
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)  # do not allocate zeros for the weights' gradient
        ctx.buckets = len(recency)
        return pooled, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        queries, items, history, bucket, weights = ctx.saved_tensors
        of_queries, of_items, of_score = torch.empty_like(queries), torch.zeros_like(items), torch.empty_like(weights)
        # d(item) = weight * d(pooled) + d(score) * query
        back = torch.cat([gradient, queries], dim=1)
        for rows in _blocks(queries):
            places = history[rows].flatten()
            past, weight = gather_rows(items, history[rows]), weights[rows]
            of_weight = weight * torch.bmm(gradient[rows], past.transpose(1, 2))
            score = of_weight - weight * of_weight.sum(dim=2, keepdim=True)
            of_score[rows] = score
            of_queries[rows] = torch.bmm(score, past)
            both = torch.cat([weight, score], dim=1).transpose(1, 2)
            of_items.index_add_(0, places, torch.bmm(both, back[rows]).flatten(0, 1))
        flat = bucket.flatten()
        per_head = [torch.bincount(flat, each.flatten(), ctx.buckets + 1) for each in of_score.unbind(dim=1)]
        of_recency = torch.stack(per_head, dim=1)[: ctx.buckets].to(items.dtype)
        return of_queries, of_items, of_recency, None, None


def _pool(queries: Tensor, items: Tensor, recency: Tensor, history: Tensor, bucket: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled vectors and attention weights of some rows."""
    # Finite even after adding a score, so that a row of padding only does not become NaN.
    masked = recency.new_full((recency.shape[1], 1), torch.finfo(recency.dtype).min / 2)
    bias = torch.cat([recency.t(), masked], dim=1)
    nonempty = (bucket < recency.shape[0]).any(dim=1)[:, None, None]
    past = gather_rows(items, history)
    score = bias.index_select(1, bucket.flatten()).view(bias.shape[0], *history.shape).transpose(0, 1)
    score = torch.baddbmm(score, queries, past.transpose(1, 2))
    weights = torch.softmax(score, dim=2) * nonempty
    return torch.bmm(weights, past), weights


def _blocks(rows: Tensor) -> list[slice]:
    """Split the rows into blocks on a CPU; one block on a GPU."""
    size = _BLOCK if rows.device.type == "cpu" else max(len(rows), 1)
    return [slice(start, start + size) for start in range(0, len(rows), size)]
