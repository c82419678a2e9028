"""Training of the behaviour encoder, in torch; what is learned leaves as numpy arrays."""

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
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Bools, Floats, Ints
from sidkit.core.errors import TooFewPairsError

STEPS_PER_LOOK = 25
_MOST_JUDGED = 1024
_MOST_OTHERS = 4096
_STANDARD_ERRORS = 3  # by which ranks must improve on content's; the best of many looks is lucky


@dataclass(frozen=True)
class BehaviourTraining:
    """The hyper-parameters of :class:`semantic_ids.encoders.behaviour.BehaviourEncoder` that training reads."""

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


@dataclass(frozen=True)
class Learned:
    """The projection's matrices, and the mean log rank of held-out pairs at each look; the first is that of content."""

    straight: Floats
    first: Floats
    bias: Floats
    second: Floats
    curve: tuple[float, ...]


class Projection(nn.Module):
    """Shared by trigger and target: the leading axes of content, plus a linear and a two-layer change that start at 0.

    Parameters
    ----------
    hidden, dim : int
        Widths of the hidden layer and of the result.
    scale : float32 [width]
        What each axis of content is divided by before it is changed, so that a faint axis is learned as fast as a loud one.
    generator : torch.Generator
        Draws the first layer.
    content_weight : float
        Length of the unchanged content beside what is learned, whose length is 1; 0 for none.
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
        """Content ``float32 [rows, width]`` to vectors of length 1, ``float32 [rows, dim]`` (twice ``dim`` with content)."""
        straight, first, bias, second = self.matrices()
        bent = functional.relu(torch.addmm(bias, rows, first)) @ second
        moved = functional.normalize(rows @ straight + bent, dim=1)
        if not self.content_weight:
            return moved
        content = self.content_weight * functional.normalize(rows @ self.start, dim=1)
        return torch.cat([content, moved], dim=1) / math.hypot(1, self.content_weight)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the vectors come from: the straight path, and weight, bias and weight of the two layers."""
        typical = self.scale.square().mean().sqrt()
        change = typical * self.change / self.scale[:, None]
        return self.start + change, self.first / self.scale[:, None], self.bias, typical * self.second


def train(spec: BehaviourTraining, content: Floats, pairs: ItemPairs) -> Learned:
    """Train on ``content`` ``float32 [items, width]``, as the encoder's docstring describes.

    Raises
    ------
    FitError
        When the pairs are too few to learn from some and to be judged by others.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        return _trained(spec, content, pairs)
    finally:
        torch.set_num_threads(threads)


def _trained(spec: BehaviourTraining, content: Floats, pairs: ItemPairs) -> Learned:
    rng = np.random.default_rng(spec.seed)
    if pairs.rehearsal is None:
        held = _held_out(pairs, spec.held_out, rng)
        known = KnownPairs(pairs)
        judge = _Judge(pairs.where(held), pairs.target, known, rng)
        course = _learn(spec, content, pairs.where(~held), known, spec.steps, rng, judge)
        return _as_arrays(course.model, course.curve)
    earlier, later = pairs.rehearsal.earlier, pairs.rehearsal.later
    known = KnownPairs(earlier)
    judge = _Judge(later, np.flatnonzero(content.any(axis=1)), known, rng)
    course = _learn(spec, content, earlier, known, spec.steps, rng, judge)
    model = course.model
    if course.best_step:
        again = np.random.default_rng(spec.seed)
        model = _learn(spec, content, pairs, KnownPairs(pairs), course.best_step, again, None).model
    return _as_arrays(model, course.curve)


@dataclass(frozen=True)
class _Course:
    """How learning went: the model of the best look (of the last step where nobody looked), the mean log rank at each look
    with content's first, and the step of the best look, 0 where that is content.
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
    judge: _Judge | None,
) -> _Course:
    """Learn from pairs for so many steps, or until the judge sees no progress."""
    rows = torch.from_numpy(content)
    log_q = spec.log_q * torch.log(torch.from_numpy(np.maximum(pairs.clicks, 1)).float())
    generator = torch.Generator().manual_seed(spec.seed)
    model = Projection(spec.hidden, spec.dim, _scale_of_axes(content), generator, spec.content_weight)
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    watch = _Watch(judge, model, rows, spec.patience) if judge else None
    batches = PairBatches(pairs.trigger, pairs.target, pairs.weight)
    for step, (trigger, target) in enumerate(batches.stream(spec.batch, rng), start=1):
        excluded = torch.from_numpy(known.no_negatives(trigger, target, target))
        one, other = model(rows[torch.from_numpy(np.concatenate([trigger, target]))]).chunk(2)
        popular = log_q[torch.from_numpy(target)]
        loss = info_nce(one, other, torch.arange(len(one)), popular, excluded, spec.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        last = step >= steps
        if watch and (step % STEPS_PER_LOOK == 0 or last):
            last = watch.look(step) or last
        if last:
            break
    else:
        raise TooFewPairsError(
            f"{len(pairs)} pairs came to learn from and no two of them are of four different items, so that nothing can be "
            "told apart; mine more pairs, or use the encoder 'content'"
        )
    return watch.course() if watch else _Course(model, (), step)


class _Watch:
    """Looks at a model while it learns, and keeps the best; content, where none is clearly better."""

    def __init__(self, judge: _Judge, model: Projection, rows: Tensor, patience: int) -> None:
        self._judge, self._model, self._rows, self._patience = judge, model, rows, patience
        self._first = judge.log_ranks(model, rows)
        self._curve = [float(self._first.mean())]
        self._content = self._kept = _copy(model)
        self._best_step = 0

    def look(self, step: int) -> bool:
        """Whether patience is at its end."""
        look = self._judge.log_ranks(self._model, self._rows)
        self._curve.append(float(look.mean()))
        if self._curve[-1] < min(self._curve[:-1]):
            gain = self._first - look
            clear = bool(gain.mean() > _STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)))
            self._kept, self._best_step = (_copy(self._model), step) if clear else (self._content, 0)
        return len(self._curve) - 1 - int(np.argmin(self._curve)) >= self._patience

    def course(self) -> _Course:
        """With the model as it was kept."""
        self._model.load_state_dict(self._kept)
        return _Course(self._model, tuple(self._curve), self._best_step)


