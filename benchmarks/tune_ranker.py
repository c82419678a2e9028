"""Choose the rankers' settings for each data set by random search on validation rows; test rows are never scored.

    python benchmarks/tune_ranker.py --data DATA... [--work .work/arms] [--trials 6] [--seeds 1] [--jobs 2]

Prepares the same data as ``benchmarks/arms.py`` in the same work folder, and keeps it. Every trial trains two baselines and
the arms of both papers, all at the same number of parameters. Its score is their mean validation AUC over all rows and, if
they have the 500 positives that every verdict requires, over cold rows (items with fewer than 10 earlier interactions). All
arms of a data set then use the settings of the best trial. Trial 0 is ``arms.BASE``; the last trial is the best one with
binned numeric features. Saved trials are not repeated. Results go to ``benchmarks/results/tune_ranker.json``, which
``benchmarks/arms.py`` reads; all worlds use the settings chosen on ``strong``.

``--sampled`` is for fewer rows than ``benchmarks/arms.py`` has: it writes to ``sampled`` of the data set, with the numbers of
rows, and leaves the choice as it is. With the work folder and the caps of ``benchmarks/arms_today.py`` it reuses its frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"  # processes, not threads

import numpy as np
from arms import BASE, ROOT, options_of, parser_of, with_settings

from ranking.evaluation.metrics import auc
from ranking.evaluation.slices import prior_interactions
from ranking.experiments.comparison.arms import ComparedArm
from ranking.experiments.comparison.comparison import Comparison, data_name
from ranking.experiments.comparison.trials import Plan, Trial, context_of
from ranking.pipeline.prepare import prepare_repo
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.sizing import Budget
from sidkit.core.files import read_json, write_json
from sidkit.core.intervals import LEAST_POSITIVES

RESULTS = ROOT / "benchmarks" / "results" / "tune_ranker.json"
ARMS = ["id_content", "id_codes", "saviorrec", "smile"]
CHOICES: dict[str, list[Any]] = {
    "model.dropout": [0.2, 0.4],
    "model.id_dropout": [0.1, 0.5, 0.9],
    "training.learning_rate": [2e-4, 5e-4, 1e-3],
    "training.table_learning_rate": [5e-5, 1.5e-4, 5e-4],
    "training.table_weight_decay": [0.1, 1.0],
}
LAST = {"model.numeric_bins": 8}

_contexts: dict[str, TrainingContext] = {}
_arms: dict[str, ComparedArm] = {}


def _take(contexts: dict[str, TrainingContext], arms: dict[str, ComparedArm]) -> None:
    _contexts.update(contexts)
    _arms.update(arms)


def _trained(trial: Trial, settings: dict[str, Any]) -> tuple[float, float, int]:
    """Validation AUC of all rows and of cold ones (NaN if there are too few), and the best epoch."""
    context = _contexts[trial.frame]
    spec = with_settings(context.spec, settings)
    budget = Budget(trial.budget, _arms[trial.arm].sized_by) if trial.budget else None
    found = train_arm(dataclasses.replace(context, spec=spec), trial.arm, _arms[trial.arm], trial.seed, "trial", budget)
    label = context.validation.rows.label
    cold = prior_interactions(context.validation) < 10
    enough = min(label[cold].sum(), (1 - label[cold]).sum()) >= LEAST_POSITIVES
    told = auc(label[cold], found.validation[cold]) if enough else float("nan")
    return auc(label, found.validation), told, found.details.best_epoch or 0


def _drawn(rng: np.random.Generator) -> dict[str, Any]:
    return {key: values[int(rng.integers(len(values)))] for key, values in CHOICES.items()}


def prepared(data: str, options: argparse.Namespace, arms: Sequence[str]) -> tuple[Plan, dict[str, TrainingContext]]:
    """Training contexts of a data set, by frame, with the validation rows in place of the test rows."""
    repo = prepare_repo(data, options.work / data_name(data))
    with repo.locked():
        plan, _ = Comparison(repo, options_of(data, options, arms, tuned=False)).plan()
    contexts = {}
    for name in {trial.frame for trial in plan.trials}:
        whole = context_of(repo, plan.frames[name], plan.spec)
        # No artefact, no first epoch, and the validation rows in place of the test rows.
        contexts[name] = dataclasses.replace(whole, test=whole.validation, first_epoch=False)
    return plan, contexts


def workers(plan: Plan, contexts: dict[str, TrainingContext], jobs: int) -> ProcessPoolExecutor:
    """Worker processes with their training contexts, for :func:`measured`."""
    return ProcessPoolExecutor(jobs, get_context("fork"), _take, (contexts, dict(plan.arms)))


def tuned(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """All trials on one data set, and the best one; with ``--sampled``, saved after each trial."""
    plan, contexts = prepared(data, options, ARMS)
    rng = np.random.default_rng(options.seed)
    first = {key: BASE[key] for key in CHOICES}
    rows = {frame: {"train": len(one.train), "validation": len(one.validation)} for frame, one in contexts.items()}
    held = _held(data_name(data), options)
    saved = held.get("trials", []) if not options.sampled or held.get("rows") == rows else []
    told: list[dict[str, Any]] = []
    with workers(plan, contexts, options.jobs) as pool:

        def trial(settings: dict[str, Any]) -> None:
            known = [one for one in saved if one["settings"] == settings]
            told.append(known[0] if known else measured(pool, plan.trials, settings))
            print(f"  {len(told) - 1}: {told[-1]['worth']:.5f} {told[-1]}", flush=True)
            if options.sampled:
                _keep(data_name(data), {"rows": rows, **_summary(told)}, options)

        for settings in (first, *(_drawn(rng) for _ in range(options.trials - 1))):
            trial(settings)
        trial(_best(told)["settings"] | LAST)
    return {"rows": rows, **_summary(told)} if options.sampled else _summary(told)


def _summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    chosen = _best(trials)
    return {"chosen": chosen["settings"], "gain": chosen["worth"] - trials[0]["worth"], "trials": trials}


def _held(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The saved results of a data set: those of all rows, or of a sample."""
    held = read_json(RESULTS).get(name, {}) if RESULTS.exists() else {}
    return dict(held.get("sampled", {}) if options.sampled else held)


