"""Id embeddings smoothed over graphs of neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.vocabulary import UNKNOWN
from ranking.models.losses import view_contrast
from ranking.models.parts import Gate
from ranking.models.representations.base import ItemShape, Table
from ranking.models.representations.id import dropped
from ranking.models.representations.neighbours import NeighbourRepresentation
from ranking.models.spec import ModelSpec


class GraphSmoothedRepresentation(NeighbourRepresentation):
    """The id row of an item plus the direction of its neighbours' rows (LATTICE, arXiv 2104.09036, section 3).

    ``out_i = e_i + h_i / ||h_i||``. ``h_i`` combines one vector per list of neighbours, ``h_i^m = sum_j w_ij^m e_j``, by
    attention: ``h_i = sum_m softmax_m(v . tanh(W h_i^m)) h_i^m``, over the lists that have neighbours of the item. An item
    without any keeps ``e_i``. Lists are fixed: there is no learned graph, which the paper mixes in with weight 0.1.

    The optional loss ``view_contrast`` is the contrast of MICRO (arXiv 2111.00678) between every ``h^m`` and ``h``
    (:func:`ranking.models.losses.view_contrast`), over the distinct candidates of a batch.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` is the number of rows.
    spec : ModelSpec
        Width, lists and weights.
    fitted : mapping, optional
        The neighbours, from :meth:`fit`.
    """

    knows_ids = True
    reads_codes = False

    def __init__(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(spec.dim)
        self.spec = spec
        self.table = Table(shape.vocabulary, spec.dim, spec.id_table_start)
        self.keep_lists(shape, spec, fitted)
        self.smoothing = Gate()
        inner, outer = nn.Linear(spec.dim, spec.dim, bias=False), nn.Linear(spec.dim, 1, bias=False)
        self.score = nn.Sequential(inner, nn.Tanh(), outer) if len(spec.neighbour_lists) > 1 else None

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Find the neighbours of the training window's items."""
        return cls.fit_lists(shape, spec, seen)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec, fitted)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        index = dropped(items.index, self.spec.id_dropout) if self.training else items.index
        own = self.table.rows(index)
        _, fused, has_view = self._views(items)
        share = self.smoothing(has_view.any(dim=1).to(own.dtype))[:, None]
        smoothed: Tensor = own + share * functional.normalize(fused, dim=1)
        return smoothed

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        """``view_contrast``, if its weight is above 0."""
        return {"view_contrast": "graph_contrast_weight"} if spec.graph_contrast_weight > 0 else {}

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """The loss ``view_contrast``, a mean over at most ``contrast_negatives`` known candidates and their lists."""
        if self.spec.graph_contrast_weight <= 0:
            return {}
        items = batch.items.take(torch.unique(batch.candidate))
        items = items.take(torch.nonzero(items.index > UNKNOWN).squeeze(1))
        if len(items.index) > self.spec.contrast_negatives:
            order = torch.randperm(len(items.index), device=items.index.device)
            items = items.take(order[: self.spec.contrast_negatives])
        views, fused, has_view = self._views(items)
        losses = [
            view_contrast(view[has], fused[has], self.spec.graph_contrast_temperature)
            for view, has in zip(views.unbind(1), has_view.unbind(1), strict=True)
        ]
        mean = torch.cat(losses).sum() / has_view.sum().clamp(min=1)
        return {"view_contrast": self.spec.graph_contrast_weight * mean}

    def _views(self, items: ItemBatch) -> tuple[Tensor, Tensor, Tensor]:
        """``h^m`` float32 [items, lists, dim], zero where a list has no neighbours of the item; ``h`` float32 [items, dim];
        whether a list has any, bool [items, lists].
        """
        near, weight = self.neighbours_of(items)
        views = self.table.weighted(near.flatten(0, 1), weight.flatten(0, 1)).view(*near.shape[:2], self.dim)
        has_view = weight.sum(dim=2) > 0
        if self.score is None:
            return views, views.squeeze(1), has_view
        score = self.score(views).squeeze(2).masked_fill(~has_view, torch.finfo(views.dtype).min)
        return views, torch.einsum("im,imd->id", torch.softmax(score, dim=1), views), has_view
