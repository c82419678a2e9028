"""Attention of an item's tokens over a set of vectors, and layers of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ranking.models.dropout import Dropout
from ranking.models.parts import Attention


class SetAttention(Attention):
    """Multi-head attention by scaled dot products over vectors without an order; masked vectors have weight 0.

    Parameters
    ----------
    dim : int
        Width of the tokens and of the vectors.
    heads : int
        Attention heads of width ``dim / heads``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, max(1, dim // heads)
        inner = self.heads * self.head_dim
        self.query, self.key, self.value = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        """Pool the vectors once per token.

        Parameters
        ----------
        tokens : Tensor
            ``float32 [items, tokens, dim]``.
        vectors : Tensor
            ``float32 [items, vectors, dim]``.
        mask : Tensor
            ``bool [items, vectors]``, false where an item has no such vector.

        Returns
        -------
        Tensor
            ``float32 [items, tokens, dim]``; zeros for an item without vectors.
        """
        query, key, value = (
            self._split(self.query(tokens)),
            self._split(self.key(vectors)),
            self._split(self.value(vectors)),
        )
        score = query @ key.transpose(2, 3) / math.sqrt(self.head_dim)
        if self.is_off:
            score = torch.zeros_like(score)
        score = score.masked_fill(~mask[:, None, None], torch.finfo(score.dtype).min / 2)
        weights = torch.softmax(score, dim=3) * mask.any(dim=1)[:, None, None, None]
        if self.listener is not None:
            self.observe(weights.transpose(1, 2).flatten(0, 1), mask.repeat_interleave(tokens.shape[1], dim=0))
        pooled: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return pooled

    def _split(self, projected: Tensor) -> Tensor:
        """``float32 [items, heads, tokens, head_dim]``."""
        return projected.view(*projected.shape[:2], self.heads, self.head_dim).transpose(1, 2)


class CodeQueryLayer(nn.Module):
    """Self-attention among the tokens of an item, cross-attention to its views, feed-forward (CCFRec, arXiv 2503.12183).

    Each of the three is added to its input, which it reads normalised: tokens of small embeddings would else have equal
    weights for long. With one view there is nothing to choose between, and its projection is added.

    Parameters
    ----------
    dim, heads : int
        See :class:`SetAttention`.
    views : int
        Number of views.
    dropout : float
        Dropout of each of the three.
    """

    def __init__(self, dim: int, heads: int, views: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3 if views > 1 else 2))
        self.among = SetAttention(dim, heads)
        self.across = SetAttention(dim, heads) if views > 1 else None
        self.only = nn.Linear(dim, dim, bias=False) if views == 1 else None
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, views: Tensor, has_view: Tensor) -> Tensor:
        """Map ``tokens`` float32 [items, tokens, dim], with ``views`` float32 [items, views, dim] of which an item has
        ``has_view`` bool [items, views], to tokens of the same shape.
        """
        normed = self.norms[0](tokens)
        all_tokens = torch.ones_like(tokens[:, :, 0], dtype=torch.bool)
        tokens = tokens + self.dropout(self.among(normed, normed, all_tokens))
        if self.across is not None:
            tokens = tokens + self.dropout(self.across(self.norms[1](tokens), views, has_view))
        if self.only is not None:
            tokens = tokens + self.dropout(self.only(views * has_view[:, :, None]))
        after: Tensor = tokens + self.dropout(self.feed_forward(self.norms[-1](tokens)))
        return after
