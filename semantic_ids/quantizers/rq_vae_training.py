"""Training of the RQ-VAE in torch; the result is returned as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from semantic_ids.losses import info_nce
from semantic_ids.pairs.batches import KnownPairs, PairBatches
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.kmeans import cluster, refine
from semantic_ids.quantizers.nearest import nearest
from semantic_ids.torch_threads import torch_threads
from sidkit.core.arrays import Floats
from sidkit.core.errors import TooFewPairsError

TEMPERATURE = 0.07
KMEANS_ITERATIONS = 10
RESTART_BELOW = 0.05  # usage, relative to the mean, below which a code is dead
DECODER_SHARE = 0.2  # share of the epochs, at the end, that train the decoder alone


@dataclass(frozen=True)
class RQVAETraining:
    """Training hyper-parameters of :class:`semantic_ids.quantizers.rq_vae.RQVAE`."""

    sizes: tuple[int, ...]
    latent_dim: int
    hidden: tuple[int, ...]
    epochs: int
    batch: int
    learning_rate: float
    commitment: float
    contrast: float
    decay: float
    seed: int
    threads: int


@dataclass(frozen=True)
class Learned:
    """The fitted state: codebooks, and the matrices of encoder and decoder."""

    codebooks: list[Floats]
    encoder: list[Floats]
    decoder: list[Floats]


class Network(nn.Module):
    """A linear path plus an MLP whose last layer is zero-initialised: ``x @ straight + MLP(x)``.

    Parameters
    ----------
    straight : float32 [in, out]
        Initial matrix of the linear path.
    hidden : tuple of int
        Widths of the hidden layers.
    generator : torch.Generator
        Initialises the MLP.
    """

    def __init__(self, straight: Tensor, hidden: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.straight = nn.Parameter(straight.clone())
        widths = [straight.shape[0], *hidden, straight.shape[1]]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for at, (wide, out) in enumerate(pairwise(widths)):
            gain = 0.0 if at == len(hidden) else math.sqrt(2 / wide)
            self.weights.append(nn.Parameter(gain * torch.randn(wide, out, generator=generator)))
            self.biases.append(nn.Parameter(torch.zeros(out)))

    def forward(self, rows: Tensor) -> Tensor:
        """Map ``float32 [rows, in]`` to ``float32 [rows, out]``."""
        hidden = rows
        for at, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.addmm(bias, hidden, weight)
            if at + 1 < len(self.weights):
                hidden = functional.relu(hidden)
        return torch.addmm(hidden, rows, self.straight)

    def arrays(self) -> list[Floats]:
        """The matrix of the linear path, then weights and bias of each layer."""
        layers = [part for pair in zip(self.weights, self.biases, strict=True) for part in pair]
        return [part.detach().numpy().copy() for part in (self.straight, *layers)]


class MovingCodebook:
    """One level: codewords updated by exponential moving averages of their residuals, with restarts of dead codes."""

    def __init__(self, words: Floats, decay: float, generator: torch.Generator) -> None:
        self.words = torch.from_numpy(words.copy())
        self.count = torch.ones(len(words))  # in units of the mean usage of a code
        self.total = self.words.clone()
        self.decay, self.generator = decay, generator

    def nearest(self, residual: Tensor) -> Tensor:
        """Codes ``int64 [rows]``."""
        scores = torch.addmm(-(self.words**2).sum(dim=1) / 2, residual, self.words.T)
        return scores.argmax(dim=1)

    def update(self, residual: Tensor, code: Tensor) -> None:
        """Update the moving averages with the residuals assigned to each code; restart dead codes."""
        size = len(self.words)
        unit = size / len(residual)
        count = torch.bincount(code, minlength=size).float() * unit
        total = torch.zeros_like(self.words).index_add_(0, code, residual) * unit
        self.count.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(total, alpha=1 - self.decay)
        dead = torch.nonzero(self.count < RESTART_BELOW).flatten()
        if len(dead):
            sampled = torch.randint(len(residual), (len(dead),), generator=self.generator)
            self.count[dead], self.total[dead] = 1.0, residual[sampled]
        self.words = self.total / self.count[:, None]


def quantized(latent: Tensor, levels: list[MovingCodebook], *, update: bool) -> tuple[Tensor, Tensor]:
    """The sum of the codewords with a straight-through gradient, and the commitment loss (without beta)."""
    residual, total, commitment = latent, torch.zeros_like(latent), torch.zeros(())
    for level in levels:
        with torch.no_grad():
            code = level.nearest(residual)
            word = level.words[code]
        commitment = commitment + functional.mse_loss(residual, word)
        if update:
            with torch.no_grad():
                level.update(residual.detach(), code)
        residual, total = residual - word, total + word
    return latent + (total - latent).detach(), commitment


def contrastive_loss(trigger: Tensor, target: Tensor, log_q: Tensor, no_negative: Tensor) -> Tensor:
    """InfoNCE over in-batch negatives: cosine similarity, temperature 0.07, logQ correction; see :func:`info_nce`.

    Parameters
    ----------
    trigger, target : float32 [pairs, dim]
        Normalised here.
    log_q : float32 [pairs]
        Log click counts of the targets.
    no_negative : bool [pairs, pairs]
        True where the column's target must not be a negative of the row's trigger; the diagonal is always included.
    """
    first, second = functional.normalize(trigger, dim=1), functional.normalize(target, dim=1)
    return info_nce(first, second, torch.arange(len(first)), log_q, no_negative, TEMPERATURE)


class Contrast:
    """Batches of pairs for the contrastive loss, with their logQ terms and negative masks."""

    def __init__(self, pairs: ItemPairs, batch: int, seed: int) -> None:
        self.known = KnownPairs(pairs)
        self.log_q = torch.log(torch.from_numpy(np.maximum(pairs.clicks, 1)).float())
        batches = PairBatches(pairs.trigger, pairs.target, pairs.weight)
        self.stream, self.pairs = batches.stream(batch, np.random.default_rng(seed)), len(pairs)

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next batch: triggers followed by targets ``int64 [2 * pairs]``, and ``log_q`` and ``no_negative`` of the loss.

        Raises
        ------
        FitError
            When no two pairs have four different items.
        """
        batch = next(self.stream, None)
        if batch is None:
            raise TooFewPairsError(
                f"contrast is above 0, but no two of the {self.pairs} pairs have four different items, so there are no "
                "negatives; mine more pairs, or set contrast = 0"
            )
        trigger, target = batch
        no_negative = torch.from_numpy(self.known.no_negatives(trigger, target, target))
        items = torch.from_numpy(np.concatenate([trigger, target]))
        return items, self.log_q[torch.from_numpy(target)], no_negative


