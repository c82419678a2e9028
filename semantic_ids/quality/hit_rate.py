"""Item-to-item hit rate at k: is the item clicked next among the k nearest, by vectors, reconstructions or shared codes?

A ranking of items is a :data:`Scores` function, from triggers to scores of all items. Ties (by codes, all items of a
bucket tie) are broken at random, and the expected hit is counted: with ``above`` items ranked before the target and
``tied`` items with the same score, including the target, a hit counts ``min(max((k - above) / tied, 0), 1)``. Tie-breaking
by position or id would favour coarse codes.
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
from sidkit.core.intervals import Interval, mean_interval

K = 30
SLICES = ("all", "seen", "new")

_CELLS = 2**23  # scores held at once: 32 MB as float32, and a few copies while the k-th best is searched
_ELEMENTS = 2**22  # elements of vectors held in double at once: 32 MB
_ABSENT = -2.0  # below every cosine and every count of shared codes

Scores = Callable[[Ints], Floats]
"""Maps triggers ``int64 [triggers]`` to scores ``float32 [triggers, items]``; higher is nearer, equal scores tie."""


@dataclass(frozen=True)
class HitPairs:
    """Pairs to evaluate: ``trigger`` and ``target`` are ``int64 [pairs]`` indices into the ``items`` ranked items;
    ``seen`` is ``bool [pairs]``, whether the target was known at the fit.
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
    """A metric that cannot be computed on this data, and the reason; later stages do not depend on it."""

    reason: str

    def as_json(self) -> dict[str, Any]:
        """Null rates and the reason."""
        return {"rates": None, "reason": self.reason}


def held_out_pairs(
    future: ItemPairs, known: Bools, training: ItemPairs | None = None, most_triggers: int | None = None, seed: int = 0
) -> HitPairs:
    """Distinct pairs of clicks after the cut-off that are not training pairs.

    Parameters
    ----------
    future : ItemPairs
        Mined from positives after the cut-off (``mine_pairs`` with ``start_us``), indexing all ranked items. Weights are
        ignored. Mine them with ``sources=("swing",)``: ``user_to_item`` picks triggers by similarity to the target, which
        favours the vectors used for it.
    known : bool [items]
        Which of the items were known at the fit.
    training : ItemPairs, optional
        Pairs mined before the cut-off, indexing the same items. They are removed, in either direction.
    most_triggers : int, optional
        Maximum number of triggers, sampled by ``seed``; all pairs of a sampled trigger are included.
    seed : int
        Seed of the sample.

    Returns
    -------
    HitPairs
        Possibly empty.

    Raises
    ------
    EvaluationError
        When the pairs index other items, or end no later than the training pairs.
    """
    items = len(known)
    for name, pairs in (("future", future), ("training", training)):
        if pairs is not None and len(pairs) and max(pairs.trigger.max(), pairs.target.max()) >= items:
            raise EvaluationError(f"the {name} pairs index items beyond the {items} items; mine them for these items")
    if training is not None and future.end_us <= training.end_us:
        raise EvaluationError(
            f"the evaluation pairs end at {future.end_us} us, not after the training pairs at {training.end_us} us; mine "
            "them from positives after the cut-off"
        )
    keys = np.unique(future.trigger * items + future.target)
    if training is not None:
        keys = np.setdiff1d(keys, training.either_way(items))
    trigger, target = np.divmod(keys, max(items, 1))
    different = trigger != target
    trigger, target = trigger[different], target[different]
    distinct = np.unique(trigger)
    if most_triggers is not None and len(distinct) > most_triggers:
        sampled = np.random.default_rng(seed).choice(distinct, most_triggers, replace=False)
        selected = np.isin(trigger, sampled)
        trigger, target = trigger[selected], target[selected]
    return HitPairs(trigger, target, known[target], items)


