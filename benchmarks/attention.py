"""Attention over histories, and their mean in its place: what it gains, and whether it acts.

    python benchmarks/attention.py --data DATA... [--work .work/attention] [--seeds 5] [--jobs 2] [--open] [--write]

Arms differ in how they pool histories (:data:`POOLINGS`); ``dot`` is the default of ``[ranker.model]``. Each is compared with
the mean of the same inputs, which is trained like it. One time origin: rankers train on a sample of users, choose their epoch
on the next rows, and are compared on validation rows, or with ``--open`` on test rows. An attention is also forced off after
the training: replaced by the mean. ``benchmarks/planted_worlds.py`` writes the world ``tastes``, in which a mean cannot say
what a user likes. Results go to ``benchmarks/results/attention.json``; ``--write`` puts them into
``docs/results/attention.md``. Saved trials are not repeated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import planning
from codes import measured_difference
from computed_blocks import written
from family_page import LABELS, auc_text, off_text
from gates import changed, interval_text
from planning import print_differences, record, repo_of, results_of, spec_of, with_rows

from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue
from ranking.evaluation.metrics import auc
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import ComparedArm, shipped_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.liveness import arm_liveness
from ranking.experiments.comparison.trials import Plan
from ranking.training.predictions import read_predictions
from sidkit.core.records import record_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "attention.json"
PAGE = ROOT / "docs" / "results" / "attention.md"
SLICES = ("all", "cold")
POOLINGS: dict[str, dict[str, Any]] = {
    "mean": {"history": "mean"},
    "dot": {},
    "cosine": {"attention": "cosine"},
    "cosine_2": {"attention": "cosine", "attention_scale": 2.0},
}
"""How histories are pooled, and the model settings that say so; ``cosine`` starts at its default scale of 10."""
TITLES = {"id_content": "id + content", "gatesid": "GateSID", "saviorrec": "SaviorRec"}
INPUTS = {"id_content": "id_content", "gatesid": "id_content", "saviorrec": "saviorrec"}
"""Shipped arm -> the one of the same inputs whose mean it is compared with."""
ARMS = {
    f"{system}_{pooling}": (system, pooling)
    for system in TITLES
    for pooling in POOLINGS
    if pooling != "mean" or INPUTS[system] == system
}


def mean_of(arm: str) -> str:
    """The arm with the mean of the same inputs."""
    return f"{INPUTS[ARMS[arm][0]]}_mean"


def arms() -> dict[str, ComparedArm]:
    """All arms; each has the mean of its inputs as baseline."""
    shipped, made = shipped_arms(), {}
    for name, (system, pooling) in ARMS.items():
        baseline = None if pooling == "mean" else mean_of(name)
        made[name] = changed(shipped[system], **POOLINGS[pooling]).model_copy(update={"baseline": baseline})
    return made


def planned(data: str, options: argparse.Namespace) -> Plan:
    """Prepare the frames of a data set and list the trials, without those that leave out a loss."""
    repo = repo_of(data, options.work / data_name(data))
    return replace(planning.planned(repo, data, arms(), spec_of(options), options)[0], loss_trials=())


def compared(plan: Plan, part: str) -> dict[str, Any]:
    """AUC by seed, differences to the mean, and what each attention does, on the rows of a part."""
    rows = getattr(Parts.load(plan, plan.trials[0].frame), part)
    evaluator = Evaluator(
        EvaluationRows.of(rows), {name: mask for name, mask in slices(rows).items() if name in SLICES}
    )
    values: dict[str, dict[str, MetricValue]] = {}
    by_seed: dict[str, list[float]] = {}
    for arm in plan.arms:
        scores = [read_predictions(plan.path(trial), part) for trial in plan.trials if trial.arm == arm]
        for name, metrics in evaluator.evaluate(scores).items():
            if "auc" in metrics.metrics:
                values.setdefault(name, {})[arm] = metrics.metrics["auc"]
        by_seed[arm] = [auc(rows.rows.label, each) for each in scores]
    parts = {
        arm: [record_json(each) for each in found if each.kind in ("attention", "gate")]
        for arm, found in arm_liveness(plan).items()
    }
    return {
        "rows": len(rows),
        "train_rows": {trial.arm: details.train_rows for trial in plan.trials if (details := plan.details(trial))},
        "seeds": len({trial.seed for trial in plan.trials}),
        "auc": by_seed,
        "differences": [
            asdict(measured_difference(arm, mean_of(arm), name, known[arm], known[mean_of(arm)]))
            for name, known in values.items()
            for arm in plan.arms
            if arm != mean_of(arm)
        ],
        "parts": {} if part == "test" else parts,  # are of validation rows
    }


def table(results: Mapping[str, Any], kind: str) -> str:
    """A row per data set and arm: AUC, the difference to the mean of the same inputs, and what its attentions do."""
    acting = kind == "validation"
    header = ["data", "arm", "histories", "AUC", "to the mean, all", "to the mean, cold"]
    header += ["attention off: entropy / log n, change of the AUC"] if acting else []
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    known = sorted((data for data in results if kind in results[data]), key=["tastes", *LABELS].index)
    for data, found in ((data, results[data][kind]) for data in known):
        cells = {(each["arm"], each["slice"]): each for each in found["differences"]}
        for arm, seeds in found["auc"].items():
            system, pooling = ARMS[arm]
            shown = [interval_text(cells[arm, name]) if (arm, name) in cells else "-" for name in SLICES]
            row = [LABELS.get(data, f"`{data}`"), TITLES[system], pooling, auc_text(float(np.mean(seeds))), *shown]
            if acting:
                row.append("; ".join(map(_part, found["parts"].get(arm, ()))) or "-")
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _part(part: Mapping[str, Any]) -> str:
    return f"`{part['name'].partition('.')[2]}` {off_text(part)}{'' if part['alive'] else ' (no)'}"


def page() -> str:
    """The page with the tables of all results."""
    text, results = PAGE.read_text(), results_of(RESULTS)
    for kind in ("validation", "test"):
        text = written(text, kind, table(results, kind))
    return text


def main() -> None:
    """Train, compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "attention")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    with_rows(parser, train=20_000, evaluation=10_000)
    options = parser.parse_args()
    kind = "test" if options.open else "validation"
    for data in options.data:
        plan = planned(data, options)
        planning.work(plan, options.jobs)
        result = compared(plan, kind)
        record(RESULTS, data_name(data), kind, result)
        print_differences(data_name(data), kind, result["differences"])
    if options.write:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
