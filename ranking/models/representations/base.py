"""Base class of the item representations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows, weighted_rows
from ranking.models.item_statistics import CountScaling
from ranking.models.parts import DeclaresRoles
from ranking.models.spec import START, ModelSpec

FITTED = "fitted_"
"""Name prefix of buffers with fitted state; their shapes are known from the artefact only."""


@dataclass(frozen=True)
class ItemShape:
    """Dimensions of the items.

    ``vocabulary`` is the number of rows of the id table (padding and unknown included); ``sizes`` the codes per level;
    ``content_dim`` the width of content vectors; ``residual_levels`` the number of leading levels that refine each other
    (None: all; later codes, such as OPQ's, do not); ``numeric_dim`` the number of numeric features. ``content_columns`` is
    the half-open range of content columns that may be matched with a history (None: all), and ``match_codes`` whether
    codes may. Columns and codes trained on clicks must not be matched: within their fit window they have seen the labels.
    ``counts`` restores the candidates' interactions from the numeric features (None: they are unknown).
    """

    vocabulary: int
    sizes: tuple[int, ...]
    content_dim: int
    residual_levels: int | None = None
    numeric_dim: int = 0
    content_columns: tuple[int, int] | None = None
    match_codes: bool = True
    counts: CountScaling | None = None

    @property
    def matched(self) -> slice:
        """The columns of a content vector that are matched with a history."""
        start, stop = self.content_columns or (0, self.content_dim)
        return slice(start, stop)

    @property
    def matches_content(self) -> bool:
        """Whether any content column is matched with a history."""
        start, stop = self.content_columns or (0, self.content_dim)
        return stop > start

    @property
    def refining(self) -> int:
        """Number of leading levels that refine each other."""
        return len(self.sizes) if self.residual_levels is None else self.residual_levels


class Representation(DeclaresRoles):
    """Map items to ``float32 [items, dim]``; padding need not be zero, because the model masks it.

    A representation may also

    - use the rows of the candidates, with their point-in-time features (``encode``),
    - add auxiliary losses (``auxiliary``),
    - have fitted state, computed from the training rows before training (``fit``),
    - compute ``match_dim`` parameter-free match features of candidate and history for the head (``match``).

    Comparisons measure what its parts contribute (:mod:`ranking.models.parts`): all embedding tables, gates that are passed
    through a :class:`~ranking.models.parts.Gate`, and the losses that :meth:`losses` declares.
    """

    knows_ids: bool = False
    """Whether it knows an item by its id (behaviour space); the others know it by its content or codes (modality space)."""
    reads_codes: bool = True
    """Whether it reads codes; an arm of representations that read none is trained where no codes can be learned."""
    reads_counts: bool = False
    """Whether it restores the candidates' interactions from the numeric features (:attr:`ItemShape.counts`)."""
    dim: int
    match_dim: int = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Compute fitted state from the training rows; none by default.

        It is saved with the artefact's tensors (as buffers named ``fitted_<name>``) and passed to ``from_spec``.
        """
        return {}

    @classmethod
    @abstractmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """Build the representation from a preset's ``[ranker.model]`` and the state returned by ``fit``."""

    @abstractmethod
    def forward(self, items: ItemBatch) -> Tensor:
        """Vectors of the items as used in histories, which have no row features."""

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors ``float32 [items, dim]`` of the batch's items for histories, and ``[rows, dim]`` of its candidates."""
        vectors = self(batch.items)
        return vectors, gather_rows(vectors, batch.candidate)

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted auxiliary losses of a training batch, scalars by name; none by default."""
        return {}

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """The auxiliary losses of a model with this spec by name, each with the key of the spec that holds its weight.

        The key of a plug-in's option is ``options.<name>``. A comparison trains an arm once more without each of them.
        """
        return {}

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Match features ``float32 [rows, match_dim]`` of ``candidate`` int64 [rows] and ``history`` int64 [rows, length]."""
        return items.content.new_zeros((candidate.shape[0], 0))

    def _keep(self, fitted: Mapping[str, Tensor]) -> None:
        """Register fitted state as buffers."""
        for name, tensor in fitted.items():
            self.register_buffer(FITTED + name, tensor)


class Table(nn.Embedding):
    """An embedding table of ids with a fast dense gradient on a CPU, or a sparse one for sparse optimizers.

    Parameters
    ----------
    rows, dim : int
        Rows and width.
    start : float
        Standard deviation of the initial values; by default near zero, so that untrained rows have almost no effect.
    """

    def __init__(self, rows: int, dim: int, start: float = START) -> None:
        super().__init__(rows, dim)
        with torch.no_grad():
            self.weight.normal_(0, start)

    def rows(self, index: Tensor) -> Tensor:
        """Look up ``index`` int64: ``float32 [*index.shape, dim]``."""
        if self.sparse:
            vectors: Tensor = self(index)
            return vectors
        return gather_rows(self.weight, index)

    def weighted(self, index: Tensor, weight: Tensor) -> Tensor:
        """Sums of rows ``float32 [items, dim]`` by ``index`` int64 ``[items, count]`` and ``weight`` float32 of the same
        shape, which gets no gradient.
        """
        if self.sparse:
            return torch.einsum("ik,ikd->id", weight, self(index))
        return weighted_rows(self.weight, index, weight)


class CodeTable(Table):
    """An embedding table of codes. Items share its rows, so that it can be trained at a higher rate than a table of ids
    (``code_table_learning_rate``).
    """
