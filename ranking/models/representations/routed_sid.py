"""Codes scaled by the behaviour mass of their item (MMQ-v2, arXiv 2510.25622)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.data.vocabulary import UNKNOWN
from ranking.models.item_statistics import ItemStatistics
from ranking.models.parts import Gate
from ranking.models.representations.base import ItemShape
from ranking.models.representations.sid import SidRepresentation
from ranking.models.spec import ModelSpec


class RoutedSidRepresentation(SidRepresentation):
    """The vector of ``sid`` times the behaviour mass ``min(1, log(1 + n) / log(1 + mass_interactions))`` of the item.

    Codes of behaviour vectors (encoder ``behaviour``, ``behaviour_mass``) of items with few clicks are mostly chance; here they
    count for little. Of a candidate, ``n`` is the number of its interactions as of the row; in histories, ``n`` is its training
    rows. An item outside the training window has ``n`` 0 in histories: use it beside ``content``. The paper's router
    is learned; this one has no parameters.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level, ``vocabulary`` is the number of ids.
    spec : ModelSpec
        Width, pooling, and the mass. ``shuffled_counts`` is the control: the interactions of random rows and items.
    fitted : mapping, optional
        Training rows of the items, from :meth:`fit`.
    """

    reads_counts = True
    fitted_trained: Tensor

    def __init__(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(shape, spec.dim, spec.sid_pool, spec.code_table_start)
        self.full = math.log1p(spec.mass_interactions)
        self.scaling = shape.counts
        self.statistics = ItemStatistics(shuffled=True) if spec.shuffled_counts else None
        self.router, self.history_router = Gate(per_row=True), Gate()
        self._keep({"trained": torch.zeros(shape.vocabulary)} | dict(fitted or {}))

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Count the training rows of every id, ``float32 [vocabulary]``; permuted among them for the control."""
        trained = np.bincount(seen.index, weights=seen.shown, minlength=shape.vocabulary)
        trained[: UNKNOWN + 1] = 0
        if spec.shuffled_counts:
            known = np.flatnonzero(trained)
            trained[known] = trained[np.random.default_rng(0).permutation(known)]
        return {"trained": torch.from_numpy(trained.astype(np.float32))}

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec, fitted)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        return self._in_history(super().forward(items), items)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; a candidate has the mass of its interactions as of the row."""
        vectors = super().forward(batch.items)
        mass = self.router(self._mass(self._interactions(batch)))
        return self._in_history(vectors, batch.items), mass[:, None] * gather_rows(vectors, batch.candidate)

    def _in_history(self, vectors: Tensor, items: ItemBatch) -> Tensor:
        mass: Tensor = self.history_router(self._mass(self.fitted_trained[items.index]))
        return mass[:, None] * vectors

    def _interactions(self, batch: Batch) -> Tensor:
        """Interactions of the candidates as of the rows, ``float32 [rows]``; training rows where they are unknown."""
        if self.scaling is None:
            return self.fitted_trained[batch.candidate_index]
        numeric = batch.numeric
        if self.statistics is not None:
            other = self.statistics(numeric, batch.at_us, batch.candidate_index)
            numeric = numeric.index_copy(1, torch.tensor(self.statistics.places, device=numeric.device), other)
        return self.scaling.counts(numeric)

    def _mass(self, interactions: Tensor) -> Tensor:
        return (torch.log1p(interactions) / self.full).clamp(max=1)