def _as_arrays(model: Projection, curve: tuple[float, ...]) -> Learned:
    straight, first, bias, second = (matrix.detach().numpy().copy() for matrix in model.matrices())
    return Learned(straight, first, bias, second, curve)


def _scale_of_axes(content: Floats) -> Tensor:
    """``float32 [width]``: the root mean square of each axis, and a tenth of the typical one so that noise stays small."""
    square = (content.astype(np.float64) ** 2).mean(axis=0)
    scale = np.sqrt(square + 0.01 * square.mean())
    return torch.from_numpy(np.where(scale > 0, scale, 1).astype(np.float32))


def _held_out(pairs: ItemPairs, share: float, rng: np.random.Generator) -> Bools:
    """``bool [pairs]``: the pairs of a share of the items.

    Pairs drawn one by one would not do: a few users' items are all paired with each other, so that a pair left out is
    known from those that stay, and learning such groups by heart looks like progress.
    """
    items = np.unique(np.concatenate([pairs.trigger, pairs.target]))
    chosen = rng.permutation(items)[: max(1, round(share * len(items)))]
    held: Bools = np.isin(pairs.trigger, chosen) | np.isin(pairs.target, chosen)
    if held.all() or not held.any():
        raise TooFewPairsError(
            f"{len(pairs)} pairs of {len(items)} items came, and holding out those of {len(chosen)} items leaves nothing "
            "to learn from; mine more pairs, lower held_out, or use the encoder 'content'"
        )
    return held


class _Judge:
    """How near the targets of some pairs come to the top of one fixed pool, so that looks can be compared.

    Ranks, not the loss: the loss also falls where cosines shrink to fit the temperature and no neighbour changes. The
    pool holds the targets and a sample of the other items.
    """

    def __init__(self, judged: ItemPairs, others: Ints, known: KnownPairs, rng: np.random.Generator) -> None:
        asked = np.sort(rng.permutation(len(judged))[:_MOST_JUDGED])
        trigger, target = judged.trigger[asked], judged.target[asked]
        pool = np.union1d(target, rng.permutation(np.setdiff1d(others, target))[:_MOST_OTHERS])
        self.trigger, self.pool = torch.from_numpy(trigger), torch.from_numpy(pool)
        self.positive = torch.from_numpy(np.searchsorted(pool, target))
        self.excluded = torch.from_numpy(known.no_negatives(trigger, target, pool))

    @torch.no_grad()
    def log_ranks(self, model: Projection, rows: Tensor) -> npt.NDArray[np.float64]:
        """``float64 [pairs]``: log of the target's rank by cosine, 1 being the nearest; ties count half."""
        close = model(rows[self.trigger]) @ model(rows[self.pool]).T
        own = close.gather(1, self.positive[:, None])
        close = close.masked_fill(self.excluded, -torch.inf)
        rank = 1 + (close > own).sum(dim=1) + 0.5 * (close == own).sum(dim=1)
        return np.asarray(torch.log(rank.double()).numpy())


def _copy(model: Projection) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