def train(spec: RQVAETraining, rows: Floats, pairs: ItemPairs | None) -> Learned:
    """Train on standardised ``rows`` ``float32 [items, dim]`` in canonical order; see :class:`RQVAE` for the method."""
    with torch_threads(spec.threads):
        return _trained(spec, rows, pairs)


def _trained(spec: RQVAETraining, rows: Floats, pairs: ItemPairs | None) -> Learned:
    generator = torch.Generator().manual_seed(spec.seed)
    axes = torch.from_numpy(_principal_axes(rows, min(spec.latent_dim, rows.shape[1])))
    encoder = Network(axes, spec.hidden, generator)
    decoder = Network(axes.T.contiguous(), spec.hidden[::-1], generator)
    data = torch.from_numpy(rows)
    levels: list[MovingCodebook] = []
    latents = _latents(encoder, data)
    for at, size in enumerate(spec.sizes):
        words = cluster(latents, size, KMEANS_ITERATIONS, spec.seed + at, spec.threads)
        levels.append(MovingCodebook(words, spec.decay, generator))
        latents -= words[nearest(latents, words)]
    contrast = None if pairs is None else Contrast(pairs, spec.batch, spec.seed)

    def loss(batch: Tensor, *, joint: bool) -> Tensor:
        with torch.set_grad_enabled(joint):
            total, commitment = quantized(encoder(data[batch]), levels, update=joint)
        value = functional.mse_loss(decoder(total), data[batch]) + spec.commitment * commitment
        if contrast is not None:
            items, log_q, no_negative = contrast.next_batch()
            with torch.set_grad_enabled(joint):
                total, _ = quantized(encoder(data[items]), levels, update=False)
            first, second = decoder(total).chunk(2)
            value = value + spec.contrast * contrastive_loss(first, second, log_q, no_negative)
        return value

    alone = min(spec.epochs - 1, max(1, round(DECODER_SHARE * spec.epochs)))
    for batch in _steps(
        spec, len(data), spec.epochs - alone, [*encoder.parameters(), *decoder.parameters()], generator
    ):
        batch.learn(loss(batch.rows, joint=True))
    latents = _latents(encoder, data)
    for at, level in enumerate(levels):
        words = refine(latents, level.words.numpy(), KMEANS_ITERATIONS, spec.seed + at, spec.threads)
        level.words = torch.from_numpy(words)
        latents -= words[nearest(latents, words)]
    for batch in _steps(spec, len(data), alone, list(decoder.parameters()), generator):
        batch.learn(loss(batch.rows, joint=False))
    return Learned([level.words.numpy() for level in levels], encoder.arrays(), decoder.arrays())


@dataclass(frozen=True)
class Step:
    """One batch of row indices and the optimizer for its loss."""

    rows: Tensor
    optimizer: torch.optim.Optimizer

    def learn(self, loss: Tensor) -> None:
        """Take one optimizer step."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()


def _steps(
    spec: RQVAETraining, rows: int, epochs: int, parameters: list[nn.Parameter], generator: torch.Generator
) -> Iterator[Step]:
    """Batches of a number of epochs, with Adam and cosine decay of the learning rate to 0."""
    optimizer = torch.optim.Adam(parameters, lr=spec.learning_rate)
    size = min(spec.batch, rows)
    per_epoch = rows // size
    done, steps = 0, max(1, epochs * per_epoch)
    for _ in range(epochs):
        order = torch.randperm(rows, generator=generator)
        for batch in torch.split(order[: per_epoch * size], size):
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
            yield Step(batch, optimizer)
            done += 1


def _latents(encoder: Network, data: Tensor) -> Floats:
    with torch.no_grad():
        return np.ascontiguousarray(torch.cat([encoder(part) for part in torch.split(data, 8192)]).numpy())


def _principal_axes(rows: Floats, count: int) -> Floats:
    """The leading principal axes, ``float32 [dim, count]``."""
    wide = rows.astype(np.float64)
    _, axes = np.linalg.eigh(wide.T @ wide)
    return np.ascontiguousarray(axes[:, ::-1][:, :count], dtype=np.float32)
