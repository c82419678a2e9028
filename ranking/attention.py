"""Target attention: the candidate asks its user's history."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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

    def forward(self, candidate: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """Pool the history.

        Parameters
        ----------
        candidate : Tensor
            ``float32 [batch, dim]``.
        history : Tensor
            ``float32 [batch, length, dim]``.
        mask : Tensor
            ``bool [batch, length]``, true where there is an item.
        gap_bucket : Tensor
            ``int64 [batch, length]``.

        Returns
        -------
        Tensor
            ``float32 [batch, heads * dim]``.
        """
        batch, length, dim = history.shape
        query = self.query(candidate).view(batch, self.heads, self.head_dim)
        key = self.key(history).view(batch, length, self.heads, self.head_dim)
        score = torch.einsum("bhd,blhd->bhl", query, key) / math.sqrt(self.head_dim)
        score = score + self.recency(gap_bucket).permute(0, 2, 1)
        score = score.masked_fill(~mask[:, None, :], -torch.inf)
        empty = ~mask.any(dim=1)
        weight = torch.softmax(score.masked_fill(empty[:, None, None], 0.0), dim=2)
        weight = weight.masked_fill(~mask[:, None, :], 0.0)
        return torch.einsum("bhl,bld->bhd", weight, history).reshape(batch, self.heads * dim)
