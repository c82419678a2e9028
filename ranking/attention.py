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

    def weights(self, candidate: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """How much each item counts, ``float32 [batch, heads, length]``, summing to 1 over what is there; see ``forward``."""
        batch, _, dim = history.shape
        query = self.query(candidate).view(batch, self.heads, self.head_dim)
        # Query times (key matrix times history) = (query times key matrix) times history: the long side stays unprojected.
        asked = torch.einsum("bhd,hde->bhe", query, self.key.weight.view(self.heads, self.head_dim, dim))
        score = torch.bmm(asked, history.transpose(1, 2)) / math.sqrt(self.head_dim)
        score = score + self.recency.weight.T[:, gap_bucket].transpose(0, 1)
        # The lowest finite number, not minus infinity: a row of nothing but padding must not become NaN.
        score = score.masked_fill(~mask[:, None, :], torch.finfo(score.dtype).min)
        return torch.softmax(score, dim=2) * mask[:, None, :]

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
        return torch.bmm(self.weights(candidate, history, mask, gap_bucket), history).flatten(1)
