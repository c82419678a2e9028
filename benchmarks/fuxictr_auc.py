"""Test AUC of FuxiCTR 2.3.10's DIN on the rows of a comparison, next to our arms.

    python benchmarks/fuxictr_auc.py --data DATA... [--work .work/arms] [--seeds 5]

Run it after ``benchmarks/arms.py`` with the same options: differences are to the saved predictions of ``id_codes``
and ``id``, paired by
row, pooled over seeds and bootstrapped over users. FuxiCTR's DIN gets the item id, the history and our numeric features, like
``id`` (``fuxictr_din``), or item id, history and user id only (``fuxictr_din_ids``). Learning rate, dropout and regularizer are
chosen on validation rows with seed 0 (for the worlds, on those of ``strong``, which runs first); test rows are scored once
per seed. Rows in the format of ``arms.json`` are written to ``auc`` in ``benchmarks/results/fuxictr.json``.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
from arms import parser_of, tuned_as
from fuxictr_peer import DIM, HIDDEN, OUT, WORK, Worker, export, kept, measure_all, prepared

from ranking.experiments.comparison.arms import CODES_AS_FEATURES, ID_ALONE
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import baseline_trials, evaluate_external
from sidkit.core.files import write_json

GRID = [(1e-3, 0.0, 0.0), (1e-3, 0.4, 1e-5), (1e-3, 0.4, 1e-4), (3e-4, 0.4, 1e-4)]
"""Learning rate, dropout of the head and regularizer of the embeddings: chosen on validation rows, with seed 0."""
INPUTS = {"fuxictr_din": ["context"], "fuxictr_din_ids": ["user_id"]}
"""What each arm gets besides the item and the history: our numeric features, or the user's id."""


def measure_auc(worker: Worker, data: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of both arms."""
    _, plan, contexts = prepared(data, [CODES_AS_FEATURES, ID_ALONE], options)
    for arm in options.inputs:
        baseline_trials(plan, arm)  # before hours are spent
    name, context = data_name(data), contexts[CODES_AS_FEATURES]
    folder = WORK / name
    export(context, folder)
    (folder / "frame").mkdir()  # FuxiCTR keeps its checkpoints under the name of its data set
    rows: list[dict[str, Any]] = []
    for arm in options.inputs:
        shared = {
            "folder": str(folder), "root": str(folder), "out": str(folder / "scores"), "context": INPUTS[arm], "dim": DIM,
            "hidden": HIDDEN, "batch": 512, "epochs": 8, "threads": options.threads,
        }  # fmt: skip
        chosen = _chosen(worker, name, arm, shared)
        scores = []
        for seed in range(options.seeds):
            worker.ask(do="fit", seed=seed, **chosen, **shared)
            scores.append(np.load(folder / "scores.test.npy").astype(np.float64))
        fresh = [row.as_json() for row in evaluate_external(name, plan, arm, scores)]
        for row in fresh:
            if row["slice"] in {"all", "cold"} and row["metric"] == "auc":
                print(row, flush=True)
        rows += fresh
    return rows


def _chosen(worker: Worker, name: str, arm: str, shared: dict[str, Any]) -> dict[str, Any]:
    """The settings of an arm. Trials are saved in the results with their validation AUC and not repeated."""
    told = kept()
    tried = told["tried"].get(tuned_as(name), {}).get(arm)
    if tried is None:
        tried = []
        for rate, drop, regularizer in GRID:
            settings = {"learning_rate": rate, "dropout": drop, "embedding_regularizer": regularizer or None}
            found = worker.ask(do="fit", seed=0, **settings, **shared)
            tried.append({"settings": settings, "validation_auc": found["best_validation_auc"]})
        told["tried"].setdefault(name, {})[arm] = tried
        write_json(OUT, told)
    print(f"{name} {arm}: {tried}", flush=True)
    best: dict[str, Any] = max(tried, key=lambda trial: trial["validation_auc"])["settings"]
    return best


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--inputs", nargs="+", choices=[*INPUTS], default=[*INPUTS])
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(origins=1)
    measure_all(parser, "auc", measure_auc)


if __name__ == "__main__":
    main()
