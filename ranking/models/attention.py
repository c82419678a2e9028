"""Target attention: the candidate attends over the user's history."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ranking.data.gather_rows import gather_rows, is_shared, longest
from ranking.data.plain import is_plain
from ranking.models.parts import Attention
from ranking.models.spec import ModelSpec

_BLOCK = 256
"""Rows per block on a CPU, so that the gathered histories fit in cache; a block is as wide as its longest history."""
_LARGEST_SCALE = 100.0
"""Upper limit of a learned scale of cosines."""
_SCALE_RATE = 10.0
"""The logarithm of the scale changes this many times as fast as other weights of layers: hundreds of steps at rates of about
1e-3 would change it by less than a third."""
_SMALLEST_SQUARE = 1e-12
"""Lower limit of squared norms: vectors of zeros have cosine 0 with all others."""


class RecencyBiases(nn.Embedding):
    """Biases of attention scores by time bucket and head. They train like a layer: there are few, each with many training
    rows.
    """


class TargetAttention(Attention):
    """Multi-head attention of a candidate over a history, by scaled dot products or by cosines.

    ``softmax_j((Q c) . (K h_j) / sqrt(head_dim) + recency[gap_j])`` weighs the history vectors ``h_j``, or, with a ``scale``,
    ``softmax_j(scale * cos(Q c, K h_j) + recency[gap_j])``. Padding is masked; an empty history gives zeros.

    Dot products of short vectors, such as embeddings at the start of training, are all close to 0, and so are their gradients:
    the weights stay uniform. Cosines do not depend on the lengths of vectors (query-key normalization, arXiv 2010.04245,
    here with one learned scale per head). ``K`` starts as ``Q``, so that similar items have a high weight from the start.

    Parameters
    ----------
    dim : int
        Width of candidate and history vectors.
    heads : int
        Attention heads of width ``dim / heads``.
    time_buckets : int
        Buckets of the time gap between history item and row; each adds a learned bias to the score.
    scale : float, optional
        Initial scale of the cosines, the reciprocal of a softmax temperature; it is learned, up to 100. None: dot products.
    """

    def __init__(self, dim: int, heads: int = 2, time_buckets: int = 16, scale: float | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = max(1, dim // heads)
        self.query = nn.Linear(dim, self.head_dim * heads, bias=False)
        self.key = nn.Linear(dim, self.head_dim * heads, bias=False)
        self.recency = RecencyBiases(time_buckets, heads)
        nn.init.zeros_(self.recency.weight)
        self.log_scale: nn.Parameter | None = None
        if scale is not None:
            self.log_scale = nn.Parameter(torch.full((heads,), math.log(scale) / _SCALE_RATE))
            with torch.no_grad():
                self.key.weight.copy_(self.query.weight)

    @classmethod
    def from_spec(cls, dim: int, spec: ModelSpec, time_buckets: int) -> TargetAttention:
        """Make the attention that a model's spec describes, over vectors of width ``dim``."""
        return cls(dim, spec.heads, time_buckets, spec.attention_scale if spec.attention == "cosine" else None)

    def queries(self, candidate: Tensor) -> Tensor:
        """Queries ``float32 [batch, heads, dim]`` whose dot products with the unprojected items, times their
        :meth:`key_scale` if there is one, are the scores.

        ``(Q c) . (K h) = (c Q' K) . h``: multiplying the two matrices first avoids projecting the history. Zeros for an
        attention that is forced off, as in :meth:`biases`: all scores are equal then.
        """
        if self.is_off:
            return candidate.new_zeros((candidate.shape[0], self.heads, candidate.shape[1]))
        shape = (self.heads, self.head_dim, candidate.shape[1])
        if self.log_scale is not None:
            own = self.query(candidate).view(-1, self.heads, self.head_dim)
            unit = own * _reciprocal_norm(own)[:, :, None]
            return torch.einsum("bhd,hdi->bhi", unit * self.scale()[:, None], self.key.weight.view(shape))
        both = torch.einsum("hdi,hde->ihe", self.query.weight.view(shape), self.key.weight.view(shape))
        projected = candidate @ (both.flatten(1) / math.sqrt(self.head_dim))
        return projected.view(candidate.shape[0], self.heads, candidate.shape[1])

    def scale(self) -> Tensor:
        """Factor of the cosines by head, ``float32 [heads]``; 1 for dot products."""
        if self.log_scale is None:
            return torch.ones(self.heads)
        return (_SCALE_RATE * self.log_scale).exp().clamp(max=_LARGEST_SCALE)

    def key_scale(self, items: Tensor) -> Tensor | None:
        """Reciprocals of the norms of the items' keys, ``float32 [items, heads]``; None for dot products."""
        if self.log_scale is None:
            return None
        return _reciprocal_norm(self.key(items).view(-1, self.heads, self.head_dim))

    def biases(self) -> Tensor:
        """Recency biases ``float32 [buckets, heads]``."""
        return torch.zeros_like(self.recency.weight) if self.is_off else self.recency.weight

    def weights(self, candidate: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """Attention weights ``float32 [batch, heads, length]``, summing to 1 over the unmasked items; see ``forward``."""
        return self._attend(candidate, items, history, mask, gap_bucket)[1]

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
        pooled, weights = self._attend(candidate, items, history, mask, gap_bucket)
        self.observe(weights, mask)
        return pooled.flatten(1)

    def _attend(
        self, candidate: Tensor, items: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor
    ) -> tuple[Tensor, Tensor]:
        queries, scale = self.queries(candidate), self.key_scale(items)
        return attend(queries, items, history, mask, gap_bucket, self.biases(), scale)


def _reciprocal_norm(vectors: Tensor) -> Tensor:
    """One over the length of each vector of the last dimension."""
    return vectors.float().square().sum(dim=-1).clamp(min=_SMALLEST_SQUARE).rsqrt()


def attend(
    queries: Tensor,
    items: Tensor,
    history: Tensor,
    mask: Tensor,
    gap_bucket: Tensor,
    recency: Tensor,
    key_scale: Tensor | None = None,
    share: Tensor | None = None,
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
    key_scale : Tensor, optional
        Factor of an item's dot products by head, ``float32 [items, heads]``; by default 1.
    share : Tensor, optional
        ``float32 [batch]``. Pool by half as many maps: ``share`` times the weights of the second half of the heads plus ``1 -
        share`` times those of the first.

    Returns
    -------
    tuple of Tensor
        Pooled vectors ``float32 [batch, maps, dim]``, where maps are the heads or, with a ``share``, half of them, and the
        attention weights of the heads ``float32 [batch, heads, length]``.
    """
    bucket = torch.where(mask, gap_bucket, len(recency))
    factor = None if key_scale is None else key_scale.float()
    if is_plain():
        return _pool(queries.float(), items.float(), recency, history, bucket, factor, share)[:2]
    with torch.autocast(items.device.type, enabled=False):
        if not torch.is_grad_enabled() and all(map(is_shared, (history, mask, gap_bucket))):
            rows = (history[0], mask[0], gap_bucket[0])
            return _attend_shared(queries.float(), items.float(), *rows, recency, factor, share)
        pooled_and_weights: tuple[Tensor, Tensor] = _Attend.apply(  # type: ignore[no-untyped-call]
            queries.float(), items.float(), recency, history, bucket, factor, None if share is None else share.float()
        )
    return pooled_and_weights


def _attend_shared(
    queries: Tensor,
    items: Tensor,
    history: Tensor,
    mask: Tensor,
    gap_bucket: Tensor,
    recency: Tensor,
    key_scale: Tensor | None,
    share: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """:func:`attend` of rows that share one history: ``history``, ``mask`` and ``gap_bucket`` are of shape ``[length]``."""
    past = gather_rows(items, history)
    bias = recency.index_select(0, gap_bucket).t().masked_fill(~mask, torch.finfo(recency.dtype).min / 2)
    score = (queries.flatten(0, 1) @ past.t()).view(*queries.shape[:2], len(history))
    if key_scale is not None:
        score = score * gather_rows(key_scale, history).t()
    score = score + bias
    weights = torch.softmax(score, dim=2) * mask.any()
    maps = mixed_maps(weights, share)
    return (maps.flatten(0, 1) @ past).view(*maps.shape[:2], past.shape[1]), weights


def mixed_maps(weights: Tensor, share: Tensor | None) -> Tensor:
    """``share`` float32 [batch] times the second half of the heads of ``weights`` [batch, heads, any] plus ``1 - share`` times
    the first half; without a share, the weights.
    """
    if share is None:
        return weights
    first, second = weights.chunk(2, dim=1)
    return torch.lerp(first, second, share[:, None, None])


class _Attend(torch.autograd.Function):
    """Autograd function of :func:`attend`; ``bucket`` ``int64 [batch, length]`` equals the bucket count for padding."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        recency: Tensor,
        history: Tensor,
        bucket: Tensor,
        key_scale: Tensor | None,
        share: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        weights = queries.new_zeros((*queries.shape[:2], history.shape[1]))
        dots = None if key_scale is None else torch.zeros_like(weights)
        maps = queries.shape[1] // (1 if share is None else 2)
        pooled = queries.new_empty((len(queries), maps, queries.shape[2]))
        for rows, used in _blocks(bucket, len(recency)):
            of_rows = None if share is None else share[rows]
            pooled[rows], weights[rows, :, used], scaled = _pool(
                queries[rows], items, recency, history[rows, used], bucket[rows, used], key_scale, of_rows
            )
            if dots is not None and scaled is not None:
                dots[rows, :, used] = scaled
        ctx.save_for_backward(queries, items, history, bucket, weights, key_scale, dots, share)
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)  # do not allocate zeros for the weights' gradient
        ctx.buckets = len(recency)
        return pooled, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        queries, items, history, bucket, weights, key_scale, dots, share = ctx.saved_tensors
        of_share = None if share is None else torch.empty_like(share)
        of_scale = None if key_scale is None else torch.zeros_like(key_scale)
        of_queries, of_items, of_score = torch.empty_like(queries), torch.zeros_like(items), torch.zeros_like(weights)
        # d(item) = map * d(pooled) + scale * d(score) * query
        back = torch.cat([gradient, queries], dim=1)
        for rows, used in _blocks(bucket, ctx.buckets):
            history_of_rows = history[rows, used]
            places = history_of_rows.flatten()
            past, weight = gather_rows(items, history_of_rows), weights[rows, :, used]
            maps, of_maps = weight, torch.bmm(gradient[rows], past.transpose(1, 2))
            if share is not None and of_share is not None:
                part = share[rows, None, None]
                first, second = weight.chunk(2, dim=1)
                maps = torch.lerp(first, second, part)
                of_share[rows] = (of_maps * (second - first)).sum(dim=(1, 2))
                of_maps = torch.cat([of_maps * (1 - part), of_maps * part], dim=1)
            of_weight = weight * of_maps
            score = of_weight - weight * of_weight.sum(dim=2, keepdim=True)
            of_score[rows, :, used] = score
            if of_scale is not None:
                of_scale.index_add_(0, places, (score * dots[rows, :, used]).transpose(1, 2).flatten(0, 1))
                score = score * gather_rows(key_scale, history_of_rows).transpose(1, 2)
            of_queries[rows] = torch.bmm(score, past)
            both = torch.cat([maps, score], dim=1).transpose(1, 2)
            of_items.index_add_(0, places, torch.bmm(both, back[rows]).flatten(0, 1))
        flat = bucket.flatten()
        per_head = [torch.bincount(flat, each.flatten(), ctx.buckets + 1) for each in of_score.unbind(dim=1)]
        of_recency = torch.stack(per_head, dim=1)[: ctx.buckets].to(items.dtype)
        return of_queries, of_items, of_recency, None, None, of_scale, of_share


def _pool(
    queries: Tensor,
    items: Tensor,
    recency: Tensor,
    history: Tensor,
    bucket: Tensor,
    key_scale: Tensor | None,
    share: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pooled vectors and attention weights of some rows, and the dot products if they are scaled."""
    # Finite even after adding a score, so that a row of padding only does not become NaN.
    masked = recency.new_full((recency.shape[1], 1), torch.finfo(recency.dtype).min / 2)
    bias = torch.cat([recency.t(), masked], dim=1)
    nonempty = (bucket < recency.shape[0]).any(dim=1)[:, None, None]
    past = gather_rows(items, history)
    score = bias.index_select(1, bucket.flatten()).view(bias.shape[0], *history.shape).transpose(0, 1)
    dots = None
    if key_scale is None:
        score = torch.baddbmm(score, queries, past.transpose(1, 2))
    else:
        dots = torch.bmm(queries, past.transpose(1, 2))
        score = score.addcmul(dots, gather_rows(key_scale, history).transpose(1, 2))
    weights = torch.softmax(score, dim=2) * nonempty
    return torch.bmm(mixed_maps(weights, share), past), weights, dots


def _blocks(bucket: Tensor, padding: int) -> list[tuple[slice, slice]]:
    """Blocks of rows on a CPU, each with the columns up to its last one that is no padding; one block of all on a GPU."""
    if bucket.device.type != "cpu" or not bucket.numel():
        return [(slice(0, len(bucket)), slice(0, bucket.shape[1]))]
    rows = [slice(start, start + _BLOCK) for start in range(0, len(bucket), _BLOCK)]
    return [(each, slice(0, longest(bucket[each] < padding))) for each in rows]
