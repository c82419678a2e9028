"""What rows of the id table for new items are worth (the reindex step of Reindex-Then-Adapt), without training again."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ranking.data.dataset import Dataset
from ranking.data.vocabulary import UNKNOWN
from ranking.evaluation.evaluator import EvaluationRows, Evaluator
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.trials import Plan, context_of
from ranking.training.arms import train_arm
from ranking.training.ranker import Ranker
from ranking.training.reindex import Reindexed, extend, reindex
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.repo import Repo

ARM = "id_content"
NEW = "new"
"""Rows whose item has no row in the id table, because no training row shows it."""
MADE = ("frozen", "rows for new items", "shuffled rows")


def reindexed(plan: Plan, part: str, measured: Any) -> dict[str, Any]:
    """AUC of the arm ``id_content``, frozen, with rows for new items, and with these rows permuted among the new items.

    Parameters
    ----------
    plan : Plan
        Its frame and seeds are used. Trials save the artefact of the first seed; for others, the arm is trained again.
    part : str
        ``validation`` or ``test``.
    measured : callable
        The difference of two metric values on a slice, as a dict.
    """
    trials = [trial for trial in plan.trials if trial.arm == ARM]
    context = replace(context_of(Repo.open(plan.repo), plan.frames[trials[0].frame], plan.spec), first_epoch=False)
    rows: Dataset = getattr(context, part)
    scores: dict[str, list[Doubles]] = {name: [] for name in MADE}
    errors, new = [], np.zeros(len(rows), dtype=np.bool_)
    with tempfile.TemporaryDirectory() as folder:
        for trial in trials:
            saved = plan.rankers / plan.ranker(trial)  # of the first seed
            if trial.seed or not saved.exists():
                saved = Path(folder) / trial.name
                trained = replace(context, rankers=Path(folder), liveness=False)
                train_arm(trained, ARM, plan.arms[ARM], trial.seed, trial.name)
            ranker = Ranker.load(saved)
            new = ranker.vocabulary.numbers(rows.items.ids[rows.candidate]) == UNKNOWN
            found = rows_for_new_items(ranker, context.train, rows)
            errors.append(found.error)
            order = np.random.default_rng(trial.seed).permutation(len(found.ids))
            shuffled = replace(found, rows=found.rows[order])
            for name, made in zip(MADE, (None, found, shuffled), strict=True):
                extended = Ranker.load(saved)
                if made is not None:
                    extend(extended, made.table())
                scores[name].append(extended.score(rows))
    masks = {name: mask for name, mask in slices(rows).items() if name in ("all", "cold")} | {NEW: new}
    evaluator = Evaluator(EvaluationRows.of(rows), masks)
    values = {name: evaluator.evaluate(each) for name, each in scores.items()}
    found_at = [name for name in masks if all("auc" in values[made][name].metrics for made in MADE)]
    return {
        "errors": errors,
        "new_rows": int(new.sum()),
        "auc": {name: {made: values[made][name].metrics["auc"].value for made in MADE} for name in found_at},
        "differences": [
            measured(MADE[1], other, name, values[MADE[1]][name].metrics["auc"], values[other][name].metrics["auc"])
            for name in found_at
            for other in (MADE[0], MADE[2])
        ],
    }


def rows_for_new_items(ranker: Ranker, train: Dataset, rows: Dataset) -> Reindexed:
    """Rows of the ranker's id table for the items of ``rows``, candidates and histories, that training rows lack."""
    known = ranker.vocabulary.names.to_numpy(zero_copy_only=False).astype(object)
    content = latest_content(train) | latest_content(rows)
    width = rows.items.content.shape[1]
    nothing = np.zeros(width, dtype=np.float32)
    new = np.array(sorted({item for item in content if item}), dtype=object)
    new = new[ranker.vocabulary.numbers(new) == UNKNOWN]

    def of(ids: np.ndarray) -> Floats:
        return np.stack([content.get(item, nothing) for item in ids]) if len(ids) else np.zeros((0, width), np.float32)

    return reindex(ranker, of(known), new, of(new))


def latest_content(data: Dataset) -> dict[object, Floats]:
    """Item -> its last vector that is not zero."""
    has = np.flatnonzero(data.items.content.any(axis=1))
    return dict(zip(data.items.ids[has], data.items.content[has], strict=True))
