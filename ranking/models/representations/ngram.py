"""Embeddings of non-overlapping code n-grams (arXiv 2306.08121, section on adaptation: N-gram), summed over positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import CodeTable, ItemShape
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.spec import START, ModelSpec
from sidkit.core.hashing import GOLDEN_GAMMA

_ODD = GOLDEN_GAMMA - 2**64  # as a signed integer


class NgramRepresentation(CodedRepresentation):
    """Sum over groups of ``ngram`` neighbouring codes of one embedding per group and position: ``v = sum_g T_g[codes_g]``.

    The last group may be shorter. A table has one row per combination of its codes, in mixed radix; if that exceeds
    ``rows``, combinations are hashed to ``rows`` (multiplicative hashing, so that every code affects the row). Items
    without codes share a separate row.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level.
    dim : int
        Width.
    ngram : int
        Codes per group.
    rows : int
        Maximum rows of a table.
    start : float
        Standard deviation of the initial embeddings.
    """

    def __init__(
        self, shape: ItemShape, dim: int = 32, ngram: int = 2, rows: int = 50_000, start: float = START
    ) -> None:
        super().__init__(shape, dim)
        ends = [*range(0, len(shape.sizes), ngram), len(shape.sizes)]
        self.groups = list(pairwise(ends))
        combinations = [math.prod(shape.sizes[start:end]) for start, end in self.groups]
        self.hashed = [each > rows for each in combinations]
        self.rows = [min(each, rows) for each in combinations]
        # Row 0 is for items without codes.
        self.table = CodeTable(1 + sum(self.rows), dim, start)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.ngram, spec.table_rows, spec.code_table_start)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        return self.table.rows(self.ngram_rows(items.codes)).sum(dim=1)

    def ngram_rows(self, codes: Tensor) -> Tensor:
        """Table rows ``int64 [items, groups]``; 0 for an item without codes."""
        columns, offset = [], 1
        for (start, end), hashed, rows in zip(self.groups, self.hashed, self.rows, strict=True):
            number = torch.zeros_like(codes[:, 0])
            for level in range(start, end):
                # Overflow beyond 64 bits wraps around, which is fine for a hash.
                number = number * self.sizes[level] + codes[:, level]
            columns.append(offset + ((number * _ODD >> 32 & 0x7FFFFFFF) % rows if hashed else number))
            offset += rows
        return torch.where((codes >= 0).all(dim=1, keepdim=True), torch.stack(columns, dim=1), 0)
