"""Embeddings of code prefixes (prefix n-grams, arXiv 2504.02137, Table 1): hashed and sum-pooled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import CodeTable, ItemShape
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.spec import START, ModelSpec
from sidkit.core.errors import ConfigError


class PrefixNgramRepresentation(CodedRepresentation):
    """The sum of the embeddings of all prefixes of an item's codes; items share the rows of their common prefixes.

    A prefix is numbered by the count of all shorter prefixes plus its mixed-radix index among those of its length. If all
    levels have size K, this is the paper's ``sum_{t <= i} K^(i - t) * (c_t + 1) - 1``. Different prefixes have different
    numbers; numbers beyond the table are then reduced modulo its rows. Codes past ``shape.residual_levels``, which do not
    refine others, are used individually.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level.
    dim : int
        Width.
    rows : int
        Maximum rows of the table; fewer if there are fewer prefixes.
    start : float
        Standard deviation of the initial embeddings.

    Raises
    ------
    ConfigError
        When no code refines another, so that there are no prefixes.
    """

    def __init__(self, shape: ItemShape, dim: int = 32, rows: int = 50_000, start: float = START) -> None:
        super().__init__(shape, dim)
        if self.residual_levels == 0 and len(self.sizes) > 1:
            raise ConfigError(
                f"prefix_ngram needs codes that refine each other, got {len(self.sizes)} codes of equal rank (as those of pq, "
                "opq and parallel_aspects); use the representation sid"
            )
        prefixes = sum(self._numbers(level) for level in range(len(shape.sizes)))
        self.rows = min(rows, prefixes)
        # Row 0 is for items without codes.
        self.table = CodeTable(self.rows + 1, dim, start)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.table_rows, spec.code_table_start)

    def _numbers(self, level: int) -> int:
        """Number of possible prefixes (or single codes) that end at a level."""
        return math.prod(self.sizes[: level + 1]) if level < self.residual_levels else self.sizes[level]

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        return self.table.rows(self.prefix_rows(items.codes)).sum(dim=1)

    def prefix_rows(self, codes: Tensor) -> Tensor:
        """Table rows ``int64 [items, levels]`` of the prefixes; 0 for an item without codes."""
        place, shorter = torch.zeros_like(codes[:, 0]), 0
        rows = []
        for level, size in enumerate(self.sizes):
            # Reduce at every step: the number of a long prefix can exceed 64 bits.
            place = (place * size + codes[:, level]) % self.rows if level < self.residual_levels else codes[:, level]
            rows.append((place + shorter) % self.rows + 1)
            shorter = (shorter + self._numbers(level)) % self.rows
        return torch.where((codes >= 0).all(dim=1, keepdim=True), torch.stack(rows, dim=1), 0)
