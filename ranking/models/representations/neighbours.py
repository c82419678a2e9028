"""Representations that read the rows of an item's neighbours in a table of ids.

The neighbours of an item are those of the codebook's lists (:mod:`semantic_ids.neighbour_lists`) or, without lists, the items
of the training window with the most similar content. Those of the window's items are saved with the model. Other items get
theirs by a search for similar content among the same :data:`INDEXED` items at most, so that its cost does not grow with the
catalogue.

No item outside the training window is ever a neighbour: its row was never trained. With lists, no item that came after the
codebook's fit is one either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ranking.data.batch import ItemBatch, Seen
from ranking.data.vocabulary import UNKNOWN
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.spec import ModelSpec
from sidkit.core.arrays import Bools, Floats, Ints
from sidkit.core.errors import ConfigError
from sidkit.core.neighbour_search import search

INDEXED = 8192
"""Maximum number of items that can be neighbours: those with the most training rows."""
_CHUNK = 1024


class NeighbourRepresentation(Representation):
    """Base class of representations with the rows of neighbours."""

    fitted_keys: Tensor
    fitted_key_rows: Tensor
    fitted_near: Tensor
    fitted_near_weight: Tensor
    fitted_trained: Tensor

    @classmethod
    def fit_lists(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Find the neighbours of the training window's items, as the spec states.

        Raises
        ------
        ConfigError
            When there are no content vectors to find neighbours by.
        """
        refuse_without_content(shape)
        return fit_neighbours(
            seen,
            shape.vocabulary,
            shape.matched,
            spec.prior_neighbours,
            lists=spec.neighbour_lists,
            randomised=spec.prior_random,
        )

    def keep_lists(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None) -> None:
        """Register the state of :meth:`fit_lists`, or that of a model without training rows.

        Raises
        ------
        ConfigError
            When there are no content vectors to find neighbours by.
        """
        refuse_without_content(shape)
        self.neighbours, self.columns = spec.prior_neighbours, shape.matched
        width = len(range(shape.content_dim)[shape.matched])
        nothing = nothing_fitted(shape.vocabulary, spec.prior_neighbours, width, len(spec.neighbour_lists))
        self._keep(nothing | dict(fitted or {}))

    def neighbours_of(self, items: ItemBatch) -> tuple[Tensor, Tensor]:
        """Id rows of the neighbours ``int64 [items, lists, count]`` and their weights ``float32``, which sum to 1 per list, or
        are 0 in a list that has no neighbours of the item.
        """
        near, weight = self.fitted_near[items.index], self.fitted_near_weight[items.index]
        if near.dim() == 2:  # without lists
            near, weight = near[:, None], weight[:, None]
        new = torch.nonzero(items.index == UNKNOWN).squeeze(1)
        if len(new) and len(self.fitted_keys):
            with torch.no_grad():
                places, found = search(
                    unit_columns(items.content[new], self.columns), self.fitted_keys, self.neighbours
                )
            near, weight = near.clone(), weight.clone()
            near[new, :, : places.shape[1]] = self.fitted_key_rows[places][:, None]
            weight[new, :, : places.shape[1]] = found[:, None]
        return near, weight

    def spread(self, items: ItemBatch) -> tuple[Tensor, Tensor]:
        """The neighbours of all lists in one: id rows ``int64 [items, lists * count]`` and weights, which sum to 1 for an item
        with any neighbour; lists that have neighbours of the item weigh the same.
        """
        near, weight = self.neighbours_of(items)
        filled = (weight.sum(dim=2, keepdim=True) > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return near.flatten(1), (weight / filled).flatten(1)

    def trained(self, index: Tensor) -> Tensor:
        """Training rows of ids ``int64``, as float32; 0 for the unknown id."""
        trained: Tensor = self.fitted_trained[index]
        return trained


def refuse_without_content(shape: ItemShape) -> None:
    """Check that there are content vectors to find neighbours by.

    Raises
    ------
    ConfigError
        When all were trained on clicks.
    """
    if not shape.matches_content:
        raise ConfigError(
            "neighbours need content vectors that were not trained on clicks, but all columns of the codebook's encoder were; "
            "set prior_strength = 0 and lm_prior_weight = 0, use id instead of graph_smoothed, or use a codebook whose encoder "
            "keeps the content"
        )


def nothing_fitted(vocabulary: int, neighbours: int, content_dim: int, lists: int = 0) -> dict[str, Tensor]:
    """The state of a model without training rows: no neighbours. Without lists, there is one without a dimension of its own."""
    shape = (vocabulary, lists, neighbours) if lists else (vocabulary, neighbours)
    return {
        "keys": torch.zeros(0, content_dim),
        "key_rows": torch.zeros(0, dtype=torch.int64),
        "near": torch.zeros(shape, dtype=torch.int64),
        "near_weight": torch.zeros(shape),
        "trained": torch.zeros(vocabulary),
    }


def fit_neighbours(
    seen: Seen,
    vocabulary: int,
    columns: slice,
    neighbours: int,
    *,
    lists: Sequence[str] = (),
    randomised: bool = False,
) -> dict[str, Tensor]:
    """Find the neighbours of the training window's items.

    Parameters
    ----------
    seen : Seen
        Statistics of the training rows; the most shown version of an item's content counts.
    vocabulary : int
        Rows of the id table.
    columns : slice
        The columns of content vectors to compare: those that were not trained on clicks.
    neighbours : int
        Maximum number of neighbours.
    lists : sequence of str
        Lists of the codebook; an item of the window that they do not have, because it came after the codebook's fit, has its
        nearest items by content in each of them. Empty: all items have those.
    randomised : bool
        Control: permute the items that can be neighbours, so that lists keep their shape and weights, and name random items.

    Returns
    -------
    dict
        ``keys`` float32 [indexed, dim], unit content vectors; ``key_rows`` int64 [indexed], their id rows; ``near`` int64
        [vocabulary, neighbours], or [vocabulary, lists, neighbours] with lists, id rows, with ``near_weight`` float32 that
        sum to 1, or 0 for an item without neighbours; ``trained`` float32 [vocabulary], training rows of each id.
    """
    if seen.content is None:
        raise AssertionError("neighbours are fitted on the content of the training rows")
    trained = np.bincount(seen.index, weights=seen.shown, minlength=vocabulary)
    trained[: UNKNOWN + 1] = 0
    vectors = _unit(_of_vocabulary(seen, vocabulary)[:, columns])
    known = np.flatnonzero((trained > 0) & (np.abs(vectors).sum(axis=1) > 0))
    can_be = np.ones(vocabulary, dtype=bool)
    found = nothing_fitted(vocabulary, neighbours, vectors.shape[1], len(lists))
    listed = np.zeros(vocabulary, dtype=bool)
    if lists:
        listed = _fill_listed(found, seen, lists, trained > 0)
        can_be = listed
    rows = known[can_be[known]]
    rows = rows[np.argsort(-trained[rows], kind="stable")][:INDEXED]
    keys, key_rows = torch.from_numpy(vectors[rows]), torch.from_numpy(rows)
    if randomised:
        among = np.flatnonzero(listed) if lists else rows
        other = torch.arange(vocabulary)
        other[torch.from_numpy(among)] = torch.from_numpy(among[np.random.default_rng(0).permutation(len(among))])
        key_rows, found["near"] = other[key_rows], other[found["near"]]
    place = np.full(vocabulary, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    searched = known[~listed[known]]
    for start in range(0, len(searched), _CHUNK):
        chunk = searched[start : start + _CHUNK]
        near, weight = search(torch.from_numpy(vectors[chunk]), keys, neighbours, torch.from_numpy(place[chunk]))
        count = near.shape[1]
        at = torch.from_numpy(chunk)
        found["near"][at, ..., :count] = key_rows[near][:, None] if lists else key_rows[near]
        found["near_weight"][at, ..., :count] = weight[:, None] if lists else weight
    return {**found, "keys": keys, "key_rows": key_rows, "trained": torch.from_numpy(trained.astype(np.float32))}


def _fill_listed(found: dict[str, Tensor], seen: Seen, lists: Sequence[str], trained: Bools) -> Bools:
    """Fill in the codebook's lists, with neighbours of the training window only; returns the ids that have them, ``bool
    [vocabulary]``.
    """
    known = seen.neighbours
    if known is None:
        raise ConfigError(
            f"neighbour_lists = {list(lists)} needs a codebook with these lists, got one without; add [codebook.neighbours] "
            "lists to the preset (codebook_changes of an arm), or remove neighbour_lists"
        )
    listed = np.zeros(len(trained), dtype=bool)
    listed[known.index] = True
    listed &= trained
    own = np.flatnonzero(listed[known.index])
    count = found["near"].shape[2]
    for place, name in enumerate(lists):
        near, weight = known.lists[name].near[own], known.lists[name].weight[own]
        rows = np.where(near >= 0, known.index[near], UNKNOWN)
        weight = np.where(listed[rows], weight, 0.0)
        order = np.argsort(-weight, axis=1, kind="stable")[:, :count]
        rows, weight = np.take_along_axis(rows, order, axis=1), np.take_along_axis(weight, order, axis=1)
        weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30)
        at = torch.from_numpy(known.index[own])
        found["near"][at, place, : rows.shape[1]] = torch.from_numpy(rows)
        found["near_weight"][at, place, : rows.shape[1]] = torch.from_numpy(weight.astype(np.float32))
    return listed


def unit_columns(content: Tensor, columns: slice) -> Tensor:
    """Unit vectors of some content columns, ``float32 [items, dim]``; a zero vector remains zero."""
    return functional.normalize(content[:, columns], dim=1, eps=1e-9)


def _of_vocabulary(seen: Seen, vocabulary: int) -> Floats:
    """The content of each id row, of its most shown version, ``float32 [vocabulary, dim]``."""
    assert seen.content is not None
    vectors = np.zeros((vocabulary, seen.content.shape[1]), dtype=np.float32)
    order: Ints = np.argsort(seen.shown, kind="stable")
    order = order[(seen.shown[order] > 0) & (seen.index[order] > UNKNOWN)]
    vectors[seen.index[order]] = seen.content[order]  # of repeated indices, the last one is assigned
    return vectors


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit
