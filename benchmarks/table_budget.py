"""Codes instead of ids under one table size, with random hashing of ids as control (arXiv 2306.08121).

    python benchmarks/table_budget.py --data DATA... [--rates 0.002] [--shares 0.03125 0.125 0.5] [--open] [--table]

No arm has an id table. ``prefix_ngram`` and ``spm`` read codes in the candidate and in the history, ``hashed_ids`` a hash of
the id; each has one table, of as many rows as the given share of the items that the training rows show. Codes are those of
content. One time origin: rankers train on the first 70 % of the log (at most 20,000 rows, by user), choose their epoch on the
next 15 %, and the last 15 % are test rows. ``--rates`` are learning rates of the tables: the first share is trained with each,
with one seed, and an arm keeps the one with the best validation AUC. Without ``--open``, arms are compared on validation rows.
Results go to ``benchmarks/results/table_budget.json``. Saved trials are not repeated.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import planning
from codes import measured_difference
from gates import changed, interval_text, saved
from planning import print_differences, record, repo_of, results_of, spec_of, with_rows

from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import ComparedArm, load_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails, context_of
from ranking.training.arms import train_arm
from ranking.training.predictions import read_predictions
from sidkit.core.records import record_json
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "table_budget.json"
TRAIN, VALIDATION = 0.7, 0.15
SLICES = ("all", "cold", "prior 0", "warm")
HASHED, CODED = "hashed_ids", ("prefix_ngram", "spm")
ROWS = {HASHED: "table_rows", "prefix_ngram": "table_rows", "spm": "spm_pieces"}
"""The setting that bounds the table of an arm."""


def arms(rows: int, single: int) -> dict[str, ComparedArm]:
    """The arms with tables of so many rows; ``spm`` needs one for each of the ``single`` codes."""
    names = [HASHED, *(name for name in CODED if name != "spm" or rows > single)]
    return {f"{name}_{rows}": changed(arm, **{ROWS[name]: rows}) for name, arm in load_arms(names).items()}


def planned(data: str, options: argparse.Namespace, wanted: dict[str, ComparedArm], rate: float, seeds: int) -> Plan:
    """Prepare the frame of a data set and list its trials."""
    repo = repo_of(data, options.work / data_name(data) / f"rate_{rate:g}", (TRAIN, VALIDATION))
    spec = spec_of(options, table_learning_rate=rate, epochs=10)
    return planning.planned(repo, data, wanted, spec, options, seeds=seeds)[0]


def trained(plan: Plan, trial: Trial) -> TrialDetails:
    """Details of a trial, which is run unless it is finished; tables are forced off in the first seed."""
    known = plan.details(trial)
    if known is not None:
        return known
    context = replace(context_of(Repo.open(plan.repo), plan.frames[trial.frame], plan.spec), first_epoch=False)
    started = time.process_time()
    result = train_arm(
        replace(context, liveness=trial.seed == 0), trial.arm, plan.arms[trial.arm], trial.seed, trial.name
    )
    return saved(plan, trial, result, started)


def measured(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """Choose the rate of each arm, train all table sizes, and compare the arms of one size."""
    sized = arms(1_000_000, 0)
    plan = planned(data, options, sized, options.rates[0], 1)
    rows = Parts.load(plan, plan.trials[0].frame)
    items, single = shown(plan)
    budgets = [max(16, round(items * share)) for share in options.shares]
    chosen: dict[str, float] = {}
    tried: dict[str, dict[str, float]] = {}
    for name in (HASHED, *CODED):
        for rate in options.rates:
            wanted = {arm: spec for arm, spec in arms(budgets[-1], single).items() if arm.startswith(f"{name}_")}
            if not wanted:
                continue
            plan = planned(data, options, wanted, rate, 1)
            tried.setdefault(name, {})[f"{rate:g}"] = trained(plan, plan.trials[0]).validation
        if name in tried:
            chosen[name] = float(max(tried[name], key=tried[name].__getitem__))
    part = "test" if options.open else "validation"
    evaluated = getattr(rows, part)
    masks = {name: mask for name, mask in slices(evaluated).items() if name in SLICES}
    evaluator = Evaluator(EvaluationRows.of(evaluated), masks)
    values: dict[str, dict[str, MetricValue]] = {}
    tables: dict[str, Any] = {}
    for budget in budgets:
        for arm, spec in arms(budget, single).items():
            name = arm.removesuffix(f"_{budget}")
            plan = planned(data, options, {arm: spec}, chosen.get(name, options.rates[0]), options.seeds)
            details = [trained(plan, trial) for trial in plan.trials]
            scores = [read_predictions(plan.path(trial), part) for trial in plan.trials]
            for each, metrics in evaluator.evaluate(scores).items():
                if "auc" in metrics.metrics:
                    values.setdefault(each, {})[arm] = metrics.metrics["auc"]
            found = [record_json(one) for one in details[0].liveness or () if one.kind == "table"]
            tables[arm] = {"parts": found, "table_parameters": details[0].table_parameters}
    found = [
        measured_difference(f"{name}_{budget}", f"{HASHED}_{budget}", each, known[f"{name}_{budget}"], known[other])
        for each, known in values.items()
        for budget in budgets
        for name in CODED
        if f"{name}_{budget}" in known and (other := f"{HASHED}_{budget}") in known
    ]
    return {
        "rows": len(evaluated),
        "items": items,
        "budgets": budgets,
        "rates": chosen,
        "tried": tried,
        "seeds": options.seeds,
        "auc": {each: {arm: value.value for arm, value in known.items()} for each, known in values.items()},
        "differences": [asdict(each) for each in found],
        "tables": tables,
    }


def shown(plan: Plan) -> tuple[int, int]:
    """Number of items that the training rows show, and of different codes on all levels."""
    context = context_of(Repo.open(plan.repo), plan.frames[plan.trials[0].frame], plan.spec)
    items = np.unique(context.train.candidate)
    codes = context.train.items.codes[items]
    return len(items), sum(len(np.unique(level[level >= 0])) for level in codes.T)


def print_tables(results: dict[str, Any]) -> None:
    """Print the results as Markdown: one row per data set, size and arm."""
    for kind in ("validation", "test"):
        print(f"\n### {kind}\n\n| data | rows of the table | arm | all | cold | prior 0 |\n|{' --- |' * 6}")
        for data, each in results.items():
            for difference in each.get(kind, {}).get("differences", []):
                if difference["slice"] != "all":
                    continue
                cells = [_cell(each[kind], difference["arm"], name) for name in ("all", "cold", "prior 0")]
                arm, _, rows = difference["arm"].rpartition("_")
                print(f"| {data} | {rows} of {each[kind]['items']:,} | `{arm}` | {' | '.join(cells)} |")


def _cell(found: dict[str, Any], arm: str, name: str) -> str:
    for each in found["differences"]:
        if (each["arm"], each["slice"]) == (arm, name):
            baseline = found["auc"][name][each["baseline"]]
            return f"{baseline:.4f}".removeprefix("0") + f" {interval_text(each)}"
    return "-"


def main() -> None:
    """Sweep over table sizes on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "table_budget")
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-4, 5e-4, 2e-3])
    parser.add_argument("--shares", type=float, nargs="+", default=[1 / 32, 1 / 8, 1 / 2])
    parser.add_argument("--seeds", type=int, default=2)
    with_rows(parser, train=20_000, evaluation=12_000)
    options = parser.parse_args()
    for data in options.data:
        began, name = time.process_time(), data_name(data)
        result = measured(data, options) | {"cpu_seconds": round(time.process_time() - began)}
        kind = "test" if options.open else "validation"
        record(RESULTS, name, kind, result)
        print_differences(name, kind, result["differences"])
    if options.table:
        print_tables(results_of(RESULTS))


if __name__ == "__main__":
    main()
