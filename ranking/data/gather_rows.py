"""Row lookups, and weighted sums of rows, with gradients that are fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ranking.data.plain import is_plain

_BLOCK = 128
"""Rows per block of the gradient of weighted sums on a CPU, so that the products fit in cache."""


def gather_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """``matrix[index]``: ``float32 [*index.shape, dim]`` of ``matrix`` ``[rows, dim]`` and ``index`` int64.

    The gradient of ``index_select`` adds rows directly; that of ``embedding`` sorts the index first, which takes four times
    as long for a batch of some ten thousand rows.
    """
    return matrix.index_select(0, index.flatten()).view(*index.shape, matrix.shape[1])


def is_shared(history: Tensor) -> bool:
    """Whether all rows of an index ``[rows, length]`` are one row in memory: the history of a request's user.

    Never among plain operations: an exported graph is for histories of any number of rows.
    """
    return not is_plain() and len(history) > 1 and history.stride(0) == 0


def longest(mask: Tensor) -> int:
    """Columns of a mask ``bool [rows, length]`` up to the last one with a true value, at least 1."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return max(int((mask.any(dim=0) * places).amax()), 1)


def weighted_rows(matrix: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """``sum_k weight[i, k] matrix[index[i, k]]``: ``float32 [items, dim]`` of ``matrix`` ``[rows, dim]``, ``index`` int64 and
    ``weight`` float32 ``[items, count]``, without holding the gathered rows ``[items, count, dim]``.

    Differentiable once, and only in ``matrix``; on a CPU it takes half the time of gathering.
    """
    if is_plain():
        return torch.einsum("ik,ikd->id", weight, gather_rows(matrix, index))
    summed: Tensor = _WeightedRows.apply(matrix, index, weight)  # type: ignore[no-untyped-call]
    return summed


class _WeightedRows(torch.autograd.Function):
    """Autograd function of :func:`weighted_rows`."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = len(matrix)
        return functional.embedding_bag(index, matrix, per_sample_weights=weight, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, weight = ctx.saved_tensors
        of_matrix = gradient.new_zeros((ctx.rows, gradient.shape[1]))
        size = _BLOCK if gradient.device.type == "cpu" else max(len(index), 1)
        for start in range(0, len(index), size):
            rows = slice(start, start + size)
            products = weight[rows, :, None] * gradient[rows, None]
            of_matrix.index_add_(0, index[rows].flatten(), products.flatten(0, 1))
        return of_matrix, None, None
