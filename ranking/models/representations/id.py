"""Learned item id embeddings, optionally with a prior, or a loss, from the neighbours of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.data.vocabulary import PADDING, UNKNOWN
from ranking.models.dropout import uniform_by_item
from ranking.models.losses import neighbour_pull
from ranking.models.parts import Gate
from ranking.models.representations.base import ItemShape, Table
from ranking.models.representations.neighbours import NeighbourRepresentation
from ranking.models.spec import START, ModelSpec


class IdRepresentation(NeighbourRepresentation):
    """One embedding per item of the training window; all other items share that of the unknown id.

    With a prior (``prior_strength`` k above 0), an item's vector is ``(n own + k neighbours) / (n + k)``, where
    ``neighbours`` is the weighted mean of the rows of its neighbours (:mod:`ranking.models.representations.neighbours`). Of a
    candidate, ``n`` is the number of its interactions as of the row, at most its training rows; in histories, ``n`` is its
    training rows. An item outside the training window has ``n`` 0: its vector is that of its neighbours. It has no parameters
    of its own.

    With ``lm_prior_weight`` above 0, the loss ``lm_prior`` pulls the rows of the batch's items to those of their neighbours:
    ``mean_i sum_j w_ij ||z_i - z_j||^2`` (arXiv 2411.09065; our mean instead of a sum). A neighbour with ``lm_prior_warm``
    training rows or more is not pulled to the item.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` is the number of rows.
    dim : int
        Width.
    dropout : float
        Share of ids replaced by the unknown id in training, so that its row is trained on ordinary items; with a prior, such
        an item has its neighbours' vector.
    spec : ModelSpec, optional
        Strength and size of the prior and of the loss; default: none.
    fitted : mapping, optional
        The neighbours, from :meth:`fit`.
    """

    knows_ids = True
    reads_codes = False

    def __init__(
        self,
        shape: ItemShape,
        dim: int = 32,
        dropout: float = 0.1,
        spec: ModelSpec | None = None,
        fitted: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(dim)
        self.dropout = dropout
        self.table = Table(shape.vocabulary, dim, spec.id_table_start if spec is not None else START)
        self.strength = spec.prior_strength if spec is not None else 0.0
        self.pull, self.warm = (spec.lm_prior_weight, spec.lm_prior_warm) if spec is not None else (0.0, 0)
        if spec is not None and (self.strength > 0 or self.pull > 0):
            self.keep_lists(shape, spec, fitted)
        if self.strength > 0:
            self.scaling = shape.counts
            self.prior_share, self.history_prior_share = Gate(per_row=True), Gate()

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Find the neighbours of the training window's items, if there is a prior or its loss."""
        return cls.fit_lists(shape, spec, seen) if spec.prior_strength > 0 or spec.lm_prior_weight > 0 else {}

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec.dim, spec.id_dropout, spec, fitted)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        index = self._index(items)
        own = self.table.rows(index)
        if self.strength <= 0:
            return own
        return self._in_history(own, *self._prior(items), self.trained(index))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; with a prior, that of a candidate depends on its interactions as of the row."""
        if self.strength <= 0:
            return super().encode(batch)
        index = self._index(batch.items)
        own, trained = self.table.rows(index), self.trained(index)
        prior, has_prior = self._prior(batch.items)
        candidate = batch.candidate
        count = trained[candidate]
        if self.scaling is not None:
            count = torch.minimum(count, self.scaling.counts(batch.numeric))
        share = self.prior_share(torch.where(has_prior[candidate], self._share(count), 0.0))[:, None]
        vectors = (1 - share) * gather_rows(own, candidate) + share * gather_rows(prior, candidate)
        return self._in_history(own, prior, has_prior, trained), vectors

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """``lm_prior``, if its weight is above 0."""
        return {"lm_prior": "lm_prior_weight"} if spec.lm_prior_weight > 0 else {}

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """The loss ``lm_prior``, a mean over the batch's known items with neighbours."""
        if self.pull <= 0:
            return {}
        index = batch.items.index
        near, weight = self.spread(batch.items)
        used = torch.nonzero((index > UNKNOWN) & (weight.sum(dim=1) > 0)).squeeze(1)
        own, others = self.table.rows(index[used]), self.table.rows(near[used])
        loss = neighbour_pull(own, others, weight[used], self.trained(near[used]) >= self.warm)
        return {"lm_prior": self.pull * loss.sum() / max(1, len(used))}

    def _index(self, items: ItemBatch) -> Tensor:
        return dropped(items.index, self.dropout) if self.training else items.index

    def _share(self, count: Tensor) -> Tensor:
        """Weight of the prior of items with so many interactions."""
        share: Tensor = self.strength / (count + self.strength)
        return share

    def _in_history(self, own: Tensor, prior: Tensor, has_prior: Tensor, trained: Tensor) -> Tensor:
        share = self.history_prior_share(torch.where(has_prior, self._share(trained), 0.0))[:, None]
        mixed: Tensor = (1 - share) * own + share * prior
        return mixed

    def _prior(self, items: ItemBatch) -> tuple[Tensor, Tensor]:
        """The mean rows of the neighbours ``float32 [items, dim]``, and whether an item has any, ``bool [items]``."""
        near, weight = self.spread(items)
        return self.table.weighted(near, weight), weight.sum(dim=1) > 0


def dropped(index: Tensor, share: float) -> Tensor:
    """Replace a random ``share`` of the ids ``int64 [items]`` by the unknown id; padding is unchanged."""
    if share <= 0:
        return index
    replaced = (uniform_by_item(index) < share) & (index != PADDING)
    return torch.where(replaced, UNKNOWN, index)
