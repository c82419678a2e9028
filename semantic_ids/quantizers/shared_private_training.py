"""Training of the projections of :class:`semantic_ids.quantizers.shared_private.SharedPrivate` in torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semantic_ids.torch_threads import torch_threads
from sidkit.core.arrays import Bools, Doubles, Floats

_LEAST = 2
"""Rows of a batch that a term needs."""


@dataclass(frozen=True)
class AlignmentTraining:
    """Width of the shared space, weights of the losses, and the optimizer."""

    width: int
    alignment: float
    uniformity: float
    penalty: float
    temperature: float
    epochs: int
    batch: int
    learning_rate: float
    seed: int
    threads: int


def train_projections(spec: AlignmentTraining, views: Sequence[Floats], present: Bools) -> list[Doubles]:
    """Train one projection per view; they start as (leading columns of) the identity.

    Parameters
    ----------
    spec : AlignmentTraining
        Settings.
    views : sequence of ndarray
        ``float32 [items, columns of the view]`` each, in canonical order and of about unit scale.
    present : bool [items, views]
        Whether an item has the view.

    Returns
    -------
    list of ndarray
        ``float64 [columns of the view, width]`` each.
    """
    with torch_threads(spec.threads):
        return _trained(spec, [torch.from_numpy(view) for view in views], torch.from_numpy(present))


def on_sphere(rows: Tensor, projection: Tensor) -> Tensor:
    """Projected rows of length 1, ``float32 [rows, width]``; zeros remain zeros."""
    return functional.normalize(rows @ projection, dim=1)


def alignment_loss(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between two views ``float32 [items, width]`` of unit length; other items are negatives."""
    cosine = left @ right.T / temperature
    own = torch.arange(len(left))
    return (functional.cross_entropy(cosine, own) + functional.cross_entropy(cosine.T, own)) / 2


def uniformity_loss(vectors: Tensor) -> Tensor:
    """``log mean_{i < j} exp(-2 |h_i - h_j|^2)`` of unit vectors ``float32 [items, width]``: low where they are spread."""
    distance = 2 - 2 * (vectors @ vectors.T)
    upper = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return torch.logsumexp(-2 * distance[upper[0], upper[1]], dim=0) - math.log(upper.shape[1])


def correlation_penalty(shared: Tensor, private: Tensor) -> Tensor:
    """Squared Frobenius norm of the correlations between columns of ``shared`` and ``private``, float32 [items, width]."""
    units = []
    for part in (shared, private):
        centred = part - part.mean(dim=0)
        units.append(centred / centred.square().sum(dim=0).add(1e-12).sqrt())
    return (units[0].T @ units[1]).square().sum()


def _trained(spec: AlignmentTraining, views: list[Tensor], present: Tensor) -> list[Doubles]:
    generator = torch.Generator().manual_seed(spec.seed)
    projections = [torch.eye(view.shape[1], spec.width).requires_grad_() for view in views]
    optimizer = torch.optim.Adam(projections, lr=spec.learning_rate)
    size = min(spec.batch, len(present))
    per_epoch, done = max(1, len(present) // size), 0
    for _ in range(spec.epochs):
        order = torch.randperm(len(present), generator=generator)
        for batch in torch.split(order[: per_epoch * size], size):
            loss = _loss(spec, [view[batch] for view in views], present[batch], projections)
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * (1 + math.cos(math.pi * done / (spec.epochs * per_epoch))) / 2
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1
    return [projection.detach().numpy().astype("float64") for projection in projections]


def _loss(spec: AlignmentTraining, views: list[Tensor], present: Tensor, projections: list[Tensor]) -> Tensor:
    """The weighted losses of a batch; a term of too few rows is left out."""
    unit = [on_sphere(view, projection) for view, projection in zip(views, projections, strict=True)]
    shared = functional.normalize(torch.stack(unit).sum(dim=0), dim=1)
    loss = torch.stack(unit).sum() * 0.0
    pairs = list(itertools.combinations(range(len(unit)), 2))
    for left, right in pairs:
        both = present[:, left] & present[:, right]
        if int(both.sum()) >= _LEAST:
            aligned = alignment_loss(unit[left][both], unit[right][both], spec.temperature)
            loss = loss + spec.alignment / len(pairs) * aligned
    for at, own in enumerate(unit):
        has = present[:, at]
        if int(has.sum()) >= _LEAST:
            apart = spec.uniformity * uniformity_loss(own[has])
            loss = loss + (apart + spec.penalty * correlation_penalty(shared[has], own[has] - shared[has])) / len(unit)
    return loss
