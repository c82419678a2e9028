"""Do codes pay: arms with statistics of codes against the same arms without codes, and against shuffled codes.

    python benchmarks/codes.py --data DATA... [--work .work/codes] [--tune] [--open]

Each data set is split into three time origins, whose test windows are its last 40 %. ``--tune`` chooses, on validation rows
of the oldest origin, which lie before all test rows: the settings of boosting without codes (boosting with codes takes the
same), and which statistics of codes each arm reads. They are saved to ``benchmarks/results/codes_tuned.json``, and used.
Without ``--open``, arms are compared on these validation rows; with it, on the test rows of all origins, pooled. Results go to
``benchmarks/results/codes.json``, one entry per data set and kind of rows. Saved trials are not repeated.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import planning
from planning import print_differences, record, repo_of, results_of, spec_of, with_rows
from rich.console import Console

from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue, difference
from ranking.evaluation.metrics import auc
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import ComparedArm, load_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.time_origins import TimeOrigin
from ranking.experiments.comparison.trials import Plan, context_of, work_through
from ranking.pipeline.world import world_probabilities
from ranking.training.arms import train_arm
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.predictions import read_predictions
from sidkit.api.progress import LineProgress
from sidkit.core.files import write_json
from sidkit.core.intervals import Changes, Clusters, Support
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "codes.json"
TUNED = RESULTS.with_name("codes_tuned.json")
NAMED = "blend_codes"
"""The arm with codes whose differences count, named before any test row was opened: on validation rows boosting is the better
member on one data set and content on another.
"""
ORIGINS = 3
TRAIN, VALIDATION = 0.7667, 0.1
"""Shares of a time origin; three test windows of the rest are the last 40 % of the log."""
SLICES = ("all", "cold", "prior 0", "warm")
ARMS = (
    "id", "content", "content_codes", "content_codes_shuffled", "gbdt", "gbdt_codes", "gbdt_codes_shuffled",
    "blend_content", "blend_codes", "blend_codes_shuffled",
)  # fmt: skip
PAIRS = (
    *((arm, base) for arm in ("content_codes", "gbdt_codes", "blend_codes") for base in ("content", "gbdt", f"{arm}_shuffled")),
    ("blend_codes", "blend_content"),
    *((arm, "id") for arm in ("content", "content_codes", "gbdt_codes", "blend_codes")),
)  # fmt: skip
"""Arm and the arm that it is compared with."""
BOOSTING: tuple[dict[str, Any], ...] = (
    {},
    {"trees": 400, "learning_rate": 0.1},
    {"trees": 300, "learning_rate": 0.1, "leaves": 15, "leaf_rows": 100, "l2": 10.0, "content_axes": 32},
    {"trees": 300, "learning_rate": 0.1, "leaf_rows": 200, "feature_share": 0.2},
)
"""Settings of boosting, of which one is chosen without codes."""
_NO_COUNTS = ("!code_stats_d*__exposures_*", "!code_stats_d*__clicks_*", "!code_stats_d*__conversions_*",
              "!user_code_stats_d*__exposures_*", "!user_code_stats_d*__clicks_*")  # fmt: skip
STATISTICS: dict[str, tuple[str, ...] | None] = {
    "all": None,
    "rates": _NO_COUNTS,
    "long windows": ("!*code_*_1d", "!*code_*_7d"),
    "rates of long windows": (*_NO_COUNTS, "!*code_*_1d", "!*code_*_7d"),
    "rates of prefixes": (*_NO_COUNTS, "!*code_*_1d", "!*code_*_7d", "!user_code_*", "!code_affinity_*"),
}
"""Which statistics of codes an arm reads, as patterns of features."""


@dataclass(frozen=True)
class Measured:
    """Difference in AUC of an arm to another, with its 95 % interval over users, items and trainings."""

    arm: str
    baseline: str
    slice: str
    value: float
    low: float
    high: float
    positives: int
    effective_users: float


def arms_of(name: str) -> dict[str, ComparedArm]:
    """The arms, with the settings chosen for a data set."""
    chosen = results_of(TUNED).get(name, {}).get("chosen", {})
    arms = load_arms(ARMS)
    return {
        arm: with_settings(spec, chosen.get("boosting", {}), chosen.get(_tuned_as(arm))) for arm, spec in arms.items()
    }


def _tuned_as(arm: str) -> str:
    return arm.removesuffix("_shuffled")


def with_settings(spec: ComparedArm, boosting: Mapping[str, Any], statistics: str | None) -> ComparedArm:
    """An arm with settings of boosting, and some statistics of codes."""
    changes: dict[str, Any] = {}
    if spec.kind == "gbdt":
        changes["boosting"] = BoostingSpec.model_validate(boosting)
    if statistics is not None:
        changes["features"] = STATISTICS[statistics]
    return spec.model_copy(update=changes)


def planned(data: str, options: argparse.Namespace) -> tuple[Repo, Plan, list[TimeOrigin]]:
    """Prepare frames and list the trials of a data set."""
    repo = repo_of(data, options.work / data_name(data), (TRAIN, VALIDATION))
    plan, origins = planning.planned(repo, data, arms_of(data_name(data)), spec_of(options), options, origins=ORIGINS)
    return repo, plan, origins


def tuned(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """Choose settings on validation rows of the oldest origin, by the mean AUC over all rows and cold rows."""
    repo, plan, _ = planned(data, options)
    trial = next(trial for trial in plan.trials if trial.origin == ORIGINS - 1)
    context = replace(context_of(repo, plan.frames[trial.frame], plan.spec), first_epoch=False)
    # No test row is scored: boosting needs one row to score.
    context = replace(context, test=context.validation.take(np.arange(1)))
    label, parts = context.validation.rows.label, slices(context.validation)
    arms = load_arms(ARMS)

    def score(arm: str, boosting: Mapping[str, Any], statistics: str | None) -> dict[str, float]:
        spec = with_settings(arms[arm], boosting, statistics)
        seeds = range(options.tuning_seeds if spec.kind == "neural" else 1)
        found = [train_arm(context, arm, spec, seed, arm).validation for seed in seeds]
        by_slice = {name: [auc(label[parts[name]], each[parts[name]]) for each in found] for name in ("all", "cold")}
        return {name: float(np.mean(values)) for name, values in by_slice.items()}

    found: dict[str, Any] = {"boosting": [score("gbdt", each, None) for each in BOOSTING]}
    boosting = BOOSTING[_best(found["boosting"])]
    for arm in ("gbdt_codes", "content_codes"):
        found[arm] = {name: score(arm, boosting, name) for name in STATISTICS}
        print(data_name(data), arm, found[arm], flush=True)
    found["content"] = score("content", {}, None)
    names = list(STATISTICS)
    chosen = {arm: names[_best(list(found[arm].values()))] for arm in ("gbdt_codes", "content_codes")}
    return {"chosen": {"boosting": boosting, **chosen}, "auc": found}


def _best(found: Sequence[Mapping[str, float]]) -> int:
    return int(np.argmax([sum(each.values()) for each in found]))


def compared(repo: Repo, plan: Plan, origins: Sequence[TimeOrigin], *, opened: bool) -> dict[str, Any]:
    """Differences between arms: on test rows pooled over the origins, or on validation rows of the oldest origin."""
    part = "test" if opened else "validation"
    used = [origin.number for origin in origins] if opened else [ORIGINS - 1]
    trials = [[trial for trial in plan.trials if trial.origin == number] for number in used]
    data = [getattr(Parts.load(plan, each[0].frame), part) for each in trials]
    users, items = (
        pd.factorize(np.concatenate([getattr(each.rows, kind) for each in data]))[0]
        for kind in ("user_ids", "item_ids")
    )
    clusters, start = Clusters.of(users, items), 0
    values: dict[str, dict[str, list[MetricValue]]] = {}
    world: list[dict[str, Any]] = []
    for at, rows in zip(trials, data, strict=True):
        place = np.arange(start, start := start + len(rows))
        masks = {name: mask for name, mask in slices(rows).items() if name in SLICES}
        evaluator = Evaluator(replace(EvaluationRows.of(rows), clusters=clusters.take(place)), masks)
        for arm in plan.arms:
            scores = [read_predictions(plan.path(trial), part) for trial in at if trial.arm == arm]
            for name, metrics in evaluator.evaluate(scores).items():
                if "auc" in metrics.metrics:
                    values.setdefault(name, {}).setdefault(arm, []).append(metrics.metrics["auc"])
        if known := world_probabilities(repo, rows):
            world.append({name: evaluator.reference_auc(each) for name, each in known.by_name().items()})
    pooled = {name: {arm: _pooled(each) for arm, each in arms.items()} for name, arms in values.items()}
    found = [
        measured_difference(arm, baseline, name, arms[arm], arms[baseline])
        for name, arms in pooled.items()
        for arm, baseline in PAIRS
    ]
    return {
        "rows": sum(map(len, data)),
        "auc": {name: {arm: value.value for arm, value in arms.items()} for name, arms in pooled.items()},
        "differences": [asdict(each) for each in found],
        "world": world,
    }


def _pooled(values: Sequence[MetricValue]) -> MetricValue:
    """The mean over time origins."""
    by_seed = tuple(float(np.mean(seed)) for seed in zip(*(value.by_seed for value in values), strict=True))
    return MetricValue(
        float(np.mean([value.value for value in values])),
        by_seed,
        Support.pooled([value.support for value in values]),
        lambda: [Changes.mean(seed) for seed in zip(*(value.change() for value in values), strict=True)],
    )


def measured_difference(arm: str, baseline: str, name: str, own: MetricValue, other: MetricValue) -> Measured:
    """The difference of an arm to a baseline on the slice ``name``."""
    found = difference(own, other)
    interval, support = found.interval, found.support
    return Measured(
        arm, baseline, name, interval.value, interval.low, interval.high, support.positives, support.effective_users
    )


def main() -> None:
    """Tune or compare the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "codes")
    parser.add_argument("--tune", action="store_true", help="choose settings first")
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuning-seeds", type=int, default=2, help="of neural arms")
    with_rows(parser, train=40_000, evaluation=40_000)
    options = parser.parse_args()
    for data in options.data:
        began, name = time.process_time(), data_name(data)
        if options.tune:
            write_json(TUNED, {**results_of(TUNED), name: tuned(data, options)})
        repo, plan, origins = planned(data, options)
        if not options.open:
            plan = replace(plan, trials=tuple(trial for trial in plan.trials if trial.origin == ORIGINS - 1))
        work_through(plan, LineProgress(Console()))
        result = compared(repo, plan, origins, opened=options.open)
        result |= {"seeds": options.seeds, "cpu_seconds": round(time.process_time() - began)}
        kind = "test" if options.open else "validation"
        record(RESULTS, name, kind, result)
        print_differences(name, kind, result["differences"])


if __name__ == "__main__":
    main()
