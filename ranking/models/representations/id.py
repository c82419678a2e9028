"""Learned item id embeddings, optionally with a prior from content neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.data.vocabulary import PADDING, UNKNOWN
from ranking.models.parts import Gate
from ranking.models.representations.base import ItemShape, Representation, Table
from ranking.models.representations.neighbour_prior import fit_neighbours, nothing_fitted, search, unit_columns
from ranking.models.spec import START, ModelSpec
from sidkit.core.errors import ConfigError


class IdRepresentation(Representation):
    """One embedding per item of the training window; all other items share that of the unknown id.

    With a prior (``prior_strength`` k above 0), an item's vector is ``(n own + k neighbours) / (n + k)``, where
    ``neighbours`` is the weighted mean of the rows of its content neighbours
    (:mod:`ranking.models.representations.neighbour_prior`). Of a candidate, ``n`` is the number of its interactions as of the
    row, at most its training rows; in histories, ``n`` is its training rows. An item outside the training window has ``n`` 0:
    its vector is that of its neighbours. It has no parameters of its own.

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
        Strength and size of the prior; default: none.
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
        if spec is not None and self.strength > 0:
            _refuse_without_content(shape)
            self.neighbours, self.columns, self.scaling = spec.prior_neighbours, shape.matched, shape.counts
            width = len(range(shape.content_dim)[shape.matched])
            self._keep(nothing_fitted(shape.vocabulary, spec.prior_neighbours, width) | dict(fitted or {}))
            self.prior_share, self.history_prior_share = Gate(per_row=True), Gate()

    fitted_keys: Tensor
    fitted_key_rows: Tensor
    fitted_near: Tensor
    fitted_near_weight: Tensor
    fitted_trained: Tensor

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Find the content neighbours of the training window's items, if there is a prior."""
        if spec.prior_strength <= 0:
            return {}
        _refuse_without_content(shape)
        return fit_neighbours(
            seen, shape.vocabulary, shape.matched, spec.prior_neighbours, randomised=spec.prior_random
        )

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
        return self._in_history(own, *self._prior(items, own), self._trained(index))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; with a prior, that of a candidate depends on its interactions as of the row."""
        if self.strength <= 0:
            return super().encode(batch)
        index = self._index(batch.items)
        own, trained = self.table.rows(index), self._trained(index)
        prior, has_prior = self._prior(batch.items, own)
        candidate = batch.candidate
        count = trained[candidate]
        if self.scaling is not None:
            count = torch.minimum(count, self.scaling.counts(batch.numeric))
        share = self.prior_share(torch.where(has_prior[candidate], self._share(count), 0.0))[:, None]
        vectors = (1 - share) * gather_rows(own, candidate) + share * gather_rows(prior, candidate)
        return self._in_history(own, prior, has_prior, trained), vectors

    def _index(self, items: ItemBatch) -> Tensor:
        return dropped(items.index, self.dropout) if self.training else items.index

    def _trained(self, index: Tensor) -> Tensor:
        """Training rows of ids ``int64 [items]``; 0 for the unknown id."""
        trained: Tensor = self.fitted_trained[index]
        return trained

    def _share(self, count: Tensor) -> Tensor:
        """Weight of the prior of items with so many interactions."""
        share: Tensor = self.strength / (count + self.strength)
        return share

    def _in_history(self, own: Tensor, prior: Tensor, has_prior: Tensor, trained: Tensor) -> Tensor:
        share = self.history_prior_share(torch.where(has_prior, self._share(trained), 0.0))[:, None]
        mixed: Tensor = (1 - share) * own + share * prior
        return mixed

    def _prior(self, items: ItemBatch, own: Tensor) -> tuple[Tensor, Tensor]:
        """The mean rows of the neighbours ``float32 [items, dim]``, and whether an item has any, ``bool [items]``."""
        near, weight = self.fitted_near[items.index], self.fitted_near_weight[items.index]
        new = torch.nonzero(items.index == UNKNOWN).squeeze(1)
        if len(new) and len(self.fitted_keys):
            with torch.no_grad():
                places, found = search(
                    unit_columns(items.content[new], self.columns), self.fitted_keys, self.neighbours
                )
            near, weight = near.clone(), weight.clone()
            near[new, : places.shape[1]] = self.fitted_key_rows[places]
            weight[new, : places.shape[1]] = found
        vectors = torch.einsum("ik,ikd->id", weight, self.table.rows(near))
        return vectors, weight.sum(dim=1) > 0


def dropped(index: Tensor, share: float) -> Tensor:
    """Replace a random ``share`` of the ids ``int64 [items]`` by the unknown id; padding is unchanged."""
    if share <= 0:
        return index
    replaced = (torch.rand(index.shape, device=index.device) < share) & (index != PADDING)
    return torch.where(replaced, UNKNOWN, index)


def _refuse_without_content(shape: ItemShape) -> None:
    if not shape.matches_content:
        raise ConfigError(
            "prior_strength needs content vectors that were not trained on clicks, to find neighbours, but all columns of the "
            "codebook's encoder were; set prior_strength = 0, or use a codebook whose encoder keeps the content"
        )
