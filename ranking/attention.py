"""Target attention: the candidate asks its user's history."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ranking.gather import gather_rows


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

    def weights(self, candidate: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor) -> Tensor:
        """How much each item counts, ``float32 [batch, heads, length]``, summing to 1 over what is there; see ``forward``."""
        return attention_weights(self.asked(candidate), history, mask, gap_bucket, self.recency.weight)

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


def attention_weights(asked: Tensor, history: Tensor, mask: Tensor, gap_bucket: Tensor, recency: Tensor) -> Tensor:
    """Masked softmax of products and recency, ``float32 [batch, heads, length]``.

    Parameters
    ----------
    asked : Tensor
        ``float32 [batch, heads, dim]``.
    history, mask, gap_bucket : Tensor
        As for :class:`TargetAttention`.
    recency : Tensor
        A number per time bucket and head, ``float32 [buckets, heads]``.
    """
    score = torch.bmm(asked, history.transpose(1, 2)) + gather_rows(recency, gap_bucket).transpose(1, 2)
    # The lowest finite number, not minus infinity: a row of nothing but padding must not become NaN.
    score = score.masked_fill(~mask[:, None, :], torch.finfo(score.dtype).min)
    return torch.softmax(score, dim=2) * mask[:, None, :]
