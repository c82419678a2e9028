"""Artefacts of blends: copies of the members' artefacts, and the weights of their logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranking.data.dataset import Dataset
from ranking.data.schema import FeatureSchema
from ranking.training.count_gate import CountGate, gate_features
from ranking.training.mixing import logits, probabilities
from ranking.training.serving_spec import ServingSpec
from sidkit.core.arrays import Doubles
from sidkit.core.artifact import read_manifest, reading, write_artifact
from sidkit.core.files import read_json

KIND = "blend_ranker"
"""``kind`` in the manifest of such an artefact."""
CONFIG, MEMBERS = "config.json", "members"


@dataclass(frozen=True, kw_only=True)
class BlendConfig(ServingSpec):
    """Configuration of a blend; its ``schema`` holds the features of all members."""

    arm: str
    rate: float
    """Share of positives towards which click rates are smoothed; that of the training rows."""
    weights: dict[str, float]
    """Member -> weight of its logit; with a gate, its mean over validation rows."""
    gate: dict[str, float] | None = None
    """The numbers of a count gate (:class:`ranking.training.count_gate.CountGate`), which weighs the first of two members."""


class BlendRanker:
    """A blend with its members: arrays in, click probabilities out.

    Parameters
    ----------
    members : mapping
        Name -> ranker with ``score``.
    config : BlendConfig
        Weights and what serving needs.
    """

    def __init__(self, members: Mapping[str, Any], config: BlendConfig) -> None:
        self.members = members
        self.config = config
        self.gate = CountGate.of_json(config.gate) if config.gate is not None else None

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
            When the dataset lacks a feature, or has other item vectors than the members were trained on.
        """
        names = sorted(self.members)
        scores = np.stack([logits(self.members[name].score(data)) for name in names])
        if self.gate is not None:
            return probabilities(self.gate.blended(gate_features(data), scores))
        return probabilities(np.array([self.config.weights[name] for name in names]) @ scores)

    @classmethod
    def load(cls, folder: Path, load_member: Callable[[Path], Any]) -> BlendRanker:
        """Read an artefact and its members, and verify their hashes.

        Parameters
        ----------
        folder : Path
            The artefact.
        load_member : callable
            Reads the artefact of a member.

        Raises
        ------
        ArtifactError
            When the folder is missing or modified.
        """
        manifest = read_manifest(folder)
        with reading(folder, manifest):
            values = read_json(folder / CONFIG)
            columns = values.pop("content_columns")
            config = BlendConfig(
                **{**values, "sizes": tuple(values["sizes"]), "schema": FeatureSchema.of_json(values["schema"])},
                content_columns=None if columns is None else tuple(columns),
            )
            members = {name: load_member(folder / MEMBERS / name) for name in sorted(config.weights)}
            return cls(members, config)


def save_blend(
    folder: Path,
    describe: Mapping[str, Any],
    config: BlendConfig,
    members: Mapping[str, Path],
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the artefact of a blend; see :func:`sidkit.core.artifact.write_artifact`.

    Parameters
    ----------
    folder : Path
        Target folder.
    describe : mapping
        Manifest fields besides the hashes.
    config : BlendConfig
        Weights and what serving needs.
    members : mapping
        Name -> folder of its artefact, which is copied: a blend can be served after its members are removed.
    metrics : mapping
        Details of the training.
    """

    def write_files(temporary: Path) -> None:
        for name, source in members.items():
            read_manifest(source)
            shutil.copytree(source, temporary / MEMBERS / name)
        written = {**vars(config), "schema": config.schema.as_json()}
        (temporary / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        (temporary / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")

    return write_artifact(folder, {**describe, "kind": KIND}, write_files)
