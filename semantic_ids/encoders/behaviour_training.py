"""Training of the behaviour encoder, in torch; what is learned leaves as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from semantic_ids.encoders.pair_batches import KnownPairs, PairBatches
from semantic_ids.encoders.pairs import Ints, ItemPairs
from semantic_ids.item_vectors import Floats, Mask
from sidkit.errors import FitError

if TYPE_CHECKING:
    from semantic_ids.encoders.behaviour import BehaviourEncoder

STEPS_PER_LOOK = 50
_MOST_JUDGED = 2048
_STANDARD_ERRORS = 3  # by which ranks must improve on content's; the best of many looks is lucky


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
    """

    start: Tensor
    scale: Tensor

    def __init__(self, hidden: int, dim: int, scale: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        width = len(scale)
        self.register_buffer("start", torch.eye(width, dim))
        self.register_buffer("scale", scale)
        self.change = nn.Parameter(torch.zeros(width, dim))
        self.first = nn.Parameter(torch.randn(width, hidden, generator=generator) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.second = nn.Parameter(torch.zeros(hidden, dim))

    def forward(self, rows: Tensor) -> Tensor:
        """Content ``float32 [rows, width]`` to vectors of length 1, ``float32 [rows, dim]``."""
        straight, first, bias, second = self.matrices()
        bent = functional.relu(torch.addmm(bias, rows, first)) @ second
        return functional.normalize(rows @ straight + bent, dim=1)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the vectors come from: the straight path, and weight, bias and weight of the two layers."""
        typical = self.scale.square().mean().sqrt()
        change = typical * self.change / self.scale[:, None]
        return self.start + change, self.first / self.scale[:, None], self.bias, typical * self.second


def info_nce(
    trigger: Tensor, candidates: Tensor, positive: Tensor, log_q: Tensor, excluded: Tensor, temperature: float
) -> Tensor:
    """InfoNCE: the mean of ``-log softmax`` of each row's positive among the candidates.

    The logit of a candidate is ``<trigger, candidate> / temperature - log_q``: the logQ correction of in-batch negatives
    (Yi et al., RecSys 2019, equation 6), after which a popular item is not pushed away for being drawn often.

    Parameters
    ----------
    trigger : float32 [rows, dim]
        Of length 1, as the candidates are.
    candidates : float32 [n, dim]
    positive : int64 [rows]
        The place of each row's positive among the candidates.
    log_q : float32 [n]
        Log of how popular each candidate is, up to a constant.
    excluded : bool [rows, n]
        True where a candidate is no negative of a row; the positive itself always counts.
    temperature : float
    """
    logits = trigger @ candidates.T / temperature - log_q
    own = functional.one_hot(positive, len(candidates)).bool()
    return functional.cross_entropy(logits.masked_fill(excluded & ~own, -torch.inf), positive)


def train(spec: BehaviourEncoder, content: Floats, pairs: ItemPairs) -> Learned:
    """Train on ``content`` ``float32 [items, width]``, as :class:`BehaviourEncoder` describes.

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


def _trained(spec: BehaviourEncoder, content: Floats, pairs: ItemPairs) -> Learned:
    rng = np.random.default_rng(spec.seed)
    held = _held_out(pairs, spec.held_out, rng)
    known = KnownPairs(pairs)
    judge = _Judge(pairs, np.flatnonzero(held), known, rng)
    learning = PairBatches(pairs.trigger[~held], pairs.target[~held], pairs.weight[~held])
    rows = torch.from_numpy(content)
    log_q = spec.log_q * torch.log(torch.from_numpy(np.maximum(pairs.clicks, 1)).float())
    scale = _scale_of_axes(content)
    generator = torch.Generator().manual_seed(spec.seed)
    model = Projection(spec.hidden, spec.dim, scale, generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    first_look = judge.log_ranks(model, rows)
    curve = [float(first_look.mean())]
    content_state = kept = _copy(model)
    for step, (trigger, target) in enumerate(learning.stream(spec.batch, rng), start=1):
        excluded = torch.from_numpy(known.no_negatives(trigger, target, target))
        one, other = model(rows[torch.from_numpy(np.concatenate([trigger, target]))]).chunk(2)
        popular = log_q[torch.from_numpy(target)]
        loss = info_nce(one, other, torch.arange(len(one)), popular, excluded, spec.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % STEPS_PER_LOOK == 0 or step >= spec.steps:
            look = judge.log_ranks(model, rows)
            curve.append(float(look.mean()))
            if curve[-1] < min(curve[:-1]):
                gain = first_look - look
                clear = gain.mean() > _STANDARD_ERRORS * gain.std() / np.sqrt(len(gain))
                kept = _copy(model) if clear else content_state
            if len(curve) - 1 - int(np.argmin(curve)) >= spec.patience or step >= spec.steps:
                break
    else:
        raise FitError(
            f"{len(pairs)} pairs came and no two of those that are not held out are of four different items, so that "
            "nothing can be told apart; mine more pairs, or use the encoder 'content'"
        )
    model.load_state_dict(kept)
    straight, first, bias, second = (matrix.detach().numpy().copy() for matrix in model.matrices())
    return Learned(straight, first, bias, second, tuple(curve))


def _scale_of_axes(content: Floats) -> Tensor:
    """``float32 [width]``: the root mean square of each axis, and a tenth of the typical one so that noise stays small."""
    square = (content.astype(np.float64) ** 2).mean(axis=0)
    scale = np.sqrt(square + 0.01 * square.mean())
    return torch.from_numpy(np.where(scale > 0, scale, 1).astype(np.float32))


def _held_out(pairs: ItemPairs, share: float, rng: np.random.Generator) -> Mask:
    """``bool [pairs]``: the pairs of a share of the items.

    Pairs drawn one by one would not do: a few users' items are all paired with each other, so that a pair left out is
    known from those that stay, and learning such groups by heart looks like progress.
    """
    items = np.unique(np.concatenate([pairs.trigger, pairs.target]))
    chosen = rng.permutation(items)[: max(1, round(share * len(items)))]
    held: Mask = np.isin(pairs.trigger, chosen) | np.isin(pairs.target, chosen)
    if held.all() or not held.any():
        raise FitError(
            f"{len(pairs)} pairs of {len(items)} items came, and holding out those of {len(chosen)} items leaves nothing "
            "to learn from; mine more pairs, lower held_out, or use the encoder 'content'"
        )
    return held


class _Judge:
    """How near the held-out targets come to the top of one fixed pool, so that looks can be compared.

    Ranks, not the loss: the loss also falls where cosines shrink to fit the temperature and no neighbour changes.
    """

    def __init__(self, pairs: ItemPairs, held: Ints, known: KnownPairs, rng: np.random.Generator) -> None:
        held = np.sort(rng.permutation(held)[:_MOST_JUDGED])
        trigger, target = pairs.trigger[held], pairs.target[held]
        others = np.setdiff1d(pairs.target, target)
        pool = np.union1d(target, rng.permutation(others)[:_MOST_JUDGED])
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
