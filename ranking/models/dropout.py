"""Dropout by uniform random numbers, four times as fast on a CPU as torch's Bernoulli samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ranking.data.shares import Share

_shares: list[Share] = []
"""What the process computes now of a global batch; empty in a single process."""


@contextmanager
def drawing_for(share: Share) -> Iterator[None]:
    """Draw random numbers for the whole global batch inside the block, and use those of a share of it.

    So every process draws the same numbers, and a row or an item has those that a single process would give it.
    """
    if share.batch is None or len(share.batch) == share.of:
        yield
        return
    _shares.append(share)
    try:
        yield
    finally:
        _shares.pop()


class Dropout(nn.Module):
    """Like ``torch.nn.Dropout``: zero values with probability ``share`` in training and scale the others up."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Map ``float32 [rows, ...]`` to the same shape."""
        if not self.training or self.share == 0:
            return values
        return values * ((_by_row(values) >= self.share) / (1 - self.share))


def _by_row(values: Tensor) -> Tensor:
    for share in _shares:
        if share.batch is not None and len(values) == len(share.batch):
            whole = torch.rand((share.of, *values.shape[1:]), device=values.device)
            return whole[share.start : share.start + len(values)]
    return torch.rand(values.shape, device=values.device)


def uniform_by_item(index: Tensor) -> Tensor:
    """A uniform random number in 0..1 for each distinct item of the batch, ``float32 [items]``."""
    for share in _shares:
        if share.places is not None and len(index) == len(share.places):
            return torch.rand(share.items, device=index.device).index_select(0, share.places)
    return torch.rand(index.shape, device=index.device)
