"""Choose the settings of gradient boosting by random search on validation rows; test rows are never scored.

    python benchmarks/tune_boosting.py --data DATA... [--work .work/arms] [--trials 12] [--libraries sklearn lightgbm]

Prepares the same data as ``benchmarks/arms.py`` in the same work folder. Trial 0 is ``BEFORE``, the fixed settings of earlier
versions; the others are drawn once and are the same for all data sets and both libraries. A trial's figure is its validation
AUC with one seed. ``chosen`` is the best trial of scikit-learn per data set whose trials had all rows, which
``benchmarks/arms.py`` reads; ``default`` is
the one choice for all data sets, which is the default of ``[arms.NAME.boosting]``: the best mean gain over trial 0 among trials
that lose nothing on any data set, with ``DEFAULT_TREES`` trees, since more trees cannot lower the best validation AUC. LightGBM
runs in an environment of its own (``.work/lightgbm``, installed from PyPI if missing) on the same features, also with a share
of the rows per tree. ``--beside`` runs all trials with both libraries on the same rows and writes them to ``beside``; they do
not change what is chosen. ``--confirm`` measures trial 0 and the default on all rows of the data sets whose trials had fewer
(``--rows``), and writes them to ``confirmed``. Saved trials are not repeated. Results go to
``benchmarks/results/tune_boosting.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from arms import BOOSTED, ROOT, parser_of
from tune_ranker import prepared

from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import auc
from ranking.experiments.comparison.comparison import data_name
from ranking.training.arms import TrainingContext
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import boost, boosted_features
from sidkit.core.files import read_json, write_json

WORK = ROOT / ".work" / "lightgbm"
PINS = ("lightgbm==4.7.0",)
WORKER = Path(__file__).with_name("lightgbm_worker.py")
BEFORE: dict[str, Any] = {
    "trees": 400, "learning_rate": 0.05, "leaves": 31, "leaf_rows": 40, "l2": 1.0, "feature_share": 1.0, "content_axes": 16,
    "history_axes": 0, "similarities": ["mean", "nearest"], "row_share": 1.0,
}  # fmt: skip
CHOICES: dict[str, list[Any]] = {
    "learning_rate": [0.03, 0.05, 0.1],
    "leaves": [7, 15, 31],
    "leaf_rows": [20, 40, 100, 200],
    "l2": [1.0, 10.0, 50.0],
    "feature_share": [0.2, 0.5, 1.0],
    "content_axes": [0, 8, 16, 32],
    "history_axes": [0, 8],
    "similarities": [
        ["mean", "nearest"],
        ["mean", "nearest", "newest"],
        ["mean", "nearest", "nearest_5", "newest", "newest_5"],
    ],
    "row_share": [0.5, 0.8, 1.0],
}
"""``row_share`` is LightGBM's alone; scikit-learn grows every tree on all rows."""
MOST_TREES = 400
DEFAULT_TREES = 800
LIBRARIES = ("sklearn", "lightgbm")


def drawn(count: int, seed: int) -> list[dict[str, Any]]:
    """The settings of all trials."""
    rng = np.random.default_rng(seed)
    trials = [BEFORE]
    for _ in range(count - 1):
        one = {key: values[int(rng.integers(len(values)))] for key, values in CHOICES.items()}
        trials.append({**one, "trees": MOST_TREES})
    return trials


def thinned(data: Dataset, rows: int) -> Dataset:
    """Evenly spaced rows; all if there are no more."""
    return data if len(data) <= rows else data.take(np.linspace(0, len(data) - 1, rows).astype(np.int64))


def context_of(data: str, options: argparse.Namespace) -> TrainingContext:
    """The rows of a data set with the features that the arm ``gbdt`` reads."""
    plan, contexts = prepared(data, options, ["gbdt"])
    (context,) = contexts.values()
    return context.narrowed(plan.arms["gbdt"])


def fewer(context: TrainingContext, rows: int) -> TrainingContext:
    """Evenly spaced training and validation rows."""
    train, validation = thinned(context.train_in_memory(), rows), thinned(context.validation, rows)
    return replace(context, train=train, validation=validation)


def spec_of(settings: Mapping[str, Any]) -> BoostingSpec:
    """The settings of scikit-learn's trees and of the features."""
    return BoostingSpec.model_validate({key: value for key, value in settings.items() if key != "row_share"})


