"""The contract of an item representation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ranking.gather import gather_rows
from ranking.model_spec import ModelSpec

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


@dataclass(frozen=True)
class ItemBatch:
    """Distinct items of a batch: ``index`` int64 [items] into the id vocabulary (0 padding, 1 unknown), ``codes`` int64
    [items, levels] (-1 where there are none), ``content`` float32 [items, content_dim].
    """

    index: Tensor
    codes: Tensor
    content: Tensor

    def take(self, places: Tensor) -> ItemBatch:
        """Some of the items."""
        return ItemBatch(self.index[places], self.codes[places], self.content[places])


@dataclass(frozen=True)
class Batch:
    """Some rows: ``numeric`` float32 [rows, features], scaled; ``items`` the distinct items, ``candidate`` int64 [rows] and
    ``history`` int64 [rows, length] into them, ``mask`` bool and ``gap_bucket`` int64 [rows, length], ``label`` float32
    [rows], ``at_us`` int64 [rows], microseconds UTC; ``matches`` what the model's ``matches`` gave for the rows, where that
    was computed before.
    """

    numeric: Tensor
    items: ItemBatch
    candidate: Tensor
    history: Tensor
    mask: Tensor
    gap_bucket: Tensor
    label: Tensor
    at_us: Tensor
    matches: Tensor | None = None


@dataclass(frozen=True)
class Seen:
    """What the training rows showed, and all that fitted state may be made of.

    Of each distinct item version: ``shown`` int64 [items] training rows had it as their candidate, the first of them at
    ``first_us`` int64 [items] (microseconds UTC; the largest number where there is none); ``index`` int64 [items] into the
    id vocabulary and ``codes`` int64 [items, levels] describe it. ``flat_vectors`` maps codes ``int32 [n, levels]`` to what
    those that refine no other stand for in the codebook, ``float32 [n, dim]``; None where no codebook is at hand.
    """

    shown: npt.NDArray[np.int64]
    first_us: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    flat_vectors: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float32]] | None = None


class Representation(nn.Module):
    """Items in, ``float32 [items, dim]`` out; padding need not be zero, the model masks it.

    A representation may also

    - see the rows of the candidates (``encode``: point-in-time features of the very row),
    - add losses of its own to training (``auxiliary``),
    - hold fitted state, learned from the training rows before training begins and no weight (``fit``),
    - say, without any parameter, how a candidate matches a history: ``match_dim`` numbers per row that go straight to the
      head (what the candidate's user had of the same kind).
    """

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
