"""One table row per code and level, all levels in one index space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.models.representations.base import Table


class CodeTables(nn.Module):
    """Rows of the codes of some levels; row 0 is kept for items without codes, so that it is nobody's code 0.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level.
    dim : int
        Width of a row.
    zero : bool
        Start at zero; otherwise rows start near zero.
    """

    def __init__(self, sizes: Sequence[int], dim: int, *, zero: bool = False) -> None:
        super().__init__()
        starts = torch.tensor([1, *sizes[:-1]]).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)
        self.table = Table(1 + sum(sizes), dim)
        if zero:
            nn.init.zeros_(self.table.weight)

    starts: Tensor

    def rows(self, codes: Tensor) -> Tensor:
        """Table rows ``int64 [items, levels]`` of ``codes`` int64 [items, levels]; 0 where an item has none."""
        return torch.where((codes >= 0).all(dim=1, keepdim=True), codes + self.starts, 0)

    def forward(self, codes: Tensor) -> Tensor:
        """``float32 [items, levels, dim]``."""
        return self.table.rows(self.rows(codes))
