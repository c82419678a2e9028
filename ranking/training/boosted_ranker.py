"""Artefacts of gradient boosting that may serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranking.data.batches import NO_INPUTS
from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.schema import FeatureSchema
from ranking.training.boosted_trees import BoostedTrees
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import SavedTrees, boosted_features
from ranking.training.serving_spec import ServingSpec
from sidkit.core.arrays import Doubles
from sidkit.core.artifact import read_manifest, reading, write_artifact
from sidkit.core.files import read_json

KIND = "boosted_ranker"
"""``kind`` in the manifest of such an artefact."""
CONFIG, TREES = "config.json", "trees.safetensors"


@dataclass(frozen=True, kw_only=True)
class BoostedConfig(ServingSpec):
    """Configuration of a boosted ranker: everything besides its trees that affects scores."""

    arm: str
    rate: float
    """Share of positives towards which click rates are smoothed; that of the training rows."""
    boosting: BoostingSpec
    inputs: CodedInputs = NO_INPUTS
    """What the trees read of coded features."""
    unknown: tuple[int, ...] = ()
    """Indices of the features that no training row had; they are 0."""

    def as_json(self) -> dict[str, Any]:
        """The values of ``config.json``."""
        boosting = self.boosting.model_dump(mode="json")
        return {**vars(self), "schema": self.schema.as_json(), "inputs": self.inputs.as_json(), "boosting": boosting}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> BoostedConfig:
        """Read the values of :meth:`as_json`; missing or unknown keys raise TypeError, KeyError or ValueError."""
        read: dict[str, Any] = {
            "schema": FeatureSchema.of_json(values["schema"]),
            "inputs": CodedInputs.of_json(values["inputs"]),
            "boosting": BoostingSpec(**{key: _tupled(value) for key, value in values["boosting"].items()}),
        }
        return cls(**{key: _tupled(value) for key, value in values.items() if key not in read}, **read)


class BoostedRanker:
    """Gradient boosting with its configuration: arrays in, click probabilities out.

    Parameters
    ----------
    trees : BoostedTrees
        The trees.
    config : BoostedConfig
        Features of the trees and what serving needs.
    """

    def __init__(self, trees: BoostedTrees, config: BoostedConfig) -> None:
        self.trees = trees
        self.config = config

    @property
    def smoothing_rate(self) -> float:
        """Share of positives towards which click rates are smoothed."""
        return self.config.rate

    @property
    def positive_rate(self) -> float:
        """Share of positives among the training rows."""
        return self.config.rate

    def score(self, data: Dataset) -> Doubles:
        """Predict click probabilities ``float64 [rows]``; scores do not depend on other rows.

        Raises
        ------
        EvaluationError
            When the dataset lacks a feature, or has other item vectors than the ranker was trained on.
        """
        rows = data.narrowed(self.config.schema)
        rows.refuse_other_vectors(self.config.vectors)
        features = boosted_features(rows, self.config.content_columns, self.config.boosting, self.config.inputs)
        features[:, list(self.config.unknown)] = 0
        probability: Doubles = 1 / (1 + np.exp(-self.trees.logits(features)))
        return probability

    def save(self, folder: Path, describe: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`."""
        from safetensors.numpy import save_file

        def write_files(temporary: Path) -> None:
            save_file(self.trees.arrays(), temporary / TREES)
            (temporary / CONFIG).write_text(json.dumps(self.config.as_json(), indent=2, sort_keys=True) + "\n")
            (temporary / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")

        return write_artifact(folder, {**describe, "kind": KIND}, write_files)

    @classmethod
    def load(cls, folder: Path) -> BoostedRanker:
        """Read an artefact and verify its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing or modified.
        """
        from safetensors.numpy import load_file

        manifest = read_manifest(folder)
        with reading(folder, manifest):
            config = BoostedConfig.of_json(read_json(folder / CONFIG))
            trees = BoostedTrees.of_arrays(load_file(folder / TREES))
        return cls(trees, config)


def save_trees(
    saved: SavedTrees, folder: Path, describe: Mapping[str, Any], metrics: Mapping[str, Any], **stated: Any
) -> None:
    """Save trees as a ranker artefact; ``stated`` are the fields of :class:`BoostedConfig` besides those of the trees."""
    config = BoostedConfig(inputs=saved.inputs, unknown=saved.unknown, **stated)
    BoostedRanker(saved.trees, config).save(folder, describe, metrics)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
