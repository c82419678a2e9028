"""A prior for rows of an id table: the mean row of an item's content neighbours.

The neighbours of an item are items of the training window with the most similar content. Those of the window's items are
computed once, by :func:`fit_neighbours`, and saved with the model. Other items get theirs by a search among the same
:data:`INDEXED` items at most, so that its cost does not grow with the catalogue.

No item outside the training window is ever a neighbour: its row was never trained.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ranking.data.batch import Seen
from ranking.data.vocabulary import UNKNOWN
from sidkit.core.arrays import Floats, Ints

INDEXED = 8192
"""Maximum number of items that can be neighbours: those with the most training rows."""
_CHUNK = 1024
_SPREAD = 1e-3
"""Added to the standard deviation of a dimension; the paper's value."""
FIELDS = ("keys", "key_rows", "near", "near_weight", "trained")


def nothing_fitted(vocabulary: int, neighbours: int, content_dim: int) -> dict[str, Tensor]:
    """The state of a model without training rows: no neighbours."""
    return {
        "keys": torch.zeros(0, content_dim),
        "key_rows": torch.zeros(0, dtype=torch.int64),
        "near": torch.zeros(vocabulary, neighbours, dtype=torch.int64),
        "near_weight": torch.zeros(vocabulary, neighbours),
        "trained": torch.zeros(vocabulary),
    }


def fit_neighbours(
    seen: Seen, vocabulary: int, columns: slice, neighbours: int, *, randomised: bool = False
) -> dict[str, Tensor]:
    """Find the content neighbours of the training window's items.

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
    randomised : bool
        Control: permute the items among the index, so that neighbour lists keep their shape and weights, and name random items.

    Returns
    -------
    dict
        ``keys`` float32 [indexed, dim], unit content vectors; ``key_rows`` int64 [indexed], their id rows; ``near`` int64
        [vocabulary, neighbours], id rows, with ``near_weight`` float32 that sum to 1, or 0 for an item without neighbours;
        ``trained`` float32 [vocabulary], training rows of each id.
    """
    if seen.content is None:
        raise AssertionError("a neighbour prior is fitted on the content of the training rows")
    trained = np.bincount(seen.index, weights=seen.shown, minlength=vocabulary)
    trained[: UNKNOWN + 1] = 0
    vectors = _unit(_of_vocabulary(seen, vocabulary)[:, columns])
    known = np.flatnonzero((trained > 0) & (np.abs(vectors).sum(axis=1) > 0))
    rows = known[np.argsort(-trained[known], kind="stable")][:INDEXED]
    keys, key_rows = torch.from_numpy(vectors[rows]), torch.from_numpy(rows)
    found = nothing_fitted(vocabulary, neighbours, keys.shape[1])
    if randomised and len(rows):
        key_rows = key_rows[torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))]
    place = np.full(vocabulary, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    for start in range(0, len(known), _CHUNK):
        chunk = known[start : start + _CHUNK]
        near, weight = search(torch.from_numpy(vectors[chunk]), keys, neighbours, torch.from_numpy(place[chunk]))
        count = near.shape[1]
        at = torch.from_numpy(chunk)
        found["near"][at, :count] = key_rows[near]
        found["near_weight"][at, :count] = weight
    return {**found, "keys": keys, "key_rows": key_rows, "trained": torch.from_numpy(trained.astype(np.float32))}


def search(vectors: Tensor, keys: Tensor, neighbours: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest keys of unit vectors, with their weights.

    The weight of neighbour ``j`` of ``i`` is ``exp(-1/2 sum_d (x_id - x_jd)^2 / (s_id + 0.001))``, where ``s_id`` is the
    standard deviation of dimension ``d`` over the neighbours (arXiv 2411.09065), divided by the sum of the weights.

    Parameters
    ----------
    vectors : Tensor
        ``float32 [items, dim]``; a zero vector has no neighbours.
    keys : Tensor
        ``float32 [indexed, dim]``.
    neighbours : int
        Maximum number.
    own : Tensor, optional
        ``int64 [items]``: each item's index in ``keys``, which is not its neighbour; -1 for none.

    Returns
    -------
    tuple of Tensor
        Indices into ``keys``, ``int64 [items, found]``, and weights, ``float32 [items, found]``.
    """
    count = min(neighbours, len(keys) - (own is not None))
    if count < 1:
        return vectors.new_zeros((len(vectors), 0), dtype=torch.int64), vectors.new_zeros((len(vectors), 0))
    similarity = vectors @ keys.T
    if own is not None:
        listed = torch.nonzero(own >= 0).squeeze(1)
        similarity[listed, own[listed]] = -torch.inf
    near = similarity.topk(count, dim=1).indices
    around = keys[near]
    spread = around.std(dim=1, correction=0, keepdim=True) + _SPREAD
    distance = ((around - vectors[:, None]).square() / spread).sum(dim=2)
    weight = torch.softmax(-0.5 * distance, dim=1)
    return near, weight * (vectors.abs().sum(dim=1, keepdim=True) > 0)


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
