"""Base class of the history poolings."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ranking.data.batch import Batch
from ranking.data.gather_rows import gather_rows, is_shared
from ranking.models.parts import DeclaresRoles


@dataclass(frozen=True)
class Space:
    """Candidates ``float32 [rows, dim]`` and the batch's distinct items ``float32 [items, dim]`` in one space."""

    candidate: Tensor
    items: Tensor

    def history(self, batch: Batch) -> Tensor:
        """The histories of the rows, ``float32 [rows, length, dim]``."""
        if is_shared(batch.history):
            return gather_rows(self.items, batch.history[:1]).expand(*batch.history.shape, -1)
        return gather_rows(self.items, batch.history)


class History(DeclaresRoles):
    """Pools the histories of a batch to one vector per row.

    The constructor takes ``modality_dim`` and ``behaviour_dim``, the widths of the two spaces, and ``spec``, the
    :class:`~ranking.models.spec.ModelSpec` with the options; it sets ``dim``. An empty history gives zeros, and padding
    has no influence.

    An attention that derives from :class:`~ranking.models.parts.Attention` is listed among the parts of the model, as are all
    embedding tables, and comparisons measure what they contribute.
    """

    dim: int
    """Width of what comes out."""

    @abstractmethod
    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """Pooled histories ``float32 [rows, dim]``.

        Each space is the concatenation of its representations; its width is 0 without any.
        """

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted auxiliary losses of a training batch, scalars by name, after ``forward`` of that batch; none by default."""
        return {}

    @classmethod
    def losses(cls, spec: Any) -> dict[str, str]:
        """The auxiliary losses of a model with this :class:`~ranking.models.spec.ModelSpec` by name, each with the key of the
        spec that holds its weight; see :meth:`ranking.models.representations.base.Representation.losses`.
        """
        return {}

    def weights(self, modality: Space, behaviour: Space, batch: Batch) -> dict[str, Tensor]:
        """Attention weights by name, ``float32 [rows, heads, length]`` each, for inspection; empty without attention."""
        return {}


def joined(modality: Space, behaviour: Space) -> Space:
    """Concatenate both spaces."""
    return Space(
        torch.cat([modality.candidate, behaviour.candidate], dim=1), torch.cat([modality.items, behaviour.items], dim=1)
    )


def with_products(pooled: list[Tensor], candidates: list[Tensor]) -> Tensor:
    """Concatenate pooled vectors ``[rows, heads * dim]`` and, per head, their elementwise products with the candidate
    ``[rows, dim]`` of the same space.
    """
    products = [
        each * candidate.repeat(1, each.shape[1] // candidate.shape[1])
        for each, candidate in zip(pooled, candidates, strict=True)
    ]
    return torch.cat([*pooled, *products], dim=1)
