"""Codes as plain categorical features: one embedding table per level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape
from ranking.models.representations.code_tables import CodeTables
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.spec import START, ModelSpec, SidPool


class SidRepresentation(CodedRepresentation):
    """The embeddings of an item's codes: summed, concatenated and projected by a linear layer, or one after the other.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level.
    dim : int
        Width.
    pool : "sum", "concat" or "tokens"
        Combination of the embeddings; ``tokens`` has one after the other, ``levels * dim`` columns.
    start : float
        Standard deviation of the initial embeddings.
    """

    def __init__(self, shape: ItemShape, dim: int = 32, pool: SidPool = "sum", start: float = START) -> None:
        super().__init__(shape, dim * (len(shape.sizes) if pool == "tokens" else 1))
        self.pool = pool
        self.codes = CodeTables(shape.sizes, dim, start=start)
        self.join = nn.Linear(len(shape.sizes) * dim, dim) if pool == "concat" else None

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.sid_pool, spec.code_table_start)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        rows = self.codes(items.codes)
        vectors: Tensor = rows.sum(dim=1) if self.pool == "sum" else rows.flatten(1)
        return vectors if self.join is None else self.join(vectors)
