"""Choose the training settings shipped with all presets: one choice for all data sets, on validation rows only.

    python benchmarks/tune_presets.py [--data DATA...] [--work .work/arms] [--jobs 2]

Each trial trains the arms of the three presets (id and codes as plain features, SaviorRec, SMILE with content) on every data
set, like ``benchmarks/tune_ranker.py`` and on its frames. A trial's gain on a data set is relative to the first trial; the
trial with the best mean gain is chosen, among those that lose at most ``MOST_LOST`` on every data set. Results go to
``benchmarks/results/tune_presets.json``.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"  # processes, not threads

import numpy as np
from arms import BASE, ROOT, parser_of
from tune_ranker import measured, prepared, workers

from ranking.experiments.comparison.comparison import data_name
from sidkit.core.files import read_json, write_json

RESULTS = ROOT / "benchmarks" / "results" / "tune_presets.json"
ARMS = ["id_codes", "saviorrec", "smile_content"]
SLOW = {"training.epochs": 24, "training.table_learning_rate": 5e-5, "training.table_weight_decay": 0.1}
"""Tables a tenth as fast, and three times the epochs for the data sets on which that takes longer."""
TRIALS: list[dict[str, Any]] = [
    BASE,
    BASE | SLOW | {"model.dropout": 0.2, "model.id_dropout": 0.3},
    BASE | SLOW | {"model.dropout": 0.4, "model.id_dropout": 0.5},
    BASE | SLOW | {"model.dropout": 0.2, "model.id_dropout": 0.5, "training.learning_rate": 1e-3},
]
MOST_LOST = 0.0005


def gained(trial: dict[str, Any], first: dict[str, Any]) -> dict[str, float]:
    """Gains of a trial over another, per data set."""
    return {data: told["worth"] - first["data"][data]["worth"] for data, told in trial["data"].items()}


def chosen(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the best mean gain, among those that lose at most ``MOST_LOST`` on every data set."""
    safe = [trial for trial in trials if min(trial["gain"].values()) >= -MOST_LOST]
    return max(safe, key=lambda trial: float(np.mean(list(trial["gain"].values()))))


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(seeds=1, origins=1)
    options = parser.parse_args()
    held = read_json(RESULTS)["trials"] if RESULTS.exists() else []
    trials: list[dict[str, Any]] = [
        {"settings": settings, "data": next((one["data"] for one in held if one["settings"] == settings), {})}
        for settings in TRIALS
    ]
    for data in options.data:
        name = data_name(data)
        missing = [trial for trial in trials if name not in trial["data"]]
        if not missing:
            continue
        plan, contexts = prepared(data, options, ARMS)
        with workers(plan, contexts, options.jobs) as pool:
            for trial in missing:
                told = measured(pool, plan.trials, trial["settings"])
                trial["data"][name] = {"worth": told["worth"], "validation": told["validation"]}
                print(name, trial["settings"], trial["data"][name], flush=True)
        trials = [{**trial, "gain": gained(trial, trials[0])} for trial in trials]
        write_json(RESULTS, {"chosen": chosen(trials)["settings"], "trials": trials})
    for trial in trials:
        print(trial["settings"], gained(trial, trials[0]))


if __name__ == "__main__":
    main()
