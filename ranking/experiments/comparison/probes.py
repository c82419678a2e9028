"""Probe saved rankers on test rows: mutation test, gates and attention."""

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
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Ints
from sidkit.core.names import LONGEST_MADE, check_name
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from ranking.training.ranker import Ranker

MUTATED_ROWS = 4000


@dataclass(frozen=True)
class MutationStep:
    """Change of the scores when candidates are replaced by items that share their first ``depth`` codes."""

    depth: int
    """Number of leading codes that are shared."""
    rows: int
    """Rows for which such an item exists."""
    change: float
    """Mean absolute change of the probability on these rows."""
    random: float
    """Mean absolute change on the same rows for a replacement by any item."""


@dataclass(frozen=True)
class GateBucket:
    """Distribution of the gate on the rows of a bucket."""

    name: str
    rows: int
    mean: float
    low: float
    """10 % quantile."""
    high: float
    """90 % quantile."""


@dataclass(frozen=True)
class GateCurves:
    """The gate by earlier interactions and by item age."""

    prior: tuple[GateBucket, ...]
    age: tuple[GateBucket, ...]


@dataclass(frozen=True)
class Probes:
    """Probe results by arm, for arms with a saved ranker that scores rows one by one; ``gates`` and ``attention`` omit arms
    without them.
    """

    mutation: dict[str, tuple[MutationStep, ...]]
    gates: dict[str, GateCurves]
    attention: dict[str, tuple[AttentionExample, ...]]


def probe(repo: Repo, plan: Plan) -> Probes:
    """Probe the saved ranker of each arm: the first seed at the latest time origin.

    A re-ranker is left out: its scores depend on the whole request, of which a probe changes one row.
    """
    from ranking.training.ranker import Ranker

    probes = Probes({}, {}, {})
    data: dict[str, Dataset] = {}
    for trial in plan.trials:
        details = plan.details(trial)
        if trial.origin or trial.seed or details is None or details.ranker is None or plan.arms[trial.arm].reranker:
            continue
        if trial.frame not in data:
            data.clear()  # one frame at a time in memory
            frame = plan.frames[trial.frame]
            whole = load_dataset(frame.folder)
            data[trial.frame] = whole.take(frame.split.parts(whole.rows.at_us)["test"])
        ranker = Ranker.load(plan.rankers / check_name("ranker", details.ranker, LONGEST_MADE))
        codebook = Codebook.load(repo.codebooks / plan.frames[trial.frame].codebook)
        test = data[trial.frame].with_vectors(ranker.config.vectors, codebook.decode)
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
    """Measure how much scores change when the candidate is replaced by an item with the same first codes, per depth.

    Follows arXiv 2504.02137, where the loss from such replacements falls as the prefix deepens. Depth 0 replaces by any
    item. The row's numeric features are unchanged, so the score changes only through the item's representation.
    Replacements are sampled from the candidates of ``data``.
    """
    rng = np.random.default_rng(seed)
    coded = np.flatnonzero((data.items.codes[data.candidate] >= 0).all(axis=1))
    rows = np.sort(rng.permutation(coded)[:MUTATED_ROWS])
    sample = data.take(rows)
    pool = _last_version(data.items.ids, np.unique(data.candidate[coded]).astype(np.int64))
    before = ranker.score(sample)
    levels = ranker.config.residual_levels
    codes = data.items.codes[:, : len(ranker.config.sizes) if levels is None else levels]
    steps: list[MutationStep] = []
    random: npt.NDArray[np.float64] | None = None
    for depth in range(codes.shape[1] + 1):
        swapped = _partners(data.items.ids, codes[:, :depth], pool, sample.candidate.astype(np.int64), rng)
        swappable = np.flatnonzero(swapped >= 0)
        if not len(swappable):
            break
        mutated = dataclasses.replace(sample.take(swappable), candidate=swapped[swappable].astype(np.int32))
        change = np.abs(ranker.score(mutated) - before[swappable])
        if random is None:
            random = np.full(len(sample), np.nan)
            random[swappable] = change
        steps.append(MutationStep(depth, len(swappable), float(change.mean()), float(np.nanmean(random[swappable]))))
    return tuple(steps)


def _last_version(ids: npt.NDArray[np.object_], numbers: Ints) -> Ints:
    """Return the last index of each item."""
    _, first = np.unique(ids[numbers[::-1]].astype(str), return_index=True)
    return numbers[::-1][first]


def _partners(
    ids: npt.NDArray[np.object_],
    prefixes: npt.NDArray[np.int32],
    pool: Ints,
    candidates: Ints,
    rng: np.random.Generator,
) -> Ints:
    """Sample for each candidate another item of the pool with the same prefix; -1 if none exists."""
    both = np.concatenate([pool, candidates])
    group = np.unique(prefixes[both], axis=0, return_inverse=True)[1].ravel() if prefixes.shape[1] else both * 0
    item = np.unique(ids[both].astype(str), return_inverse=True)[1].ravel()
    order = np.lexsort((item[: len(pool)], group[: len(pool)]))
    keys = group[: len(pool)][order] * (len(both) + 1) + item[: len(pool)][order]
    start = np.searchsorted(group[: len(pool)][order], group[len(pool) :], side="left")
    size = np.searchsorted(group[: len(pool)][order], group[len(pool) :], side="right") - start
    # The group may contain the item itself, possibly another version of it; sampling skips it.
    itself = np.searchsorted(keys, group[len(pool) :] * (len(both) + 1) + item[len(pool) :])
    in_group = (itself < len(keys)) & (
        keys[np.minimum(itself, len(keys) - 1)] == group[len(pool) :] * (len(both) + 1) + item[len(pool) :]
    )
    choices = size - in_group
    drawn = start + np.floor(rng.random(len(candidates)) * np.maximum(choices, 1)).astype(np.int64)
    drawn += in_group & (drawn >= itself)
    return np.where(choices > 0, pool[order][np.minimum(drawn, len(pool) - 1)], -1)


def gate_curves(ranker: Ranker, data: Dataset) -> GateCurves | None:
    """Return the gate by earlier interactions and by item age (papers, trap 20); None for an arm without a gate."""
    from ranking.experiments.comparison.explain import gate_values

    values = gate_values(ranker.model, ranker.batches(data))
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
