"""Three ideas for cold items: a neighbour prior for id rows, GateSID, and a count gate between two scorers.

    python benchmarks/gates.py --data DATA... [--work .work/gates] [--losses] [--open] [--table]

One time origin: rankers train on the first 70 % of the log (at most 15,000 rows, by user), choose their epoch on the next
15 %, and the last 15 % are test rows (at most 12,000 each). Each idea has a control: random neighbours, statistics of random
rows, shuffled counts. Blends choose their weights on validation rows, so on validation rows they are cross-fitted in
:data:`FOLDS` parts by user. Without ``--open``, arms are compared on validation rows; with it, on test rows. Results go to
``benchmarks/results/gates.json``, one entry per data set and kind of rows. Saved trials are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import planning
from codes import measured_difference
from planning import print_differences, record, repo_of, results_of, spec_of, with_rows

from ranking.data.dataset import Dataset
from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import ComparedArm, load_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails, context_of
from ranking.training.arm_spec import without_loss
from ranking.training.arms import ArmResult, train_arm
from ranking.training.blend import blend_arm
from ranking.training.count_gate import CountGate, gate_features, shuffled
from ranking.training.mixing import best_weights, logits, probabilities
from ranking.training.predictions import read_predictions, write_predictions
from sidkit.core.arrays import Doubles
from sidkit.core.records import record_json
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gates.json"
TRAIN, VALIDATION = 0.7, 0.15
TRAINING = {"table_learning_rate": 1.5e-4, "epochs": 10}
"""Settings of all arms besides those of the default preset, at whose rate for tables ids learn next to nothing."""
COSINE = {"attention": "cosine", "attention_scale": 2.0}
"""Attention of the arms with GateSID and of their baseline: with dot products, weights stay uniform, and a gate between two
equal maps does nothing.
"""
SLICES = ("all", "cold", "prior 0", "prior 1-9", "warm")
NAMED = (
    "id_content", "id_content_prior", "id_content_prior_random", "gatesid", "gatesid_shuffled", "gbdt", "blend",
    "blend_counts", "blend_counts_shuffled",
)  # fmt: skip
FOLDS = 14
"""Parts of users in a cross-fit. In halves of a few users, weights of a blend are those of other users than it is for."""
BLENDS = ("blend", "blend_counts", "blend_counts_shuffled")


def arms() -> dict[str, ComparedArm]:
    """The shipped arms, with cosine attention where there is a gate between attentions, and their baseline."""
    found = load_arms(NAMED)
    for name in ("gatesid", "gatesid_shuffled"):
        found[name] = changed(found[name], **COSINE)
    found["id_content_cosine"] = changed(found["id_content"], **COSINE)
    return found


def changed(arm: ComparedArm, **settings: Any) -> ComparedArm:
    """An arm with other settings of its model."""
    model = {**arm.model.model_dump(exclude_unset=True), **settings}
    return ComparedArm.model_validate({**arm.model_dump(exclude_unset=True, exclude={"model"}), "model": model})


def planned(data: str, options: argparse.Namespace, wanted: Mapping[str, ComparedArm]) -> Plan:
    """Prepare the frame of a data set and list the trials of the arms."""
    repo = repo_of(data, options.work / data_name(data), (TRAIN, VALIDATION))
    return planning.planned(repo, data, wanted, spec_of(options, **TRAINING), options)[0]


def work(plan: Plan) -> None:
    """Run the unfinished trials; parts are forced off in the first seed only."""
    repo, frame = Repo.open(plan.repo), ""
    for trial in sorted(plan.all_trials, key=lambda trial: plan.arms[trial.arm].kind == "blend"):
        if plan.details(trial) is not None:
            continue
        if trial.frame != frame:  # arms of another codebook have another frame
            frame = trial.frame
            context = replace(context_of(repo, plan.frames[frame], plan.spec), first_epoch=False)
        spec, started = plan.arms[trial.arm], time.process_time()
        if spec.kind == "blend":
            members = {name: plan.path(each) for name, each in plan.members(trial).items()}
            result = blend_arm(trial.arm, trial.seed, spec, context.validation, context.test, members)
        else:
            if trial.without is not None:
                spec = without_loss(spec, plan.spec.model, trial.without)
            measured = trial.seed == 0 and trial.without is None
            result = train_arm(replace(context, liveness=measured), trial.arm, spec, trial.seed, trial.name)
        saved(plan, trial, result, started)


def saved(plan: Plan, trial: Trial, result: ArmResult, started: float) -> TrialDetails:
    """Save and print the result of a trial that began at ``started`` seconds of processor time."""
    details = TrialDetails(
        **{
            **vars(result.details),
            "mark": trial.mark,
            "cpu_seconds": round(time.process_time() - started, 2),
            "validation": result.validation_auc,
            "liveness": result.liveness,
        }
    )
    plan.path(trial).parent.mkdir(parents=True, exist_ok=True)
    write_predictions(plan.path(trial), result, details.as_json())
    print(f"{trial.name}: {details.validation:.4f}, {details.cpu_seconds} s of processor time", flush=True)
    return details


def compared(plan: Plan, *, opened: bool, pairs: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """AUC of all arms, and differences of pairs, on validation or test rows."""
    part = "test" if opened else "validation"
    rows = getattr(Parts.load(plan, plan.trials[0].frame), part)
    masks = {name: mask for name, mask in slices(rows).items() if name in SLICES}
    evaluator = Evaluator(EvaluationRows.of(rows), masks)
    by_arm: dict[str, list[Trial]] = {}
    for trial in [*plan.trials, *plan.loss_trials]:
        by_arm.setdefault(trial.arm if trial.without is None else f"{trial.arm} without {trial.without}", []).append(
            trial
        )
    values: dict[str, dict[str, MetricValue]] = {}
    for arm, trials in by_arm.items():
        crossed = arm in BLENDS and not opened
        scores = [
            cross_fitted(plan, trial, rows) if crossed else read_predictions(plan.path(trial), part) for trial in trials
        ]
        for name, metrics in evaluator.evaluate(scores).items():
            if "auc" in metrics.metrics:
                values.setdefault(name, {})[arm] = metrics.metrics["auc"]
    found = []
    for name, known in values.items():
        for arm, baseline in pairs or PAIRS:
            if arm in known and baseline in known:
                found.append(measured_difference(arm, baseline, name, known[arm], known[baseline]))
    return {
        "rows": len(rows),
        "auc": {name: {arm: value.value for arm, value in known.items()} for name, known in values.items()},
        "differences": [asdict(each) for each in found],
    }


def cross_fitted(plan: Plan, trial: Trial, rows: Dataset) -> Doubles:
    """Scores of a blend on validation rows, each part of the users with the weights of the other parts."""
    spec = plan.arms[trial.arm]
    members = {name: plan.path(each) for name, each in plan.members(trial).items()}
    member_logits = np.stack([logits(read_predictions(members[name], "validation")) for name in sorted(members)])
    label, users = rows.rows.label, rows.rows.user_ids
    features = gate_features(rows)
    if spec.shuffled_counts:
        features = shuffled(features, trial.seed)
    fold = folds_of(users)
    scores = np.zeros(len(rows))
    for own in (fold == part for part in range(fold.max() + 1)):
        weights = best_weights(label[~own], member_logits[:, ~own])
        gate = CountGate.constant(float(weights[0]))
        if spec.by_counts:
            gate = CountGate.fit(label[~own], features[~own], member_logits[:, ~own], users[~own], float(weights[0]))
            scores[own] = probabilities(gate.blended(features[own], member_logits[:, own]))
        else:
            scores[own] = probabilities(weights @ member_logits[:, own])
    return scores


def folds_of(users: np.ndarray) -> np.ndarray:
    """Part of each row, ``int64 [rows]``: a user's rows are in one, and parts have about the same number of rows."""
    number = np.unique(users.astype(str), return_inverse=True)[1].ravel()
    rows = np.bincount(number)
    part, filled = np.zeros(len(rows), dtype=np.int64), np.zeros(min(FOLDS, len(rows)))
    for user in np.argsort(-rows, kind="stable"):
        part[user] = filled.argmin()
        filled[part[user]] += rows[user]
    return part[number]


