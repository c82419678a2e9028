"""The contract of a history: candidates and their users' items in, one vector per row out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch
from ranking.data.gather_rows import gather_rows


@dataclass(frozen=True)
class Space:
    """Candidates ``float32 [rows, dim]`` and the batch's distinct items ``float32 [items, dim]`` in one space."""

    candidate: Tensor
    items: Tensor

    def history(self, batch: Batch) -> Tensor:
        """The rows' histories, ``float32 [rows, length, dim]``."""
        return gather_rows(self.items, batch.history)


class History(nn.Module):
    """Pools the histories of a batch.

    The constructor takes ``modality_dim`` and ``behaviour_dim``, the widths of the two spaces, and ``spec``, the
    :class:`~ranking.models.spec.ModelSpec` with the options; it sets ``dim``. An empty history gives zeros, and what lies in
    the padding never matters.
    """

    dim: int
    """Width of what comes out."""

    @abstractmethod
    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """Pooled histories ``float32 [rows, dim]``.

        Each space is the concatenation of its representations, of width 0 where there are none.
        """

    def weights(self, modality: Space, behaviour: Space, batch: Batch) -> dict[str, Tensor]:
        """The score maps by name, ``float32 [rows, heads, length]`` each, for people to look at; none where nothing is
        weighed.
        """
        return {}


def joined(modality: Space, behaviour: Space) -> Space:
    """Both spaces side by side."""
    return Space(
        torch.cat([modality.candidate, behaviour.candidate], dim=1), torch.cat([modality.items, behaviour.items], dim=1)
    )


def with_products(pooled: list[Tensor], candidates: list[Tensor]) -> Tensor:
    """Pooled vectors ``[rows, heads * dim]`` and, for each, its product with the candidate ``[rows, dim]`` of the same
    space, head by head.
    """
    products = [
        each * candidate.repeat(1, each.shape[1] // candidate.shape[1])
        for each, candidate in zip(pooled, candidates, strict=True)
    ]
    return torch.cat([*pooled, *products], dim=1)
