"""The item statistics of a row, as gates read them: point-in-time counts, click rates and the age of the candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ranking.data.numeric_features import Scaling, feature_names

_NOT_STATISTICS = frozenset({"item_in_history", "item_log_price", "item_without_content"})
_COUNTS = ("item_log_exposures_all", "item_log_clicks_all")
_BANK = 4096
"""Training rows that the control draws from."""
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def statistic_places() -> tuple[int, ...]:
    """Indices of the built-in numeric features that are item statistics."""
    return tuple(
        at for at, name in enumerate(feature_names()) if name.startswith("item_") and name not in _NOT_STATISTICS
    )


@dataclass(frozen=True)
class CountScaling:
    """How to restore the counts of :func:`ranking.evaluation.slices.prior_interactions` from scaled features.

    Attributes
    ----------
    places : tuple of int
        Indices of the two features.
    mean, scale : tuple of float
        Their scaling (:class:`ranking.data.numeric_features.Scaling`).
    """

    places: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, scaling: Scaling) -> Self:
        """The scaling of the two counts."""
        places = tuple(feature_names().index(name) for name in _COUNTS)
        return cls(places, tuple(scaling.mean[at] for at in places), tuple(scaling.scale[at] for at in places))

    def counts(self, numeric: Tensor) -> Tensor:
        """Interactions ``float32 [rows]`` from scaled features ``float32 [rows, features]``; a feature is cut off at 5
        deviations, and so is its count.
        """
        columns = [
            numeric[:, at] * (1 / scale if scale else 0.0) + mean
            for at, mean, scale in zip(self.places, self.mean, self.scale, strict=True)
        ]
        return torch.expm1(torch.stack(columns).amax(dim=0)).clamp(min=0)


class ItemStatistics(nn.Module):
    """Select the item statistics of the rows; as a control, those of random training rows.

    The control keeps statistics of the first training rows, and draws one of them for each row by a hash of the row, so that
    a score does not depend on the other rows.

    Parameters
    ----------
    shuffled : bool
        Whether it is the control.
    """

    def __init__(self, shuffled: bool = False) -> None:
        super().__init__()
        self.places = list(statistic_places())
        self.shuffled = shuffled
        if shuffled:
            self.register_buffer("bank", torch.zeros(_BANK, len(self.places)))
            self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    bank: Tensor
    filled: Tensor

    @property
    def dim(self) -> int:
        """Number of statistics."""
        return len(self.places)

    def forward(self, numeric: Tensor, at_us: Tensor, candidate: Tensor) -> Tensor:
        """The statistics ``float32 [rows, dim]`` of ``numeric`` float32 [rows, features]; ``at_us`` int64 [rows] and
        ``candidate`` int64 [rows], the candidates' indices in the id vocabulary, identify a row.
        """
        own = numeric[:, self.places]
        if not self.shuffled:
            return own
        if self.training and int(self.filled) < _BANK:
            start = int(self.filled)
            taken = own[: _BANK - start]
            self.bank[start : start + len(taken)] = taken
            self.filled += len(taken)
        mixed = (at_us * 31 + candidate + 1) * _GOLDEN
        draw = ((mixed >> 33) & 0x3FFFFFFF) % self.filled.clamp(min=1)
        return self.bank.index_select(0, draw)
