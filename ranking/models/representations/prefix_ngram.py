"""Prefix n-grams of the codes (arXiv 2504.02137, Table 1): one row per prefix, hashed, sum-pooled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape, Table
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.spec import ModelSpec


class PrefixNgramRepresentation(CodedRepresentation):
    """The rows of all prefixes of an item's codes, summed: items share the rows of what they have in common.

    A prefix has the number of all shorter prefixes plus its place among those of its length, in mixed radix; with
    levels of one size K that is the paper's ``sum over t <= i of K^(i - t) * (c_t + 1) - 1``. Different prefixes have
    different numbers; numbers beyond the table are taken modulo its rows, after that map. Codes that refine no other
    (``shape.residual_levels`` says where they begin) have no prefixes: each stands for itself.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level.
    dim : int
        Width.
    rows : int
        Most rows of the table; fewer where there are fewer prefixes.
    """

    def __init__(self, shape: ItemShape, dim: int = 32, rows: int = 50_000) -> None:
        super().__init__(shape, dim)
        prefixes = sum(self._numbers(level) for level in range(len(shape.sizes)))
        self.rows = min(rows, prefixes)
        # Row 0 stands for "no codes".
        self.table = Table(self.rows + 1, dim)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.table_rows)

    def _numbers(self, level: int) -> int:
        """How many different numbers the part that ends at a level can have."""
        return math.prod(self.sizes[: level + 1]) if level < self.residual_levels else self.sizes[level]

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        return self.table.rows(self.prefix_rows(items.codes)).sum(dim=1)

    def prefix_rows(self, codes: Tensor) -> Tensor:
        """Table rows ``int64 [items, levels]`` of the prefixes; 0 where an item has no codes."""
        place, shorter = torch.zeros_like(codes[:, 0]), 0
        rows = []
        for level, size in enumerate(self.sizes):
            # Taken modulo at every step: the plain number of a long prefix would not fit 64 bits.
            place = (place * size + codes[:, level]) % self.rows if level < self.residual_levels else codes[:, level]
            rows.append((place + shorter) % self.rows + 1)
            shorter = (shorter + self._numbers(level)) % self.rows
        return torch.where((codes >= 0).all(dim=1, keepdim=True), torch.stack(rows, dim=1), 0)
