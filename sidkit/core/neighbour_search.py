"""Nearest neighbours of unit vectors with the weights of the language-model prior; in torch, so that a model can export it."""

from __future__ import annotations

import torch
from torch import Tensor

_SPREAD = 1e-3
"""Added to the standard deviation of a dimension; the paper's value."""


def search(vectors: Tensor, keys: Tensor, neighbours: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest keys of unit vectors, with their weights.

    The weight of neighbour ``j`` of ``i`` is ``exp(-1/2 sum_d (x_id - x_jd)^2 / (s_id + 0.001))``, where ``s_id`` is the
    standard deviation of dimension ``d`` over the neighbours (arXiv 2411.09065), divided by the sum of the weights.

    Parameters
    ----------
    vectors : Tensor
        ``float32`` or ``float64 [items, dim]``; a zero vector has no neighbours.
    keys : Tensor
        ``[indexed, dim]``, of the same type.
    neighbours : int
        Maximum number.
    own : Tensor, optional
        ``int64 [items]``: each item's index in ``keys``, which is not its neighbour; -1 for none.

    Returns
    -------
    tuple of Tensor
        Indices into ``keys``, ``int64 [items, found]``, and weights of the vectors' type, ``[items, found]``.
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
