"""The contract of an item representation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ranking.model_spec import ModelSpec


@dataclass(frozen=True)
class ItemShape:
    """What a representation must know of the items before it sees any: rows of the id vocabulary (padding and unknown
    included), codes per level, the width of the content vectors, and how many of the first levels refine each other (None:
    all of them; the codes after them, such as OPQ's, stand side by side).
    """

    vocabulary: int
    sizes: tuple[int, ...]
    content_dim: int
    residual_levels: int | None = None


@dataclass(frozen=True)
class ItemBatch:
    """Distinct items of a batch: ``index`` int64 [items] into the id vocabulary (0 padding, 1 unknown), ``codes`` int64
    [items, levels] (-1 where there are none), ``content`` float32 [items, content_dim].
    """

    index: Tensor
    codes: Tensor
    content: Tensor


class Representation(nn.Module):
    """Items in, ``float32 [items, dim]`` out; padding need not be zero, the model masks it.

    A representation may also say, without any parameter, how a candidate matches a history: ``match_dim`` numbers per
    row that go straight to the head (what the candidate's user had of the same kind).
    """

    dim: int
    match_dim: int = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @classmethod
    @abstractmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec) -> Self:
        """The representation that a preset's ``[ranker.model]`` describes."""

    @abstractmethod
    def forward(self, items: ItemBatch) -> Tensor:
        """Vectors of the items."""

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Matches ``float32 [rows, match_dim]`` of ``candidate`` int64 [rows] with ``history`` int64 [rows, length]."""
        return items.content.new_zeros((len(candidate), 0))


def small_embedding(rows: int, dim: int) -> nn.Embedding:
    """An embedding that starts near zero, so that a row that was never trained says next to nothing."""
    table = nn.Embedding(rows, dim)
    with torch.no_grad():
        table.weight.normal_(0, 0.01)
    return table
