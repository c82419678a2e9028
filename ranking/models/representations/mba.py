"""Modal-behaviour alignment (SaviorRec, arXiv 2508.01375, Figure 2): content plus a correction learned per code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape
from ranking.models.representations.code_tables import CodeTables
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.representations.matches import CONTENT_MATCHES, content_matches
from ranking.models.spec import ModelSpec


class MbaRepresentation(CodedRepresentation):
    """``W m + b + MLP([T1[c1]; ...; TL[cL]])``: projected content plus a correction from zero-initialised code tables.

    The MLP is linear, SiLU, linear without biases, so it maps 0 to 0 and training starts exactly at the content ranker.
    SiLU has slope 1/2 at 0 and the last layer is not zero, so the tables receive gradients from the first step. Items
    without codes use content only.

    Parameters
    ----------
    shape : ItemShape
        ``content_dim`` is the input width, ``sizes`` are the codes per level.
    dim : int
        Width of the tables, the MLP and the output.
    """

    def __init__(self, shape: ItemShape, dim: int = 32) -> None:
        super().__init__(shape, dim)
        self.matched = shape.matched
        self.match_dim += CONTENT_MATCHES if shape.matches_content else 0
        self.projection = nn.Linear(shape.content_dim, dim)
        self.codes = CodeTables(shape.sizes, dim, zero=True)
        self.fusion = nn.Sequential(
            nn.Linear(len(shape.sizes) * dim, dim, bias=False), nn.SiLU(), nn.Linear(dim, dim, bias=False)
        )

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        content: Tensor = self.projection(items.content)
        coded = (items.codes >= 0).all(dim=1, keepdim=True)
        return content + torch.where(coded, self.fusion(self.codes(items.codes).flatten(1)), 0.0)

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Match features of content, then of the codes."""
        content = content_matches(items, candidate, history, mask, self.matched)
        return torch.cat([content, super().match(items, candidate, history, mask)], dim=1)
