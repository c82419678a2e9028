"""Artefacts of external rankers: the user's files, the copied class, and what serving needs to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranking.data.dataset import Dataset
from ranking.data.project_dataset import ProjectDataset
from ranking.data.schema import FeatureSchema
from ranking.training.external_ranker import EXTERNAL_RANKERS, ExternalRanker
from ranking.training.serving_spec import ServingSpec
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Doubles
from sidkit.core.artifact import read_manifest, reading, write_artifact
from sidkit.core.errors import PluginError
from sidkit.core.files import read_json
from sidkit.core.integrity import verify_all
from sidkit.core.plugins import described, load_plugins, write_sources

KIND = "external_ranker"
"""``kind`` in the manifest of such an artefact."""
CONFIG, MODEL = "config.json", "model"


@dataclass(frozen=True, kw_only=True)
class RegisteredConfig(ServingSpec):
    """Configuration of a registered ranker."""

    ranker_class: str
    """Reference of the class."""
    rate: float
    """Share of positives towards which click rates are smoothed, in training and in serving."""
    positives: float
    """Share of positives among the rows that the model was trained on."""


class RegisteredRanker:
    """An external ranker with its configuration: arrays in, click probabilities out.

    Parameters
    ----------
    model : ExternalRanker
        The user's model.
    config : RegisteredConfig
        What serving needs.
    codebook : CodebookRecord
        The codebook of the rows.
    """

    def __init__(self, model: ExternalRanker, config: RegisteredConfig, codebook: CodebookRecord) -> None:
        self.model = model
        self.config = config
        self._codebook = codebook

    @property
    def smoothing_rate(self) -> float:
        """Share of positives towards which click rates are smoothed."""
        return self.config.rate

    @property
    def positive_rate(self) -> float:
        """Share of positives among the training rows."""
        return self.config.positives

    def score(self, data: Dataset) -> Doubles:
        """Predict click probabilities ``float64 [rows]``.

        Raises
        ------
        PluginError
            When the model returns anything else.
        EvaluationError
            When the dataset lacks a feature, or has other item vectors than the ranker was trained on.
        """
        narrow = data.narrowed(self.config.schema)
        narrow.refuse_other_vectors(self.config.vectors)
        rows = ProjectDataset(narrow, self._codebook, labelled=False, rate=self.config.rate)
        return checked_scores(self.model, rows)

    def save(self, folder: Path, describe: Mapping[str, Any]) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`."""
        plugins = [EXTERNAL_RANKERS.plugin(self.config.ranker_class)]

        def write_files(temporary: Path) -> None:
            (temporary / MODEL).mkdir()
            self.model.save(temporary / MODEL)
            values = {**vars(self.config), "schema": self.config.schema.as_json()}
            (temporary / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
            write_sources(temporary, plugins)

        return write_artifact(folder, {**describe, "kind": KIND, **described(plugins)}, write_files)

    @classmethod
    def load(cls, folder: Path, codebook: CodebookRecord) -> RegisteredRanker:
        """Read an artefact, after verifying its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing or modified.
        PluginError
            When the class cannot be imported, or cannot load its files.
        """
        manifest = read_manifest(folder, verify=False)
        load_plugins(folder, manifest)
        verify_all(folder, manifest)
        with reading(folder, manifest):
            values = read_json(folder / CONFIG)
            columns = values.pop("content_columns")
            config = RegisteredConfig(
                **{**values, "sizes": tuple(values["sizes"]), "schema": FeatureSchema.of_json(values["schema"])},
                content_columns=None if columns is None else tuple(columns),
            )
        return cls(loaded(EXTERNAL_RANKERS.find(config.ranker_class), folder / MODEL), config, codebook)


def loaded(kind: type[ExternalRanker], folder: Path) -> ExternalRanker:
    """Load the user's files with the user's class.

    Raises
    ------
    PluginError
        When it raises, or returns something else.
    """
    try:
        model = kind.load(folder)
    except Exception as error:  # a user-defined method may raise anything
        raise PluginError(
            f"{kind.__name__}.load({folder}) raised {type(error).__name__}: {error}; it must read what save wrote"
        ) from error
    if not isinstance(model, kind):
        raise PluginError(
            f"expected {kind.__name__}.load to return a {kind.__name__}, got {model!r:.80}; return cls(...)"
        )
    return model


def checked_scores(model: ExternalRanker, rows: ProjectDataset) -> Doubles:
    """The scores of a model as ``float64 [rows]``.

    Raises
    ------
    PluginError
        When they are not one probability per row.
    """
    name = type(model).__name__
    scores: Doubles = np.asarray(model.score(rows), dtype=np.float64)
    if scores.shape != (len(rows),):
        raise PluginError(
            f"expected {name}.score to return {len(rows)} numbers for {len(rows)} rows, got the shape {scores.shape}; return "
            "one probability per row, such as predict_proba(...)[:, 1]"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise PluginError(
            f"expected {name}.score to return probabilities from 0 to 1, got {scores.min():.4g} to {scores.max():.4g}; apply "
            "the sigmoid to logits"
        )
    return scores