def by_sklearn(context: TrainingContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Validation AUC, trees and CPU seconds of the package's own boosting."""
    began = time.process_time()
    columns = context.serving.content_columns
    found = boost(context.train_in_memory(), context.validation, (), seed=0, spec=spec_of(settings), columns=columns)
    return {"auc": found.validation_auc, "trees": found.trees, "seconds": round(time.process_time() - began, 1)}


def by_lightgbm(context: TrainingContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of LightGBM on the same features."""
    folder, columns, spec = WORK / "frame", context.serving.content_columns, spec_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    train = context.train_in_memory()
    np.save(folder / "train.npy", boosted_features(train, columns, spec))
    np.save(folder / "label.npy", train.rows.label)
    np.save(folder / "validation.npy", boosted_features(context.validation, columns, spec))
    told = json.dumps({**settings, "seed": 0})
    done = subprocess.run([environment(), WORKER, folder, told], check=True, capture_output=True, text=True)
    label = context.validation.rows.label
    reached = [auc(label, scores) for scores in np.load(folder / "scores.npy")]
    best = int(np.argmax(reached))
    return {"auc": reached[best], "trees": 10 * (best + 1), "seconds": round(json.loads(done.stdout)["seconds"], 1)}


def environment() -> Path:
    """The Python interpreter of LightGBM's environment; installed from PyPI if missing."""
    interpreter = WORK / "venv" / "bin" / "python"
    if not (WORK / "venv" / ".made").exists():
        subprocess.run([sys.executable, "-m", "venv", str(WORK / "venv")], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *PINS], check=True)
        (WORK / "venv" / ".made").touch()
    return interpreter


def gains(trial: Mapping[str, Any], first: Mapping[str, Any], library: str) -> dict[str, float]:
    """Gain in AUC of a trial over trial 0 with scikit-learn, per data set."""
    return {data: figures["auc"] - first["sklearn"][data]["auc"] for data, figures in trial[library].items()}


def summary(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The default, and the best trial per data set."""
    first = trials[0]
    names = list(first["sklearn"])
    whole = [trial for trial in trials if set(trial["sklearn"]) == set(names)]
    safe = [trial for trial in whole if min(gains(trial, first, "sklearn").values()) >= 0]
    default = max(safe, key=lambda trial: float(np.mean(list(gains(trial, first, "sklearn").values()))))
    best = {
        library: {
            name: max((one for one in trials if name in one[library]), key=lambda one: one[library][name]["auc"])
            for name in names
            if any(name in one[library] for one in trials)
        }
        for library in LIBRARIES
    }
    return {
        "default": {**default["settings"], "trees": DEFAULT_TREES},
        "default_gain": gains(default, first, "sklearn"),
        "chosen": {
            name: trial["settings"] for name, trial in best["sklearn"].items() if not trial["sklearn"][name]["thinned"]
        },
        "best": {
            library: {name: trial[library][name]["auc"] for name, trial in by_name.items()}
            for library, by_name in best.items()
        },
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--confirm", action="store_true", help="measure the default on all rows instead")
    parser.add_argument("--beside", action="store_true", help="run both libraries on the same rows, and choose nothing")
    parser.add_argument("--rows", type=int, default=150_000, help="rows of each part at most, evenly spaced")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    parser.set_defaults(seeds=1, origins=1)
    options = parser.parse_args()
    held = read_json(BOOSTED).get("trials", []) if BOOSTED.exists() else []
    trials: list[dict[str, Any]] = [
        next(
            (one for one in held if one["settings"] == settings), {"settings": settings, "sklearn": {}, "lightgbm": {}}
        )
        for settings in drawn(options.trials, options.seed)
    ]
    for data in options.data:
        if options.confirm:
            confirmed(data, options)
        elif options.beside:
            beside(data, options)
        else:
            measured(data, options, trials)


def confirmed(data: str, options: argparse.Namespace) -> None:
    """Measure the former settings and the default on all rows of one data set."""
    told, name = read_json(BOOSTED), data_name(data)
    told |= summary(told["trials"])
    known = told.setdefault("confirmed", {}).setdefault(name, {})
    context = context_of(data, options)
    rows = {"train": len(context.train), "validation": len(context.validation)}
    for key, settings in (("former", BEFORE), ("default", told["default"])):
        if known.get(key, {}).get("settings") != settings:
            known[key] = {**by_sklearn(context, settings), "rows": rows, "settings": settings}
            print(name, key, known[key], flush=True)
            write_json(BOOSTED, told)


def beside(data: str, options: argparse.Namespace) -> None:
    """Run all trials of one data set with both libraries, on the same rows, and save them after each."""
    name, context = data_name(data), fewer(context_of(data, options), options.rows)
    rows = {"train": len(context.train), "validation": len(context.validation)}
    held = read_json(BOOSTED)
    known = held.setdefault("beside", {}).get(name, {})
    found = known if known.get("rows") == rows else {"rows": rows, "trials": []}
    for settings in drawn(options.trials, options.seed):
        if any(trial["settings"] == settings for trial in found["trials"]):
            continue
        figures = {"sklearn": by_sklearn(context, settings), "lightgbm": by_lightgbm(context, settings)}
        found["trials"].append({"settings": settings, **figures})
        print(name, len(found["trials"]) - 1, figures, flush=True)
        held["beside"][name] = found
        write_json(BOOSTED, held)


def measured(data: str, options: argparse.Namespace, trials: list[dict[str, Any]]) -> None:
    """Run the missing trials of one data set, saving after each."""
    name = data_name(data)
    missing = [(trial, library) for library in options.libraries for trial in trials if name not in trial[library]]
    if not missing:
        return
    context = context_of(data, options)
    whole = len(context.train)
    context = fewer(context, options.rows)
    rows = {"train": len(context.train), "validation": len(context.validation)}
    for trial, library in missing:
        measure = by_sklearn if library == "sklearn" else by_lightgbm
        trial[library][name] = {**measure(context, trial["settings"]), "rows": rows, "thinned": rows["train"] < whole}
        print(name, library, trials.index(trial), trial[library][name], flush=True)
        held = read_json(BOOSTED) if BOOSTED.exists() else {}
        write_json(BOOSTED, {**held, **summary(trials), "trials": trials})


if __name__ == "__main__":
    main()
