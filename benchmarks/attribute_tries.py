"""Whether features taken from product descriptions help on UCI Online Retail, whose only attribute is the price.

    python benchmarks/attribute_tries.py --data FOLDER [--work .work/attribute_tries] [--seeds 3] [--max-train-rows 30000]

Copies the source with the columns of ``described_items.py``, adds counts per user and value (``[features] affinity``), and
builds one frame, so that every try has the same rows. Boosting with one seed is compared on validation rows. The try with the
best validation AUC is then trained with shuffled features as a control; and with every seed, as are both arms with the built-in
features alone, and compared on the test window. Each training is saved in the work folder when it ends, so that an interrupted
run resumes. Results go to ``benchmarks/results/attribute_tries.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
from arms import ROOT
from attributes import ARMS, PLAIN, framed
from described_items import write_described

from ranking.data.numeric_features import numeric_columns
from ranking.pipeline.evaluation import evaluate_arms
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import Preset
from ranking.training.arms import TrainingContext, train_arm
from sidkit.core.files import write_json
from sidkit.core.records import record_json
from sidkit.core.repo import Repo

RESULTS = ROOT / "benchmarks" / "results" / "attribute_tries.json"
AFFINITY = ("item_id", "words", "noun", "price_band")
BUILT_IN = "built-in only"
TRIES: dict[str, tuple[str, ...]] = {
    "attributes of the description": ("item_attributes__", "affinity__"),
    "counts per user and item": ("user_item_id_stats__",),
    "counts per user and value": tuple(f"user_{name}_stats__" for name in AFFINITY[1:]),
    "counts per user and item or value": tuple(f"user_{name}_stats__" for name in AFFINITY),
}
"""Try -> prefixes of the features that it adds to the built-in ones."""
SHUFFLED = ", shuffled"
"""Suffix of the control of a try: its features are those of other rows of the same part."""


def described_repo(data: Path, work: Path) -> tuple[Repo, str]:
    """A repository of the described source, with counts per user and value."""
    source = str(write_described(data, work / "source"))
    repo = prepare_repo(source, work / "repo")
    settings = repo.path / "sidkit.toml"
    text = settings.read_text()
    if "affinity = " not in text:
        settings.write_text(text.replace("[features]\n", f"[features]\naffinity = {json.dumps(AFFINITY)}\n", 1))
    return Repo.open(repo.path), source


class Trainings:
    """Trains an arm with some features and a seed, or reads what an earlier run has trained."""

    def __init__(self, context: TrainingContext, preset: Preset, folder: Path) -> None:
        self.names = context.train.schema.names
        self._context = dataclasses.replace(context, importance=False)
        self._preset, self._folder = preset, folder
        folder.mkdir(parents=True, exist_ok=True)

    def features(self, name: str) -> tuple[str, ...]:
        """The features of a try besides the built-in ones."""
        prefixes = TRIES.get(name.removesuffix(SHUFFLED), ())
        return tuple(each for each in self.names if each.startswith(prefixes)) if prefixes else ()

    def result(self, arm: str, name: str, seed: int) -> dict[str, Any]:
        """``validation_auc``, and the click probabilities ``test``."""
        file = self._folder / f"{arm}-{name.replace(' ', '_')}-{seed}.npz"
        if not file.exists():
            spec = self._preset.arms[arm].model_copy(update={"features": self.features(name)})
            trained = train_arm(self._data(name), arm, spec, seed, f"{arm}-{seed}")
            print(f"{arm}, {name}, seed {seed}: validation AUC {trained.validation_auc:.4f}", flush=True)
            with (part := file.with_suffix(".part")).open("wb") as opened:
                np.savez(opened, validation_auc=trained.validation_auc, test=trained.test)
            part.rename(file)
        with np.load(file) as saved:
            return {"validation_auc": float(saved["validation_auc"]), "test": saved["test"]}

    def _data(self, name: str) -> TrainingContext:
        if not name.endswith(SHUFFLED):
            return self._context
        whole, features = self._context, self.features(name)
        train, validation, test = (shuffled(each, features) for each in (whole.train, whole.validation, whole.test))
        return dataclasses.replace(whole, train=train, validation=validation, test=test)


def shuffled(data: Any, features: tuple[str, ...]) -> Any:
    """The same rows, each with these numbers of another row."""
    first, numeric = len(numeric_columns()), data.numeric.copy()
    places = [first + at for at, each in enumerate(data.schema.numbers) if each.name in features]
    numeric[:, places] = numeric[np.random.default_rng(0).permutation(len(numeric))][:, places]
    return dataclasses.replace(data, numeric=numeric)


def main() -> None:
    """Compare the tries on validation rows, and the best one with the built-in features on the test window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "attribute_tries")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-train-rows", type=int, default=30_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=40_000)
    options = parser.parse_args()
    repo, source = described_repo(options.data, options.work)
    context, preset, rows = framed(repo, source, options)
    sized = f"{options.max_train_rows}-{options.max_evaluation_rows}"
    trainings = Trainings(context, preset, options.work / "trainings" / sized)
    validation = {name: trainings.result("gbdt", name, 0)["validation_auc"] for name in (BUILT_IN, *TRIES)}
    chosen = max(TRIES, key=lambda name: validation[name])
    control = chosen + SHUFFLED
    validation[control] = trainings.result("gbdt", control, 0)["validation_auc"]
    predictions = {
        arm + suffix: [trainings.result(arm, name, seed)["test"] for seed in range(options.seeds)]
        for arm in ARMS
        for suffix, name in (("", chosen), (PLAIN, BUILT_IN))
    }
    evaluation = evaluate_arms(context.test, predictions, [f"{arm}{PLAIN}" for arm in ARMS], None)
    result = {
        "seeds": options.seeds,
        "rows": rows,
        "validation_auc_of_boosting": validation,
        "chosen": chosen,
        "features": {name: list(trainings.features(name)) for name in TRIES},
        "arms": {arm: {name: metrics.auc for name, metrics in by.items()} for arm, by in evaluation.arms.items()},
        "differences": [record_json(each) for each in evaluation.differences if each.arm + PLAIN == each.baseline],
    }
    write_json(RESULTS, result)
    print(json.dumps({"validation": validation, "chosen": chosen, "arms": result["arms"]}, indent=1))
    for each in result["differences"]:
        print(
            f"{each['arm']} on {each['slice']}: {each['value']:+.4f} [{each['low']}, {each['high']}] {each['verdict']}"
        )


if __name__ == "__main__":
    main()
