"""Permutation importance of the features of a run: of boosting, measured in training, and of the serving ranker."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ranking.evaluation.importance import Importance, permutation_importance
from ranking.training.arms import TrainingContext
from ranking.training.load_ranker import load_trained
from ranking.training.predictions import read_details
from sidkit.core.files import read_json, write_json
from sidkit.core.records import record_json, record_of
from sidkit.core.stages import StageResult

IMPORTANCE = "importance.json"
"""File in the folder of a run with the importance of the serving ranker's features."""
_COLUMNS = ("arm", "feature", "slice", "drop", "spread")


def measure(folder: Path, rankers: Path, name: str, arm: str, context: TrainingContext) -> StageResult:
    """Measure a saved ranker on validation rows and write the result to the folder of a run."""
    ranker = load_trained(rankers / name)
    validation = context.validation.with_vectors(ranker.config.vectors, context.decode)
    measured = permutation_importance(ranker.score, validation)
    path = folder / IMPORTANCE
    write_json(path, {"arm": arm, "importance": [record_json(each) for each in measured]})
    return StageResult(len(validation), {}, (path,))


def read_importance(folder: Path) -> pd.DataFrame:
    """The importance of all features of a run, one row per arm, feature and slice; empty if none was measured."""
    found = [
        (path.name.removesuffix("-s0.parquet"), path) for path in sorted((folder / "predictions").glob("*-s0.parquet"))
    ]
    measured = [(arm, read_details(path).get("importance") or [], path) for arm, path in found]
    path = folder / IMPORTANCE
    if path.exists():
        serving = read_json(path)
        if serving["arm"] not in {arm for arm, listed, _ in measured if listed}:  # boosting is measured in training
            measured.append((serving["arm"], serving["importance"], path))
    rows = [
        (arm, each.feature, each.slice, each.drop, each.spread)
        for arm, listed, path in measured
        for each in (record_of(Importance, values, path) for values in listed)
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"drop": float, "spread": float})
