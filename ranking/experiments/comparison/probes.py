"""Probes of the saved rankers on test rows: the mutation test, gates and attention."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.storage import load_dataset
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.attention_examples import (
    AttentionExample,
    attention_examples,
    example_rows,
    item_titles,
)
from ranking.experiments.comparison.trials import Plan
from sidkit.core.arrays import Ints
from sidkit.core.names import LONGEST_MADE, check_name
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from ranking.training.ranker import Ranker

MUTATED_ROWS = 4000


@dataclass(frozen=True)
class MutationStep:
    """How far scores move when candidates are swapped for items that share their first codes."""

    depth: int
    """So many first codes are shared."""
    rows: int
    """Rows that have such an item."""
    change: float
    """Their mean absolute change of the probability."""
    random: float
    """The same of these rows for a swap with any item."""


@dataclass(frozen=True)
class GateBucket:
    """The gate on the rows of a bucket."""

    name: str
    rows: int
    mean: float
    low: float
    """The lowest decile."""
    high: float
    """The highest decile."""


@dataclass(frozen=True)
class GateCurves:
    """The gate by earlier interactions and by age of the item."""

    prior: tuple[GateBucket, ...]
    age: tuple[GateBucket, ...]


@dataclass(frozen=True)
class Probes:
    """The probes of the arms that could serve, arm by arm; arms without a gate or attention are left out there."""

    mutation: dict[str, tuple[MutationStep, ...]]
    gates: dict[str, GateCurves]
    attention: dict[str, tuple[AttentionExample, ...]]


def probe(repo: Repo, plan: Plan) -> Probes:
    """Probe the saved ranker of each arm that could serve: the first seed's, at the latest time origin."""
    from ranking.training.ranker import Ranker

    probes = Probes({}, {}, {})
    data: dict[str, Dataset] = {}
    for trial in plan.trials:
        details = plan.details(trial)
        if trial.origin or trial.seed or details is None or details.ranker is None:
            continue
        if trial.frame not in data:
            data.clear()  # one frame at a time in memory
            frame = plan.frames[trial.frame]
            whole = load_dataset(frame.folder)
            data[trial.frame] = whole.take(frame.split.parts(whole.rows.at_us)["test"])
        test = data[trial.frame]
        ranker = Ranker.load(plan.rankers / check_name("ranker", details.ranker, LONGEST_MADE))
        probes.mutation[trial.arm] = mutation(ranker, test)
        gates = gate_curves(ranker, test)
        if gates is not None:
            probes.gates[trial.arm] = gates
        titles = item_titles(repo, test.items.ids)
        examples = attention_examples(ranker, test.take(example_rows(test)), titles)
        if examples is not None:
            probes.attention[trial.arm] = examples
    return probes


def mutation(ranker: Ranker, data: Dataset, seed: int = 0) -> tuple[MutationStep, ...]:
    """How far a score moves when the candidate is swapped for another item with the same first codes (after arXiv
    2504.02137, where the loss of such swaps falls as the prefix deepens), per depth; depth 0 is the random swap.

    The row's numeric features stay, so that what moves the score is what the model makes of the item itself. Candidates
    of the rows are what may be swapped in.
    """
    rng = np.random.default_rng(seed)
    coded = np.flatnonzero((data.items.codes[data.candidate] >= 0).all(axis=1))
    rows = np.sort(rng.permutation(coded)[:MUTATED_ROWS])
    sample = data.take(rows)
    pool = _one_version_each(data.items.ids, np.unique(data.candidate[coded]).astype(np.int64))
    before = ranker.score(sample)
    levels = ranker.config.residual_levels
    codes = data.items.codes[:, : len(ranker.config.sizes) if levels is None else levels]
    steps: list[MutationStep] = []
    random: npt.NDArray[np.float64] | None = None
    for depth in range(codes.shape[1] + 1):
        swapped = _partners(data.items.ids, codes[:, :depth], pool, sample.candidate.astype(np.int64), rng)
        there = np.flatnonzero(swapped >= 0)
        if not len(there):
            break
        mutated = dataclasses.replace(sample.take(there), candidate=swapped[there].astype(np.int32))
        change = np.abs(ranker.score(mutated) - before[there])
        if random is None:
            random = np.full(len(sample), np.nan)
            random[there] = change
        steps.append(MutationStep(depth, len(there), float(change.mean()), float(np.nanmean(random[there]))))
    return tuple(steps)


def _one_version_each(ids: npt.NDArray[np.object_], numbers: Ints) -> Ints:
    """The last of the numbers of each item."""
    _, first = np.unique(ids[numbers[::-1]].astype(str), return_index=True)
    return numbers[::-1][first]


def _partners(
    ids: npt.NDArray[np.object_],
    prefixes: npt.NDArray[np.int32],
    pool: Ints,
    candidates: Ints,
    rng: np.random.Generator,
) -> Ints:
    """For each candidate a random other item of the pool with the same prefix, -1 where there is none."""
    both = np.concatenate([pool, candidates])
    group = np.unique(prefixes[both], axis=0, return_inverse=True)[1].ravel() if prefixes.shape[1] else both * 0
    item = np.unique(ids[both].astype(str), return_inverse=True)[1].ravel()
    order = np.lexsort((item[: len(pool)], group[: len(pool)]))
    keys = group[: len(pool)][order] * (len(both) + 1) + item[: len(pool)][order]
    start = np.searchsorted(group[: len(pool)][order], group[len(pool) :], side="left")
    size = np.searchsorted(group[: len(pool)][order], group[len(pool) :], side="right") - start
    # The item itself may be in its group, in another version too: it is stepped over.
    own = np.searchsorted(keys, group[len(pool) :] * (len(both) + 1) + item[len(pool) :])
    inside = (own < len(keys)) & (
        keys[np.minimum(own, len(keys) - 1)] == group[len(pool) :] * (len(both) + 1) + item[len(pool) :]
    )
    choices = size - inside
    drawn = start + np.floor(rng.random(len(candidates)) * np.maximum(choices, 1)).astype(np.int64)
    drawn += inside & (drawn >= own)
    return np.where(choices > 0, pool[order][np.minimum(drawn, len(pool) - 1)], -1)


def gate_curves(ranker: Ranker, data: Dataset) -> GateCurves | None:
    """The gate by earlier interactions and by age of the item (papers, trap 20); None for an arm without a gate."""
    from ranking.data.batches import Batches
    from ranking.experiments.comparison.explain import gate_values

    values = gate_values(ranker.model, Batches(data, ranker.scaling, ranker.vocabulary))
    if values is None:
        return None
    parts = slices(data)

    def buckets(kind: str) -> tuple[GateBucket, ...]:
        return tuple(
            GateBucket(
                name.removeprefix(f"{kind} "),
                int(rows.sum()),
                float(values[rows].mean()),
                float(np.quantile(values[rows], 0.1)),
                float(np.quantile(values[rows], 0.9)),
            )
            for name, rows in parts.items()
            if name.startswith(f"{kind} ")
        )

    return GateCurves(buckets("prior"), buckets("age"))