def _keep(name: str, found: dict[str, Any], options: argparse.Namespace) -> None:
    """Save the results of a data set; those of a sample beside those of all rows."""
    held = read_json(RESULTS) if RESULTS.exists() else {}
    entry = held.get(name, {})
    other = {key: value for key, value in entry.items() if key == "sampled"}
    write_json(RESULTS, {**held, name: {**entry, "sampled": found} if options.sampled else {**found, **other}})


def measured(pool: ProcessPoolExecutor, trials: Sequence[Trial], settings: dict[str, Any]) -> dict[str, Any]:
    """Validation scores of a set of settings."""
    found = list(pool.map(_trained, trials, [settings] * len(trials)))
    figures = {
        f"{trial.arm}-s{trial.seed}": {
            "all": one[0],
            "cold": None if np.isnan(one[1]) else one[1],
            "best_epoch": one[2],
        }
        for trial, one in zip(trials, found, strict=True)
    }
    worth = float(np.nanmean([figure for one in found for figure in one[:2]]))
    return {"settings": settings, "worth": worth, "validation": figures}


def _best(trials: list[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial["worth"])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument(
        "--sampled", action="store_true", help="save beside the results of all rows, and choose nothing"
    )
    parser.set_defaults(seeds=1, origins=1)
    options = parser.parse_args()
    for data in options.data:
        print(data_name(data), flush=True)
        found = tuned(data, options)
        _keep(data_name(data), found, options)
        print(f"  chosen: {json.dumps(found['chosen'])}, {found['gain']:+.5f} over where it began", flush=True)


if __name__ == "__main__":
    main()
