"""A batch of rows as tensors, and item statistics of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semantic_ids.neighbour_lists import NeighbourList


@dataclass(frozen=True)
class ItemBatch:
    """Distinct items of a batch: ``index`` int64 [items], indices into the id vocabulary (0 padding, 1 unknown); ``codes``
    int64 [items, levels], -1 for items without codes; ``content`` float32 [items, content_dim].
    """

    index: Tensor
    codes: Tensor
    content: Tensor

    def take(self, places: Tensor) -> ItemBatch:
        """Select items by index."""
        return ItemBatch(self.index[places], self.codes[places], self.content[places])


@dataclass(frozen=True)
class Batch:
    """A batch of rows: ``numeric`` float32 [rows, features], scaled; ``items``, the distinct items; ``candidate`` int64
    [rows] and ``history`` int64 [rows, length], indices into ``items``; ``mask`` bool [rows, length], false for padding;
    ``gap_bucket`` int64 [rows, length]; ``label`` float32 [rows]; ``at_us`` int64 [rows], microseconds UTC; ``matches``
    float32 [rows, matches], precomputed match features, or None; ``coded``, one tensor per coded feature, as described in
    :class:`ranking.data.coded_inputs.CodedInputs`.
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
    coded: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.at_us)

    @property
    def candidate_index(self) -> Tensor:
        """``int64 [rows]``: the candidates' rows of an id table (0 padding, 1 unknown)."""
        return self.items.index[self.candidate]

    @property
    def candidate_codes(self) -> Tensor:
        """``int64 [rows, levels]``: the candidates' codes, -1 without codes."""
        return self.items.codes[self.candidate]

    @property
    def candidate_content(self) -> Tensor:
        """``float32 [rows, content_dim]``: the candidates' content vectors."""
        return self.items.content[self.candidate]

    @property
    def history_index(self) -> Tensor:
        """``int64 [rows, length]``: the history items' rows of an id table, newest first (0 padding, 1 unknown)."""
        return self.items.index[self.history]

    @property
    def history_codes(self) -> Tensor:
        """``int64 [rows, length, levels]``: the history items' codes, -1 for padding and without codes."""
        return self.items.codes[self.history]

    @property
    def history_content(self) -> Tensor:
        """``float32 [rows, length, content_dim]``: the history items' content vectors."""
        return self.items.content[self.history]

    def without_labels(self) -> Batch:
        """The same rows with NaN as labels."""
        return replace(self, label=torch.full_like(self.label, torch.nan))

    def to(self, device: torch.device | str) -> Batch:
        """Copy all tensors to a device."""
        moved = {
            each.name: value.to(device)
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), Tensor)
        }
        items = ItemBatch(self.items.index.to(device), self.items.codes.to(device), self.items.content.to(device))
        return replace(self, items=items, coded=tuple(each.to(device) for each in self.coded), **moved)


@dataclass(frozen=True)
class MatchMoments:
    """Mean and population standard deviation of each match over rows, ``float64 [matches]``."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, matches: Tensor) -> Self:
        """Compute the moments of ``float32 [rows, matches]``."""
        if not matches.numel():  # a model without matches
            none = matches.new_zeros(matches.shape[1], dtype=torch.float64)
            return cls(none, none)
        deviation, mean = torch.std_mean(matches.double(), dim=0, correction=0)
        return cls(mean, deviation)


@dataclass(frozen=True)
class KnownNeighbours:
    """Neighbour lists of a codebook: ``index`` int64 [listed], the items' indices into the id vocabulary (1 for those outside
    the training window), and ``lists`` by name, with indices into the listed items.
    """

    index: npt.NDArray[np.int64]
    lists: Mapping[str, NeighbourList]


@dataclass(frozen=True)
class Seen:
    """Statistics of the training rows, the only input of fitted state.

    Per distinct item version: ``shown`` int64 [items], the number of training rows with it as candidate; ``first_us``
    int64 [items], the time of the first of them (microseconds UTC; the maximum int64 without any); ``index`` int64 [items],
    its index into the id vocabulary; ``codes`` int64 [items, levels]; ``content`` float32 [items, content_dim], the content
    vectors as of their rows, or None. ``flat_vectors`` maps codes ``int32 [n, levels]`` to
    reconstructions ``float32 [n, dim]`` from the codes after ``residual_levels``; None without a codebook. ``neighbours`` are
    the lists of the codebook that the model reads; None without any.
    """

    shown: npt.NDArray[np.int64]
    first_us: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    flat_vectors: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float32]] | None = None
    content: npt.NDArray[np.float32] | None = None
    neighbours: KnownNeighbours | None = None
