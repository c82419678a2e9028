"""Training of the behaviour encoder in torch; the result is returned as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from semantic_ids.losses import info_nce
from semantic_ids.pairs.batches import KnownPairs, PairBatches
from semantic_ids.pairs.mass import pair_masses
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.torch_threads import torch_threads
from sidkit.core.arrays import Bools, Floats, Ints
from sidkit.core.errors import TooFewPairsError

STEPS_PER_EVALUATION = 25
_MOST_EVALUATED = 1024
_MOST_OTHERS = 4096
_STANDARD_ERRORS = 3  # required improvement over content; the best of many evaluations is biased upwards


@dataclass(frozen=True)
class BehaviourTraining:
    """Training hyper-parameters of :class:`semantic_ids.encoders.behaviour.BehaviourEncoder`."""

    dim: int
    hidden: int
    content_weight: float
    temperature: float
    log_q: float
    batch: int
    steps: int
    patience: int
    held_out: float
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int
    mass_clicks: float
    shuffled_mass: bool


@dataclass(frozen=True)
class Learned:
    """The projection's matrices, and the mean log rank of held-out pairs at each evaluation, starting with content's."""

    straight: Floats
    first: Floats
    bias: Floats
    second: Floats
    curve: tuple[float, ...]


class Projection(nn.Module):
    """Shared trigger and target tower: leading components of content plus zero-initialised linear and two-layer terms.

    ``normalize(x @ (I + change) + relu(x @ first + bias) @ second)``, with ``x`` scaled per component.

    Parameters
    ----------
    hidden, dim : int
        Widths of the hidden layer and of the output.
    scale : float32 [width]
        Divisor of each input component, so that components of low variance are learned as fast as those of high variance.
    generator : torch.Generator
        Initialises the first layer.
    content_weight : float
        Norm of the unchanged content that is concatenated with the unit-norm projection; 0 for none.
    """

    start: Tensor
    scale: Tensor

    def __init__(
        self, hidden: int, dim: int, scale: Tensor, generator: torch.Generator, content_weight: float = 0.0
    ) -> None:
        super().__init__()
        width = len(scale)
        self.content_weight = content_weight
        self.register_buffer("start", torch.eye(width, dim))
        self.register_buffer("scale", scale)
        self.change = nn.Parameter(torch.zeros(width, dim))
        self.first = nn.Parameter(torch.randn(width, hidden, generator=generator) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.second = nn.Parameter(torch.zeros(hidden, dim))

    def forward(self, rows: Tensor) -> Tensor:
        """Map content ``float32 [rows, width]`` to unit vectors, ``float32 [rows, dim]`` (``2 * dim`` with content)."""
        straight, first, bias, second = self.matrices()
        nonlinear = functional.relu(torch.addmm(bias, rows, first)) @ second
        projected = functional.normalize(rows @ straight + nonlinear, dim=1)
        if not self.content_weight:
            return projected
        content = self.content_weight * functional.normalize(rows @ self.start, dim=1)
        return torch.cat([content, projected], dim=1) / math.hypot(1, self.content_weight)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The effective weights: the linear path, then weight, bias and weight of the two-layer path."""
        typical = self.scale.square().mean().sqrt()
        change = typical * self.change / self.scale[:, None]
        return self.start + change, self.first / self.scale[:, None], self.bias, typical * self.second


def train(spec: BehaviourTraining, content: Floats, pairs: ItemPairs) -> Learned:
    """Train on ``content`` ``float32 [items, width]``, as the encoder's docstring describes.

    Raises
    ------
    FitError
        When there are too few pairs for training and evaluation.
    """
    with torch_threads(spec.threads):
        return _trained(spec, content, pairs)


def _trained(spec: BehaviourTraining, content: Floats, pairs: ItemPairs) -> Learned:
    rng = np.random.default_rng(spec.seed)
    if pairs.backtest is None:
        is_held_out = _held_out(pairs, spec.held_out, rng)
        known = KnownPairs(pairs)
        evaluator = _RankEvaluator(pairs.where(is_held_out), pairs.target, known, rng)
        result = _learn(spec, content, pairs.where(~is_held_out), known, spec.steps, rng, evaluator)
        return _as_arrays(result.model, result.curve)
    earlier, later = pairs.backtest.earlier, pairs.backtest.later
    known = KnownPairs(earlier)
    evaluator = _RankEvaluator(later, np.flatnonzero(content.any(axis=1)), known, rng)
    result = _learn(spec, content, earlier, known, spec.steps, rng, evaluator)
    model = result.model
    if result.best_step:
        fresh_rng = np.random.default_rng(spec.seed)
        model = _learn(spec, content, pairs, KnownPairs(pairs), result.best_step, fresh_rng, None).model
    return _as_arrays(model, result.curve)


@dataclass(frozen=True)
class _TrainingResult:
    """The best model (the last one without an evaluator), the mean log rank at each evaluation starting with content's,
    and the step of the best evaluation, 0 if content was best.
    """

    model: Projection
    curve: tuple[float, ...]
    best_step: int


