"""Training of the projections of :class:`semantic_ids.quantizers.parallel_aspects.ParallelAspects` in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.rq_vae_training import Contrast, contrastive_loss
from semantic_ids.torch_threads import torch_threads
from sidkit.core.arrays import Doubles, Floats


@dataclass(frozen=True)
class AspectTraining:
    """Number and width of the aspects, weights of the losses, and the optimizer."""

    aspects: int
    width: int
    contrast: float
    decorrelation: float
    epochs: int
    batch: int
    learning_rate: float
    seed: int
    threads: int


def train_heads(spec: AspectTraining, rows: Floats, pairs: ItemPairs | None) -> Doubles:
    """Train on standardised ``rows`` ``float32 [items, dim]`` in canonical order; returns ``float64 [dim, aspects, width]``."""
    with torch_threads(spec.threads):
        return _trained(spec, rows, pairs)


def correlation(aspects: Tensor) -> Tensor:
    """Mean squared correlation between columns of different aspects, for ``float32 [rows, aspects, width]``; 0 for one."""
    _, count, width = aspects.shape
    flat = aspects.flatten(1) - aspects.flatten(1).mean(dim=0)
    unit = flat / flat.square().sum(dim=0).add(1e-12).sqrt()
    squared = (unit.T @ unit).square()
    own = torch.kron(torch.eye(count), torch.ones(width, width)).bool()
    return squared.masked_fill(own, 0.0).sum() / max(1, count * (count - 1) * width * width)


def _trained(spec: AspectTraining, rows: Floats, pairs: ItemPairs | None) -> Doubles:
    generator = torch.Generator().manual_seed(spec.seed)
    data, dim = torch.from_numpy(rows), rows.shape[1]
    heads = _principal_axes(rows, spec.aspects, spec.width, generator).requires_grad_()
    decoder = heads.detach().T.clone().requires_grad_()
    optimizer = torch.optim.Adam([heads, decoder], lr=spec.learning_rate)
    size = min(spec.batch, len(data))
    per_epoch, done = max(1, len(data) // size), 0
    contrast = Contrast(pairs, spec.batch, spec.seed) if pairs is not None else None
    for _ in range(spec.epochs):
        order = torch.randperm(len(data), generator=generator)
        for batch in torch.split(order[: per_epoch * size], size):
            latent = data[batch] @ heads
            loss = functional.mse_loss(latent @ decoder, data[batch])
            loss = loss + spec.decorrelation * correlation(latent.view(-1, spec.aspects, spec.width))
            if contrast is not None:
                items, log_q, no_negative = contrast.next_batch()
                trigger, target = (data[items] @ heads).view(-1, spec.aspects, spec.width).chunk(2)
                losses = [
                    contrastive_loss(trigger[:, at], target[:, at], log_q, no_negative) for at in range(spec.aspects)
                ]
                loss = loss + spec.contrast * torch.stack(losses).mean()
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * (1 + math.cos(math.pi * done / (spec.epochs * per_epoch))) / 2
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1
    return heads.detach().numpy().astype(np.float64).reshape(dim, spec.aspects, spec.width)


def _principal_axes(rows: Floats, aspects: int, width: int, generator: torch.Generator) -> Tensor:
    """The leading principal axes, ``float32 [dim, aspects * width]``: the first for the first aspect, the next for the next,
    and so on; random directions beyond the width of the vectors.
    """
    count = aspects * width
    wide = rows.astype(np.float64)
    _, axes = np.linalg.eigh(wide.T @ wide)
    axes = axes[:, ::-1][:, :count]
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
    more = torch.randn(len(axes), max(0, count - axes.shape[1]), generator=generator) / math.sqrt(len(axes))
    dealt = torch.cat([torch.from_numpy(np.ascontiguousarray(axes, dtype=np.float32)), more], dim=1)
    return dealt.view(len(axes), width, aspects).transpose(1, 2).reshape(len(axes), count).contiguous()
