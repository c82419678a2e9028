"""The contract of an item representation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.models.spec import ModelSpec

FITTED = "fitted_"
"""Buffers whose names begin so are fitted state: their shapes are known from the artefact only."""


@dataclass(frozen=True)
class ItemShape:
    """What a representation must know of the items before it sees any: rows of the id vocabulary (padding and unknown
    included), codes per level, the width of the content vectors, how many of the first levels refine each other (None:
    all of them; the codes after them, such as OPQ's, stand side by side), how many numeric features a row has, and which
    columns of a content vector, from where to where, and whether codes, may be matched with a history (None: all columns).
    What learned from clicks must not: on the rows of its own window it knows the answers.
    """

    vocabulary: int
    sizes: tuple[int, ...]
    content_dim: int
    residual_levels: int | None = None
    numeric_dim: int = 0
    content_columns: tuple[int, int] | None = None
    match_codes: bool = True

    @property
    def matched(self) -> slice:
        """The columns of a content vector that are matched with a history."""
        start, stop = self.content_columns or (0, self.content_dim)
        return slice(start, stop)

    @property
    def matches_content(self) -> bool:
        """Whether there are such columns."""
        start, stop = self.content_columns or (0, self.content_dim)
        return stop > start

    @property
    def refining(self) -> int:
        """Levels that refine each other."""
        return len(self.sizes) if self.residual_levels is None else self.residual_levels


class Representation(nn.Module):
    """Items in, ``float32 [items, dim]`` out; padding need not be zero, the model masks it.

    A representation may also

    - see the rows of the candidates (``encode``: point-in-time features of the very row),
    - add losses of its own to training (``auxiliary``),
    - hold fitted state, learned from the training rows before training begins and no weight (``fit``),
    - say, without any parameter, how a candidate matches a history: ``match_dim`` numbers per row that go straight to the
      head (what the candidate's user had of the same kind).
    """

    knows_ids: bool = False
    """Whether it knows an item by its id (behaviour space); the others know it by its content or codes (modality space)."""
    reads_codes: bool = True
    """Whether it reads codes; an arm of representations that read none is trained where no codes can be learned."""
    dim: int
    match_dim: int = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Fitted state from the training rows; by default there is none.

        It travels inside the artefact's tensors (as buffers named ``fitted_<name>``) and comes back through ``from_spec``.
        """
        return {}

    @classmethod
    @abstractmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """The representation that a preset's ``[ranker.model]`` describes, with the state that ``fit`` gave."""

    @abstractmethod
    def forward(self, items: ItemBatch) -> Tensor:
        """Vectors of the items, as a history holds them: without any row."""

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors ``float32 [items, dim]`` of the batch's items for the history, and of its candidates ``[rows, dim]``."""
        vectors = self(batch.items)
        return vectors, gather_rows(vectors, batch.candidate)

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a training batch by name, scalars, already weighted; by default there are none."""
        return {}

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Matches ``float32 [rows, match_dim]`` of ``candidate`` int64 [rows] with ``history`` int64 [rows, length]."""
        return items.content.new_zeros((len(candidate), 0))

    def _keep(self, fitted: Mapping[str, Tensor]) -> None:
        """Hold fitted state as buffers."""
        for name, tensor in fitted.items():
            self.register_buffer(FITTED + name, tensor)


class Table(nn.Embedding):
    """An embedding of ids or codes, whose gradient is cheap on a CPU, or sparse where the optimiser wants that.

    It starts near zero, so that a row that was never trained says next to nothing.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__(rows, dim)
        with torch.no_grad():
            self.weight.normal_(0, 0.01)

    def rows(self, index: Tensor) -> Tensor:
        """``float32 [*index.shape, dim]`` of ``index`` int64."""
        if self.sparse:
            found: Tensor = self(index)
            return found
        return gather_rows(self.weight, index)
