"""Embedding tables of codes, with all levels in one table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.models.representations.base import CodeTable
from ranking.models.spec import START


class CodeTables(nn.Module):
    """Embeddings of the codes of several levels; row 0 is reserved for items without codes.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level.
    dim : int
        Width of a row.
    zero : bool
        Initialise with zeros instead of small random numbers.
    """

    def __init__(self, sizes: Sequence[int], dim: int, *, zero: bool = False, start: float = START) -> None:
        super().__init__()
        starts = torch.tensor([1, *sizes[:-1]]).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)
        self.table = CodeTable(1 + sum(sizes), dim, start)
        if zero:
            nn.init.zeros_(self.table.weight)

    starts: Tensor

    def rows(self, codes: Tensor) -> Tensor:
        """Table rows ``int64 [items, levels]`` of ``codes`` int64 [items, levels]; 0 for an item without codes."""
        return torch.where((codes >= 0).all(dim=1, keepdim=True), codes + self.starts, 0)

    def forward(self, codes: Tensor) -> Tensor:
        """``float32 [items, levels, dim]``."""
        return self.table.rows(self.rows(codes))
