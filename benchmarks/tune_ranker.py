"""Choose the defaults of ``[ranker]`` on validation rows: a random search that never reads a test row.

    python benchmarks/tune_ranker.py --repos REPO... [--trials 16] [--seed 0]

Each REPO is one on which ``sidkit run`` has finished; its kept frame is used. Every trial trains the arms ``id`` and
``id_codes`` on each repo and is scored by the mean validation AUC, overall and on cold rows (item with under 10 earlier
interactions), as differences from the first trial, which is the present default. Results go to
``benchmarks/results/tune_ranker.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np

from ranking.evaluation.metrics import auc
from ranking.evaluation.slices import prior_interactions
from ranking.features import Scaling, feature_names
from ranking.frame_store import load_training_set
from ranking.model import CtrModel
from ranking.model_spec import ModelSpec
from ranking.presets import load_preset
from ranking.representations.base import ItemShape
from ranking.split import TimeSplit
from ranking.tensors import TensorSet, Vocabulary
from ranking.train import predict, train
from ranking.training_set import TrainingSet
from ranking.training_spec import TrainingSpec
from sidkit.repo import Repo

ARMS = {"id": ("id",), "id_codes": ("id", "prefix_ngram")}
CHOICES: dict[str, list[Any]] = {
    "model.dim": [8, 16, 32],
    "model.hidden": [(64, 32), (128, 64), (32,)],
    "model.dropout": [0.1, 0.25, 0.4],
    "training.batch_rows": [512, 1024],
    "training.learning_rate": [3e-4, 5e-4, 1e-3, 2e-3],
    "training.table_learning_rate": [2e-4, 5e-4, 1e-3, 2e-3],
    "training.weight_decay": [0.01, 0.1],
    "training.table_weight_decay": [0.01, 0.1, 1.0],
}


@dataclasses.dataclass(frozen=True)
class Data:
    name: str
    train: TrainingSet
    validation: TrainingSet
    shape: ItemShape


def read(path: Path) -> Data:
    repo = Repo.open(path)
    frame = load_training_set(repo.runs / "rqkmeans" / "frame")
    split = TimeSplit.of(_row_times(repo), repo.settings.split)
    parts = split.parts(frame.rows.at_us)
    train_rows = frame.take(parts["train"])
    vocabulary = Vocabulary.fit(train_rows.rows.item_ids)
    levels = frame.items.codes.shape[1]
    size = int(frame.items.codes.max()) + 1
    shape = ItemShape(vocabulary.size, (size,) * levels, frame.items.content.shape[1])
    return Data(path.name, train_rows, frame.take(parts["validation"]), shape)


def _row_times(repo: Repo) -> Any:
    from ranking.training_set import read_rows

    return read_rows(repo.labelled_rows).at_us


def trial(data: Data, model: ModelSpec, training: TrainingSpec, seed: int) -> dict[str, float]:
    label = data.validation.rows.label
    cold = prior_interactions(data.validation) < 10
    vocabulary = Vocabulary.fit(data.train.rows.item_ids)
    scaling = Scaling.fit(data.train.numeric, float(data.train.rows.label.mean()))
    sets = [TensorSet(part, scaling, vocabulary) for part in (data.train, data.validation)]
    found = {}
    for arm, representations in ARMS.items():
        trained = train(
            lambda representations=representations: CtrModel(representations, data.shape, len(feature_names()), model),
            *sets, training, seed=seed, threads=2,
        )  # fmt: skip
        score = predict(trained.model, sets[1])
        found[f"{arm}.all"] = auc(label, score)
        found[f"{arm}.cold"] = auc(label[cold], score[cold]) if len(np.unique(label[cold])) == 2 else float("nan")
    return found


def drawn(rng: np.random.Generator, model: ModelSpec, training: TrainingSpec) -> tuple[ModelSpec, TrainingSpec]:
    changes: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    for key, options in CHOICES.items():
        section, name = key.split(".")
        changes[section][name] = options[int(rng.integers(len(options)))]
    return model.model_copy(update=changes["model"]), training.model_copy(update=changes["training"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repos", nargs="+", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="training seeds per trial")
    options = parser.parse_args()
    preset = load_preset("rqkmeans").ranker
    sets = [read(path) for path in options.repos]
    rng = np.random.default_rng(options.seed)
    results: list[dict[str, Any]] = []
    out = Path(__file__).parent / "results" / "tune_ranker.json"
    out.parent.mkdir(exist_ok=True)
    for number in range(options.trials):
        specs = (preset.model, preset.training) if number == 0 else drawn(rng, preset.model, preset.training)
        began = time.monotonic()
        found = {
            data.name: {
                key: float(np.mean([run[key] for run in runs]))
                for runs in [[trial(data, *specs, seed) for seed in range(options.seeds)]]
                for key in runs[0]
            }
            for data in sets
        }
        seconds = time.monotonic() - began
        base = results[0]["validation"] if results else found
        gains = [found[name][key] - base[name][key] for name in found for key in found[name]]
        results.append(
            {
                "trial": number,
                "model": specs[0].model_dump(mode="json"),
                "training": specs[1].model_dump(mode="json"),
                "validation": found,
                "gain": float(np.nanmean(gains)),
                "seconds": seconds,
            }
        )
        print(f"trial {number}: gain {results[-1]['gain']:+.5f} in {seconds:.0f} s {found}", flush=True)
        out.write_text(json.dumps({"repos": [data.name for data in sets], "trials": results}, indent=2) + "\n")
    best = max(results, key=lambda result: result["gain"])
    print(f"best: trial {best['trial']} {best['model']} {best['training']}")


if __name__ == "__main__":
    main()
