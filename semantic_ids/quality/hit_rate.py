"""Item-to-item hit rate: is the item that people went on to among the k nearest, by vectors, by their reconstructions,
or by shared codes? The one figure of a tokenizer that looks at behaviour it was not fitted on.

Every way of ranking items is a :data:`Scores`: a function from triggers to the scores of all items. Where items tie (all
of a bucket do, by codes) they are ordered at random, and the expectation over that order is counted: with ``above``
items ahead of the target and ``tied`` items level with it, itself included, a hit counts
``min(max((k - above) / tied, 0), 1)``. No rule by position or id can then flatter coarse codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer
from sidkit.core.arrays import Bools, Codes, Doubles, Floats, Ints
from sidkit.core.errors import EvaluationError

K = 30
RESAMPLES = 1000
SLICES = ("all", "seen", "new")

_CELLS = 2**23  # scores held at once: 32 MB as float32, and a few copies while the k-th best is looked for
_ELEMENTS = 2**22  # elements of vectors held in double at once: 32 MB
_ABSENT = -2.0  # below every cosine and every count of shared codes

Scores = Callable[[Ints], Floats]
"""Triggers ``int64 [triggers]`` in, scores ``float32 [triggers, items]`` out; higher is nearer, equal is a tie."""


@dataclass(frozen=True)
class HitQuestions:
    """Pairs that are asked about: ``trigger`` and ``target`` are ``int64 [pairs]``, rows of the ``items`` that are
    ranked; ``seen`` is ``bool [pairs]``, whether the target was known at the fit.
    """

    trigger: Ints
    target: Ints
    seen: Bools
    items: int

    def __len__(self) -> int:
        return len(self.trigger)

    def rows(self, part: str) -> Bools:
        """``bool [pairs]``: the pairs of a slice, ``all``, ``seen`` or ``new``."""
        return {"all": np.ones(len(self), dtype=bool), "seen": self.seen, "new": ~self.seen}[part]


@dataclass(frozen=True)
class NotMeasured:
    """A figure that this data does not allow, and why; no stage depends on it, so nothing stops."""

    reason: str

    def as_json(self) -> dict[str, Any]:
        """Null rates and the reason."""
        return {"rates": None, "reason": self.reason}


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; bounds are NaN where fewer than two triggers leave nothing to resample."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """The three numbers; null for NaN."""
        return {name: None if np.isnan(value) else value for name, value in vars(self).items()}


def questions(
    future: ItemPairs, known: Bools, training: ItemPairs | None = None, most_triggers: int | None = None, seed: int = 0
) -> HitQuestions:
    """Distinct pairs of behaviour after the cut-off that were not learned from.

    Parameters
    ----------
    future : ItemPairs
        Mined from positives after the cut-off (``mine_pairs`` with ``start_us``); rows of all items that are ranked.
        Weights do not count: each pair is asked once. Mine them by ``sources=("swing",)``: the trigger of a
        ``user_to_item`` pair is chosen by its similarity to the target, which favours the vectors it was chosen by.
    known : bool [items]
        Which of the items were known at the fit.
    training : ItemPairs, optional
        Mined before the cut-off, in rows of the same items. Its pairs are left out, in either direction.
    most_triggers : int, optional
        Ask about so many triggers at most, drawn by ``seed``; all pairs of a drawn trigger are asked.
    seed : int
        Decides which triggers are drawn.

    Returns
    -------
    HitQuestions
        Without pairs where none is left once training pairs are taken out.

    Raises
    ------
    EvaluationError
        When the pairs are not of these items, or end no later than the training pairs.
    """
    items = len(known)
    for name, pairs in (("future", future), ("training", training)):
        if pairs is not None and len(pairs) and max(pairs.trigger.max(), pairs.target.max()) >= items:
            raise EvaluationError(f"the {name} pairs name rows beyond the {items} items; mine them for these items")
    if training is not None and future.end_us <= training.end_us:
        raise EvaluationError(
            f"the pairs to be judged end at {future.end_us} us, the training pairs at {training.end_us} us; mine the "
            "first from positives after the cut-off"
        )
    asked = np.unique(future.trigger * items + future.target)
    if training is not None:
        asked = np.setdiff1d(asked, training.either_way(items))
    trigger, target = np.divmod(asked, max(items, 1))
    apart = trigger != target
    trigger, target = trigger[apart], target[apart]
    distinct = np.unique(trigger)
    if most_triggers is not None and len(distinct) > most_triggers:
        drawn = np.random.default_rng(seed).choice(distinct, most_triggers, replace=False)
        kept = np.isin(trigger, drawn)
        trigger, target = trigger[kept], target[kept]
    return HitQuestions(trigger, target, known[target], items)


def by_vectors(vectors: Floats, present: Bools | None = None) -> Scores:
    """Cosine of ``float32 [items, dim]`` vectors: the encoder's, their reconstructions, or collaborative ones.

    Computed in double and rounded once to ``float32``, so that equal reconstructions tie in every batch.

    Parameters
    ----------
    vectors : float32 [items, dim]
        A vector of length 0 has cosine 0 with all.
    present : bool [items], optional
        Items that have a vector at all. The others come last for every trigger, and have all items tied as triggers.
    """
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    length[length == 0] = 1

    def unit(index: Ints | slice) -> Doubles:
        rows: Doubles = vectors[index].astype(np.float64) / length[index, None]
        return rows

    def scores(triggers: Ints) -> Floats:
        wanted = unit(triggers)
        found = np.empty((len(triggers), len(vectors)), dtype=np.float32)
        step = max(1, _ELEMENTS // max(vectors.shape[1], len(triggers), 1))
        for start in range(0, len(vectors), step):
            found[:, start : start + step] = wanted @ unit(slice(start, start + step)).T
        return found

    return _among_present(scores, present)


def by_reconstructions(quantizer: Quantizer, codes: Codes, present: Bools | None = None) -> Scores:
    """Cosine of what the quantizer decodes ``int32 [items, levels]`` codes to; items of one bucket tie exactly.

    ``present`` is as for :func:`by_vectors`.
    """
    distinct, bucket = np.unique(codes, axis=0, return_inverse=True)
    bucket = bucket.ravel()
    of_buckets = by_vectors(quantizer.decode(distinct))

    def scores(triggers: Ints) -> Floats:
        return of_buckets(bucket[triggers])[:, bucket]

    return _among_present(scores, present)


def by_codes(codes: Codes, present: Bools | None = None, residual_levels: int | None = None) -> Scores:
    """Levels of the longest common prefix of ``int32 [items, levels]`` codes.

    Parameters
    ----------
    codes : int32 [items, levels]
        Of all items.
    present : bool [items], optional
        As for :func:`by_vectors`.
    residual_levels : int, optional
        How many of the first levels refine each other (``Quantizer.residual_levels``; default: all). Levels past them
        do not: among items that share all of the first, each later level that agrees counts one.
    """
    levels = codes.shape[1]
    refining = levels if residual_levels is None else residual_levels

    def scores(triggers: Ints) -> Floats:
        shared = np.zeros((len(triggers), len(codes)), dtype=np.float32)
        alike = np.ones(shared.shape, dtype=bool)
        for level in range(levels):
            same = codes[triggers, level][:, None] == codes[None, :, level]
            if level < refining:
                alike &= same
                shared += alike
            else:
                shared += alike & same
        return shared

    return _among_present(scores, present)


def by_popularity(clicks: Ints) -> Scores:
    """Clicks before the cut-off, ``int64 [items]``: the same ranking for every trigger, the baseline to beat."""
    ranked = np.unique(clicks, return_inverse=True)[1].ravel().astype(np.float32)

    def scores(triggers: Ints) -> Floats:
        return np.tile(ranked, (len(triggers), 1))

    return scores


def expected_hits(scores: Scores, asked: HitQuestions, k: int = K) -> Doubles:
    """Per pair: the probability that the target is among the trigger's k best items, ``float64 [pairs]``.

    The trigger itself is no candidate. Exact: every trigger is scored against every item, in blocks of bounded size.

    Raises
    ------
    EvaluationError
        When k is below 1, or a score is NaN.
    """
    if k < 1:
        raise EvaluationError(f"a hit rate at {k} came; k of 1 or more is needed")
    if k >= asked.items - 1:
        return np.ones(len(asked))
    hits = np.empty(len(asked))
    order = np.argsort(asked.trigger, kind="stable")
    distinct, starts = np.unique(asked.trigger[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    step = max(1, _CELLS // max(asked.items, 1))
    for first in range(0, len(distinct), step):
        block = distinct[first : first + step]
        scored = scores(block)
        if np.isnan(scored).any():
            raise EvaluationError("a score is NaN; vectors must be finite")
        scored[np.arange(len(block)), block] = -np.inf
        last = asked.items - k
        worst = np.partition(scored, last, axis=1)[:, last, None]  # [triggers, 1], the k-th best score
        above, tied = (scored > worst).sum(axis=1), (scored == worst).sum(axis=1)
        pairs = order[starts[first] : ends[first + len(block) - 1]]
        row = np.searchsorted(block, asked.trigger[pairs])
        of_target, worst_of_row = scored[row, asked.target[pairs]], worst[row, 0]
        share = ((k - above) / tied)[row]
        hits[pairs] = np.where(of_target > worst_of_row, 1.0, np.where(of_target == worst_of_row, share, 0.0))
    return hits


@dataclass(frozen=True)
class HitReport:
    """Hits of several ways of ranking on the same pairs.

    ``hits[name]`` is ``float64 [pairs]``. Intervals resample triggers, since pairs of one trigger are not independent;
    ``seed`` decides the samples, and all ways of ranking get the same ones.
    """

    asked: HitQuestions
    k: int
    hits: Mapping[str, Doubles]
    resamples: int = RESAMPLES
    seed: int = 0

    def rate(self, name: str, part: str = "all") -> Interval | None:
        """Mean over pairs and its interval; None for a slice without pairs."""
        return self._interval(self.hits[name], part)

    def difference(self, name: str, other: str, part: str = "all") -> Interval | None:
        """Rate of one minus rate of the other, paired by pair; None for a slice without pairs."""
        return self._interval(self.hits[name] - self.hits[other], part)

    def as_json(self) -> dict[str, Any]:
        """Rates of all ways of ranking, by slice, and what they were measured on."""
        rates = {}
        for name in self.hits:
            found = {part: self.rate(name, part) for part in SLICES}
            rates[name] = {part: interval.as_json() if interval else None for part, interval in found.items()}
        pairs = {part: int(self.asked.rows(part).sum()) for part in SLICES}
        triggers = len(np.unique(self.asked.trigger))
        return {"k": self.k, "items": self.asked.items, "triggers": triggers, "pairs": pairs, "rates": rates}

    def _interval(self, values: Doubles, part: str) -> Interval | None:
        rows = self.asked.rows(part)
        if not rows.any():
            return None
        cluster = np.unique(self.asked.trigger[rows], return_inverse=True)[1].ravel()
        total, count = np.bincount(cluster, values[rows]), np.bincount(cluster).astype(np.float64)
        value = float(total.sum() / count.sum())
        if len(count) < 2:
            return Interval(value, float("nan"), float("nan"))
        rng = np.random.default_rng(self.seed)
        sampled = np.empty(self.resamples)
        for sample in range(self.resamples):
            drawn = rng.integers(0, len(count), len(count))
            sampled[sample] = total[drawn].sum() / count[drawn].sum()
        low, high = np.quantile(sampled, [0.025, 0.975])
        return Interval(value, float(low), float(high))


def hit_rates(
    ways: Mapping[str, Scores], asked: HitQuestions, k: int = K, resamples: int = RESAMPLES, seed: int = 0
) -> HitReport:
    """Judge several ways of ranking on the same pairs.

    Parameters
    ----------
    ways : mapping of str to Scores
        Such as ``{"content": by_vectors(vectors), "codes": by_codes(codes), "popularity": by_popularity(clicks)}``.
    asked : HitQuestions
        From :func:`questions`.
    k : int
        How many items are retrieved per trigger.
    resamples : int
        Bootstrap samples of triggers.
    seed : int
        Decides the samples.
    """
    return HitReport(
        asked, k, {name: expected_hits(scores, asked, k) for name, scores in ways.items()}, resamples, seed
    )


def _among_present(scores: Scores, present: Bools | None) -> Scores:
    if present is None or present.all():
        return scores

    def masked(triggers: Ints) -> Floats:
        found = scores(triggers)
        found[:, ~present] = _ABSENT
        found[~present[triggers]] = _ABSENT
        return found

    return masked