def by_vectors(vectors: Floats, present: Bools | None = None) -> Scores:
    """Rank by cosine of ``float32 [items, dim]`` vectors.

    Computed in double precision and rounded once to ``float32``, so that equal vectors tie in every batch.

    Parameters
    ----------
    vectors : float32 [items, dim]
        A zero vector has cosine 0 with all others.
    present : bool [items], optional
        Items that have a vector. The others rank last for every trigger; as triggers, all items tie.
    """
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    length[length == 0] = 1

    def unit(index: Ints | slice) -> Doubles:
        rows: Doubles = vectors[index].astype(np.float64) / length[index, None]
        return rows

    def scores(triggers: Ints) -> Floats:
        trigger_vectors = unit(triggers)
        cosine = np.empty((len(triggers), len(vectors)), dtype=np.float32)
        step = max(1, _ELEMENTS // max(vectors.shape[1], len(triggers), 1))
        for start in range(0, len(vectors), step):
            cosine[:, start : start + step] = trigger_vectors @ unit(slice(start, start + step)).T
        return cosine

    return _among_present(scores, present)


def by_reconstructions(quantizer: Quantizer, codes: Codes, present: Bools | None = None) -> Scores:
    """Rank by cosine of the reconstructions of ``int32 [items, levels]`` codes; items of one bucket tie exactly.

    See :func:`by_vectors` for ``present``.
    """
    distinct, bucket = np.unique(codes, axis=0, return_inverse=True)
    bucket = bucket.ravel()
    of_buckets = by_vectors(quantizer.decode(distinct))

    def scores(triggers: Ints) -> Floats:
        return of_buckets(bucket[triggers])[:, bucket]

    return _among_present(scores, present)


def by_codes(codes: Codes, present: Bools | None = None, residual_levels: int | None = None) -> Scores:
    """Rank by the length of the common prefix of ``int32 [items, levels]`` codes.

    Parameters
    ----------
    codes : int32 [items, levels]
        Of all items.
    present : bool [items], optional
        See :func:`by_vectors`.
    residual_levels : int, optional
        Number of leading levels that refine each other (``Quantizer.residual_levels``; default: all). For items that
        share all of them, each later level with an equal code adds one.
    """
    levels = codes.shape[1]
    refining = levels if residual_levels is None else residual_levels

    def scores(triggers: Ints) -> Floats:
        shared = np.zeros((len(triggers), len(codes)), dtype=np.float32)
        same_prefix = np.ones(shared.shape, dtype=bool)
        for level in range(levels):
            same = codes[triggers, level][:, None] == codes[None, :, level]
            if level < refining:
                same_prefix &= same
                shared += same_prefix
            else:
                shared += same_prefix & same
        return shared

    return _among_present(scores, present)


def by_popularity(clicks: Ints) -> Scores:
    """Rank by clicks before the cut-off, ``int64 [items]``: a baseline with the same ranking for every trigger."""
    ranked = np.unique(clicks, return_inverse=True)[1].ravel().astype(np.float32)

    def scores(triggers: Ints) -> Floats:
        return np.tile(ranked, (len(triggers), 1))

    return scores


def expected_hits(scores: Scores, pairs: HitPairs, k: int = K) -> Doubles:
    """Per pair: the probability that the target is among the trigger's k best items, ``float64 [pairs]``.

    The trigger itself is not a candidate. Exact: every trigger is scored against every item, in blocks of bounded size.

    Raises
    ------
    EvaluationError
        When k is below 1, or a score is NaN.
    """
    if k < 1:
        raise EvaluationError(f"k must be at least 1, got {k}")
    if k >= pairs.items - 1:
        return np.ones(len(pairs))
    hits = np.empty(len(pairs))
    order = np.argsort(pairs.trigger, kind="stable")
    distinct, starts = np.unique(pairs.trigger[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    step = max(1, _CELLS // max(pairs.items, 1))
    for first in range(0, len(distinct), step):
        block = distinct[first : first + step]
        scored = scores(block)
        if np.isnan(scored).any():
            raise EvaluationError("a score is NaN; remove NaN and infinite values from the vectors")
        # As costs, since a partition around a low place is several times faster, most of all with ties.
        costs = np.negative(scored, out=scored)
        costs[np.arange(len(block)), block] = np.inf
        kth_lowest = np.partition(costs, k - 1, axis=1)[:, k - 1, None]  # [triggers, 1]
        above, tied = (costs < kth_lowest).sum(axis=1), (costs == kth_lowest).sum(axis=1)
        index = order[starts[first] : ends[first + len(block) - 1]]
        row = np.searchsorted(block, pairs.trigger[index])
        target_cost, kth_of_row = costs[row, pairs.target[index]], kth_lowest[row, 0]
        share = ((k - above) / tied)[row]
        hits[index] = np.where(target_cost < kth_of_row, 1.0, np.where(target_cost == kth_of_row, share, 0.0))
    return hits


@dataclass(frozen=True)
class HitReport:
    """Hits of several rankings on the same pairs.

    ``hits[name]`` is ``float64 [pairs]``. Intervals are over triggers, because pairs of one trigger are not independent.
    """

    pairs: HitPairs
    k: int
    hits: Mapping[str, Doubles]

    def rate(self, name: str, part: str = "all") -> Interval | None:
        """Hit rate (mean over pairs) with its interval; None for a slice without pairs."""
        return self._interval(self.hits[name], part)

    def difference(self, name: str, other: str, part: str = "all") -> Interval | None:
        """Paired difference of two hit rates with its interval; None for a slice without pairs."""
        return self._interval(self.hits[name] - self.hits[other], part)

    def as_json(self) -> dict[str, Any]:
        """Rates of all rankings by slice, and the numbers of items, triggers and pairs."""
        rates = {}
        for name in self.hits:
            intervals = {part: self.rate(name, part) for part in SLICES}
            rates[name] = {part: interval.as_json() if interval else None for part, interval in intervals.items()}
        pairs = {part: int(self.pairs.rows(part).sum()) for part in SLICES}
        triggers = len(np.unique(self.pairs.trigger))
        return {"k": self.k, "items": self.pairs.items, "triggers": triggers, "pairs": pairs, "rates": rates}

    def _interval(self, values: Doubles, part: str) -> Interval | None:
        rows = self.pairs.rows(part)
        if not rows.any():
            return None
        return mean_interval(values[rows], self.pairs.trigger[rows])


def hit_rates(rankings: Mapping[str, Scores], pairs: HitPairs, k: int = K) -> HitReport:
    """Evaluate several rankings on the same pairs.

    Parameters
    ----------
    rankings : mapping of str to Scores
        Such as ``{"content": by_vectors(vectors), "codes": by_codes(codes), "popularity": by_popularity(clicks)}``.
    pairs : HitPairs
        From :func:`held_out_pairs`.
    k : int
        Items retrieved per trigger.
    """
    hits = {name: expected_hits(scores, pairs, k) for name, scores in rankings.items()}
    return HitReport(pairs, k, hits)


def _among_present(scores: Scores, present: Bools | None) -> Scores:
    if present is None or present.all():
        return scores

    def masked(triggers: Ints) -> Floats:
        masked_scores = scores(triggers)
        masked_scores[:, ~present] = _ABSENT
        masked_scores[~present[triggers]] = _ABSENT
        return masked_scores

    return masked
