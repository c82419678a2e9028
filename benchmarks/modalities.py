"""CCFRec, Hi-SAM and MMQ-v2: arms against the same inputs as plain features, and against their controls.

    python benchmarks/modalities.py --data DATA... [--groups ccfrec hisam mmq] [--work .work/modalities]

One time origin and one seed, the split of the repository, at most 20,000 training rows and 12,000 test rows (samples of users).
Settings of the preset ``rqkmeans``, with a rate of 1.5e-4 for tables and at most 10 epochs; nothing was tuned. Differences are
on test rows; one training decides nothing. Results go to ``benchmarks/results/modalities.json``, one entry per data set
and group. Saved trials are not repeated.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

from gates import ROOT, TRAINING, compared, living, work
from rich.console import Console

from ranking.experiments.comparison.arms import load_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison, data_name
from ranking.experiments.comparison.trials import Plan
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from sidkit.api.progress import LineProgress
from sidkit.core.files import read_json, write_json

RESULTS = ROOT / "benchmarks" / "results" / "modalities.json"
GROUPS = {
    "ccfrec": (("ccfrec", "id_content_codes_views"), ("ccfrec", "ccfrec_shuffled")),
    "hisam": (
        ("hisam", "id_codes_shared_private"),
        ("hisam", "hisam_shuffled"),
        ("id_codes_shared_private", "id_codes"),
    ),
    "mmq": (
        ("mmq", "id_content_codes_mass"),
        ("mmq", "mmq_shuffled"),
        ("id_codes_mass", "id_codes_behaviour"),
        ("id_codes_mass", "id_codes_mass_shuffled"),
    ),
}
"""Pairs of arm and the arm that it is compared with, by group."""


def planned(data: str, group: str, options: argparse.Namespace) -> Plan:
    """Prepare the frames of a data set and list the trials of a group."""
    repo = prepare_repo(data, options.work / group / data_name(data))
    spec = load_preset("rqkmeans").ranker
    rows = {"max_train_rows": options.max_train_rows, "max_evaluation_rows": options.max_evaluation_rows}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={**TRAINING, **rows})})
    arms = load_arms(list(dict.fromkeys(arm for pair in GROUPS[group] for arm in pair)))
    asked = CompareOptions(data, arms, spec, 1, origins=1, impressions=options.impressions, equal_budgets=False)
    with repo.locked():
        plan = Comparison(repo, asked, LineProgress(Console())).plan()[0]
    return replace(plan, loss_trials=())


def main() -> None:
    """Compare the arms of the groups on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "modalities")
    parser.add_argument("--max-train-rows", type=int, default=20_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=12_000)
    parser.add_argument("--impressions", type=int, default=60_000, help="of a synthetic world")
    options = parser.parse_args()
    for data in options.data:
        for group in options.groups:
            plan = planned(data, group, options)
            work(plan)
            result = compared(plan, opened=True, pairs=GROUPS[group])
            details = {trial.arm: plan.details(trial) for trial in plan.trials}
            result["cpu_seconds"] = {arm: each.cpu_seconds for arm, each in details.items() if each is not None}
            result["liveness"] = living(plan, "ccfrec|hisam|mmq")
            name, held = data_name(data), read_json(RESULTS) if RESULTS.exists() else {}
            write_json(RESULTS, {**held, name: {**held.get(name, {}), group: result}})
            for each in result["differences"]:
                print(
                    f"{name} {each['slice']}: {each['arm']} - {each['baseline']} {each['value']:+.4f} "
                    f"[{each['low']:+.4f}, {each['high']:+.4f}] ({each['positives']} positives)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