PAIRS = (
    *(("id_content_prior", other) for other in ("id_content", "id_content_prior_random")),
    *(("gatesid", other) for other in ("id_content_cosine", "id_content", "gatesid_shuffled")),
    ("gatesid", "gatesid without shared_gated.alignment"),
    *(("blend_counts", other) for other in ("blend", "gbdt", "id_content", "blend_counts_shuffled")),
    *(("blend", other) for other in ("gbdt", "id_content")),
)
"""Arm and the arm that it is compared with."""


def living(plan: Plan, arms: str = "id_content|gatesid|blend_counts") -> dict[str, Any]:
    """Liveness of the parts of the ideas' arms, by arm and seed."""
    found: dict[str, Any] = {}
    for trial in plan.trials:
        details = plan.details(trial)
        if details is None or not details.liveness or not re.match(arms, trial.arm):
            continue
        parts = [record_json(part) for part in details.liveness if part.kind in ("gate", "attention")]
        found.setdefault(trial.arm, []).append({"parts": parts, "gate": details.gate, "weights": details.weights})
    return found


def print_tables(results: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> None:
    """Print the differences as Markdown: one table per kind of rows and slice, one column per data set."""
    for kind, name in itertools.product(("validation", "test"), SLICES):
        known = {data: each[kind] for data, each in results.items() if name in each.get(kind, {}).get("auc", {})}
        if not known:
            continue
        print(f"\n### {kind}, {name}\n\n| arm | against | {' | '.join(known)} |\n|{' --- |' * (len(known) + 2)}")
        for arm, baseline in pairs:
            cells = [_cell(each["differences"], arm, baseline, name) for each in known.values()]
            print(f"| `{arm}` | `{baseline}` | {' | '.join(cells)} |")
        positives = [
            next((each["positives"] for each in found["differences"] if each["slice"] == name), 0)
            for found in known.values()
        ]
        print(f"| positives | | {' | '.join(f'{count:,}' for count in positives)} |")


def _cell(differences: Sequence[dict[str, Any]], arm: str, baseline: str, name: str) -> str:
    for each in differences:
        if (each["arm"], each["baseline"], each["slice"]) == (arm, baseline, name):
            return interval_text(each)
    return "-"


def interval_text(each: Mapping[str, float]) -> str:
    """A difference with its interval, bold if that excludes 0."""
    text = f"{each['value']:+.4f} [{each['low']:+.4f}, {each['high']:+.4f}]".replace("0.", ".")
    return f"**{text}**" if each["low"] > 0 or each["high"] < 0 else text


def main() -> None:
    """Compare the arms on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "gates")
    parser.add_argument("--losses", action="store_true", help="also train GateSID without its alignment")
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--seeds", type=int, default=2)
    with_rows(parser, train=15_000, evaluation=12_000)
    options = parser.parse_args()
    if options.table:
        print_tables(results_of(RESULTS), PAIRS)
    for data in options.data:
        began, name = time.process_time(), data_name(data)
        plan = planned(data, options, arms())
        if not options.losses:
            plan = replace(plan, loss_trials=())
        work(plan)
        kind = "test" if options.open else "validation"
        result = compared(plan, opened=options.open)
        result |= {"seeds": options.seeds, "cpu_seconds": round(time.process_time() - began)}
        if not options.open:
            result |= {"liveness": living(plan)}
        record(RESULTS, name, kind, result)
        print_differences(name, kind, result["differences"])


if __name__ == "__main__":
    main()
