"""Training of the attribute graph in torch; the result is returned as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from semantic_ids.torch_threads import torch_threads
from sidkit.core.arrays import Bools, Floats, Ints

_STEPS_PER_EVALUATION = 10
_LEAST_GAIN = 1e-3
_MOST_ATTRIBUTES = 1024  # compared with each other in a step


@dataclass(frozen=True)
class GraphTraining:
    """Training hyper-parameters of :class:`semantic_ids.encoders.attribute_graph.AttributeGraphEncoder`."""

    dim: int
    steps: int
    items_per_step: int
    patience: int
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int


@dataclass(frozen=True)
class LearnedGraph:
    """Weights and biases of the layers, and the loss at each evaluation."""

    layers: tuple[Floats, ...]
    curve: tuple[float, ...]


def train(spec: GraphTraining, content: Floats, of_attributes: Floats, edges: Bools) -> LearnedGraph:
    """Train on the content of items and of attributes, ``float32 [items, width]`` and ``[attributes, width]``, and ``edges``
    bool [items, attributes].
    """
    with torch_threads(spec.threads):
        return _trained(spec, content, torch.from_numpy(of_attributes), edges)


def _trained(spec: GraphTraining, content: Floats, of_attributes: Tensor, edges: Bools) -> LearnedGraph:
    rng = np.random.default_rng(spec.seed)
    model = _network(content.shape[1], spec.dim, torch.Generator().manual_seed(spec.seed))
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    linked = np.flatnonzero(edges.any(axis=1))
    size = min(spec.items_per_step, len(linked))
    evaluated = np.sort(rng.choice(linked, size, replace=False))
    best, best_loss, waited = _copy(model), np.inf, 0
    curve: list[float] = []
    for step in range(spec.steps + 1):
        if step % _STEPS_PER_EVALUATION == 0:
            with torch.no_grad():
                loss = float(graph_loss(model, content, of_attributes, edges, evaluated))
            curve.append(loss)
            waited = 0 if loss < best_loss - _LEAST_GAIN else waited + 1
            if loss < best_loss:
                best, best_loss = _copy(model), loss
            if waited > spec.patience:
                break
        rows = rng.choice(linked, size, replace=False)
        optimiser.zero_grad(set_to_none=True)
        graph_loss(model, content, of_attributes, edges, rows).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return LearnedGraph(tuple(each.numpy() for each in best), tuple(curve))


def graph_loss(model: nn.Sequential, content: Floats, of_attributes: Tensor, edges: Bools, rows: Ints) -> Tensor:
    """Alignment over the edges of some items, plus uniformity of these items and of their attributes.

    The convolution is that over these items and their attributes, with the degrees of the whole graph.
    """
    used = np.flatnonzero(edges[rows].any(axis=0))
    linked = torch.from_numpy(edges[rows][:, used].astype(np.float32))
    of_items = torch.from_numpy(1.0 + edges[rows].sum(axis=1, dtype=np.float32))[:, None]
    # Sums over the items of a sample stand for sums over all items, so they are scaled up to the whole degree.
    whole = torch.from_numpy(edges[:, used].sum(axis=0, dtype=np.float32))[:, None]
    shown = linked.sum(dim=0)[:, None]
    own, passed = model(torch.from_numpy(content[rows])), model(of_attributes[used])
    degree = 1.0 + whole
    items = own / of_items + linked @ (passed / degree.sqrt()) / of_items.sqrt()
    attributes = passed / degree + (whole / shown) * (linked.T @ (own / of_items.sqrt())) / degree.sqrt()
    items, attributes = functional.normalize(items, dim=1), functional.normalize(attributes, dim=1)
    item, attribute = linked.nonzero(as_tuple=True)
    alignment = (items[item] - attributes[attribute]).square().sum(dim=1).mean()
    return alignment + uniformity(items) + uniformity(attributes[:_MOST_ATTRIBUTES])


def uniformity(vectors: Tensor) -> Tensor:
    """``log mean_{j != k} exp(-2 ||v_j - v_k||^2)`` of unit vectors ``float32 [count, dim]``; 0 for fewer than two."""
    if len(vectors) < 2:
        return vectors.sum() * 0.0
    return torch.pdist(vectors).square().mul(-2).exp().mean().log()


def _network(width: int, dim: int, generator: torch.Generator) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, width), nn.ELU(), nn.Linear(width, dim))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()
    return model


def _copy(model: nn.Sequential) -> list[Tensor]:
    """Weights ``[in, out]`` and biases of the linear layers."""
    copied = []
    for layer in model:
        if isinstance(layer, nn.Linear):
            copied += [layer.weight.detach().T.clone().contiguous(), layer.bias.detach().clone()]
    return copied
