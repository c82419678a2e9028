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

import planning
from gates import ROOT, TRAINING, compared, living, work
from planning import print_differences, record, repo_of, spec_of, with_rows

from ranking.experiments.comparison.arms import load_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.trials import Plan

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
    repo = repo_of(data, options.work / group / data_name(data))
    arms = load_arms(list(dict.fromkeys(arm for pair in GROUPS[group] for arm in pair)))
    plan = planning.planned(repo, data, arms, spec_of(options, **TRAINING), options, seeds=1)[0]
    return replace(plan, loss_trials=())


def main() -> None:
    """Compare the arms of the groups on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "modalities")
    with_rows(parser, train=20_000, evaluation=12_000, impressions=60_000)
    options = parser.parse_args()
    for data in options.data:
        for group in options.groups:
            plan = planned(data, group, options)
            work(plan)
            result = compared(plan, opened=True, pairs=GROUPS[group])
            details = {trial.arm: plan.details(trial) for trial in plan.trials}
            result["cpu_seconds"] = {arm: each.cpu_seconds for arm, each in details.items() if each is not None}
            result["liveness"] = living(plan, "ccfrec|hisam|mmq")
            record(RESULTS, data_name(data), group, result)
            print_differences(data_name(data), group, result["differences"])


if __name__ == "__main__":
    main()
