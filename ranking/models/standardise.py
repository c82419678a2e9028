"""Standardise columns by moments of the training batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOMENTUM = 0.1
_SMALLEST_VARIANCE = 1e-8
"""Products of embeddings of size .01 have a variance of 1e-8; a larger one would leave them short."""


class Standardise(nn.Module):
    """Map ``float32 [rows, dim]`` to columns of mean 0 and variance 1: batch normalization (arXiv 1502.03167, algorithm 1)
    without its scale and shift, which the layer that follows can learn.

    In training, the moments are those of the batch; in evaluation, their moving averages, so that a row's result does not
    depend on other rows. A training batch of one row, which has no variance, uses the averages too.

    Parameters
    ----------
    dim : int
        Columns.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, rows: Tensor) -> Tensor:
        """Standardise the columns of ``rows``."""
        by_batch = self.training and len(rows) > 1
        return functional.batch_norm(
            rows, self.mean, self.variance, training=by_batch, momentum=_MOMENTUM, eps=_SMALLEST_VARIANCE
        )
