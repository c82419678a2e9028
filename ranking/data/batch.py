"""One batch of rows as tensors, and what the training rows showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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
class MatchMoments:
    """Mean and deviation (of the population) of each match over some rows, ``float64 [matches]``."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, matches: Tensor) -> Self:
        """Of all rows of ``float32 [rows, matches]``."""
        if not matches.numel():  # a model without matches
            none = matches.new_zeros(matches.shape[1], dtype=torch.float64)
            return cls(none, none)
        deviation, mean = torch.std_mean(matches.double(), dim=0, correction=0)
        return cls(mean, deviation)


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
