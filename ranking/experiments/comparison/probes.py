"""What only a model can tell: the mutation test, gates and attention of the kept rankers, on test rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.storage import load_dataset
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.attention_examples import attention_examples, example_rows, item_titles
from ranking.experiments.comparison.trials import Plan
from ranking.training.ranker import Ranker
from sidkit.core.arrays import Ints
from sidkit.core.names import LONGEST_MADE, check_name
from sidkit.core.repo import Repo

MUTATED_ROWS = 4000
_BUCKETS = ("prior", "age")


def probe(repo: Repo, plan: Plan) -> dict[str, Any]:
    """Ask the kept ranker of each arm that could serve: the first seed's, at the latest origin.

    Returns
    -------
    dict
        ``mutation``, ``gates`` and ``attention``, each arm -> what :func:`mutation`, :func:`gate_curves` and
        :func:`attention_examples` say; arms without a gate or an attention are left out there.
    """
    found: dict[str, dict[str, Any]] = {"mutation": {}, "gates": {}, "attention": {}}
    data: dict[str, Dataset] = {}
    for unit in plan.units:
        details = plan.details(unit)
        if unit.origin or unit.seed or details is None or details["ranker"] is None:
            continue
        if unit.frame not in data:
            data.clear()  # one frame at a time in memory
            frame = plan.frames[unit.frame]
            whole = load_dataset(frame.folder)
            data[unit.frame] = whole.take(frame.split.parts(whole.rows.at_us)["test"])
        test, ranker = (
            data[unit.frame],
            Ranker.load(plan.rankers / check_name("ranker", details["ranker"], LONGEST_MADE)),
        )
        found["mutation"][unit.arm] = mutation(ranker, test)
        gates = gate_curves(ranker, test)
        if gates is not None:
            found["gates"][unit.arm] = gates
        rows = example_rows(test)
        titles = item_titles(repo, test.items.ids)
        examples = attention_examples(ranker, test.take(rows), titles)
        if examples is not None:
            found["attention"][unit.arm] = examples
    return found


def mutation(ranker: Ranker, data: Dataset, seed: int = 0) -> list[dict[str, Any]]:
    """How far a score moves when the candidate is swapped for another item with the same first codes (after arXiv
    2504.02137, where the loss of such swaps falls as the prefix deepens).

    Per depth: ``rows`` that have such an item, ``change`` their mean absolute change of the probability, and ``random``
    that of the same rows for a swap with any item. The row's numeric features stay, so that what moves the score is what
    the model makes of the item itself. Depth 0 is the random swap. Candidates of the rows are what may be swapped in.
    """
    rng = np.random.default_rng(seed)
    coded = np.flatnonzero((data.items.codes[data.candidate] >= 0).all(axis=1))
    rows = np.sort(rng.permutation(coded)[:MUTATED_ROWS])
    sample = data.take(rows)
    pool = _one_version_each(data.items.ids, np.unique(data.candidate[coded]).astype(np.int64))
    before = ranker.score(sample)
    levels = ranker.config.residual_levels
    codes = data.items.codes[:, : len(ranker.config.sizes) if levels is None else levels]
    told: list[dict[str, Any]] = []
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
        told.append(
            {
                "depth": depth,
                "rows": len(there),
                "change": float(change.mean()),
                "random": float(np.nanmean(random[there])),
            }
        )
    return told


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


def gate_curves(ranker: Ranker, data: Dataset) -> dict[str, list[dict[str, Any]]] | None:
    """The gate by earlier interactions and by age of the item (papers, trap 20); None for an arm without a gate.

    ``prior`` and ``age`` list buckets, each with ``name``, ``rows``, the ``mean`` gate and its ``low`` and ``high`` decile.
    """
    from ranking.data.batches import Batches
    from ranking.experiments.comparison.explain import gate_values

    values = gate_values(ranker.model, Batches(data, ranker.scaling, ranker.vocabulary))
    if values is None:
        return None
    return {
        kind: [
            {
                "name": name.removeprefix(f"{kind} "),
                "rows": int(rows.sum()),
                "mean": float(values[rows].mean()),
                "low": float(np.quantile(values[rows], 0.1)),
                "high": float(np.quantile(values[rows], 0.9)),
            }
            for name, rows in slices(data).items()
            if name.startswith(f"{kind} ")
        ]
        for kind in _BUCKETS
    }