def _learn(
    spec: BehaviourTraining,
    content: Floats,
    pairs: ItemPairs,
    known: KnownPairs,
    steps: int,
    rng: np.random.Generator,
    evaluator: _RankEvaluator | None,
) -> _TrainingResult:
    """Train on pairs for a number of steps, or until the evaluator sees no progress."""
    rows = torch.from_numpy(content)
    log_q = spec.log_q * torch.log(torch.from_numpy(np.maximum(pairs.clicks, 1)).float())
    generator = torch.Generator().manual_seed(spec.seed)
    model = Projection(spec.hidden, spec.dim, _scale_of_axes(content), generator, spec.content_weight)
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    mass = None
    if spec.mass_clicks > 0:
        mass = torch.from_numpy(pair_masses(pairs, spec.mass_clicks, shuffled=spec.shuffled_mass, seed=spec.seed))
    stopping = _EarlyStopping(evaluator, model, rows, spec.patience) if evaluator else None
    batches = PairBatches(pairs.trigger, pairs.target, pairs.weight)
    for step, (trigger, target) in enumerate(batches.stream(spec.batch, rng), start=1):
        excluded = torch.from_numpy(known.no_negatives(trigger, target, target))
        triggers, targets = model(rows[torch.from_numpy(np.concatenate([trigger, target]))]).chunk(2)
        target_log_q = log_q[torch.from_numpy(target)]
        positive = torch.arange(len(triggers))
        weight = (
            None if mass is None else torch.minimum(mass[torch.from_numpy(trigger)], mass[torch.from_numpy(target)])
        )
        loss = info_nce(triggers, targets, positive, target_log_q, excluded, spec.temperature, weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        last = step >= steps
        if stopping and (step % STEPS_PER_EVALUATION == 0 or last):
            last = stopping.evaluate(step) or last
        if last:
            break
    else:
        raise TooFewPairsError(
            f"no two of the {len(pairs)} training pairs have four different items, so there are no negatives; mine more "
            "pairs, or use the encoder 'content'"
        )
    return stopping.result() if stopping else _TrainingResult(model, (), step)


class _EarlyStopping:
    """Evaluates a model during training and remembers the best state: the initial one unless another is clearly better."""

    def __init__(self, evaluator: _RankEvaluator, model: Projection, rows: Tensor, patience: int) -> None:
        self._evaluator, self._model, self._rows, self._patience = evaluator, model, rows, patience
        self._content_ranks = evaluator.log_ranks(model, rows)
        self._curve = [float(self._content_ranks.mean())]
        self._initial_state = self._best_state = _copy(model)
        self._best_step = 0

    def evaluate(self, step: int) -> bool:
        """Evaluate the model; returns whether training should stop."""
        ranks = self._evaluator.log_ranks(self._model, self._rows)
        self._curve.append(float(ranks.mean()))
        if self._curve[-1] < min(self._curve[:-1]):
            gain = self._content_ranks - ranks
            clear = bool(gain.mean() > _STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)))
            self._best_state, self._best_step = (_copy(self._model), step) if clear else (self._initial_state, 0)
        return len(self._curve) - 1 - int(np.argmin(self._curve)) >= self._patience

    def result(self) -> _TrainingResult:
        """The model with its best state loaded."""
        self._model.load_state_dict(self._best_state)
        return _TrainingResult(self._model, tuple(self._curve), self._best_step)


def _as_arrays(model: Projection, curve: tuple[float, ...]) -> Learned:
    straight, first, bias, second = (matrix.detach().numpy().copy() for matrix in model.matrices())
    return Learned(straight, first, bias, second, curve)


def _scale_of_axes(content: Floats) -> Tensor:
    """``float32 [width]``: root mean square of each component plus a tenth of the typical one, which damps noise."""
    square = (content.astype(np.float64) ** 2).mean(axis=0)
    scale = np.sqrt(square + 0.01 * square.mean())
    return torch.from_numpy(np.where(scale > 0, scale, 1).astype(np.float32))


def _held_out(pairs: ItemPairs, share: float, rng: np.random.Generator) -> Bools:
    """``bool [pairs]``: all pairs of a random share of the items.

    Holding out single pairs does not work: the items of a few users are all paired with each other, so a held-out pair
    can be inferred from the training pairs, and memorising such groups would look like progress.
    """
    items = np.unique(np.concatenate([pairs.trigger, pairs.target]))
    chosen = rng.permutation(items)[: max(1, round(share * len(items)))]
    is_held_out: Bools = np.isin(pairs.trigger, chosen) | np.isin(pairs.target, chosen)
    if is_held_out.all() or not is_held_out.any():
        raise TooFewPairsError(
            f"holding out {len(chosen)} of {len(items)} items leaves no pairs to train on or none to evaluate, of "
            f"{len(pairs)} pairs; mine more pairs, lower held_out, or use the encoder 'content'"
        )
    return is_held_out


class _RankEvaluator:
    """Ranks the targets of evaluation pairs within one fixed pool, so that evaluations are comparable.

    Ranks are used instead of the loss, which also falls when cosines only shrink to fit the temperature and no neighbour
    changes. The pool holds the targets and a sample of the other items.
    """

    def __init__(self, pairs: ItemPairs, others: Ints, known: KnownPairs, rng: np.random.Generator) -> None:
        sampled = np.sort(rng.permutation(len(pairs))[:_MOST_EVALUATED])
        trigger, target = pairs.trigger[sampled], pairs.target[sampled]
        pool = np.union1d(target, rng.permutation(np.setdiff1d(others, target))[:_MOST_OTHERS])
        self.trigger, self.pool = torch.from_numpy(trigger), torch.from_numpy(pool)
        self.positive = torch.from_numpy(np.searchsorted(pool, target))
        self.excluded = torch.from_numpy(known.no_negatives(trigger, target, pool))

    @torch.no_grad()
    def log_ranks(self, model: Projection, rows: Tensor) -> npt.NDArray[np.float64]:
        """``float64 [pairs]``: log of the target's rank by cosine, 1 being the nearest; ties count half."""
        cosine = model(rows[self.trigger]) @ model(rows[self.pool]).T
        target_cosine = cosine.gather(1, self.positive[:, None])
        cosine = cosine.masked_fill(self.excluded, -torch.inf)
        rank = 1 + (cosine > target_cosine).sum(dim=1) + 0.5 * (cosine == target_cosine).sum(dim=1)
        return np.asarray(torch.log(rank.double()).numpy())


def _copy(model: Projection) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
