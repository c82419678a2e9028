"""Artefacts of adapted rankers: a small table of corrections, and the names and hashes of the frozen scorers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.dataset import Dataset
from ranking.data.schema import FeatureSchema
from ranking.training.adapters import ADAPTER_NAMES
from ranking.training.adapters.base import Adapter, AdapterRows
from ranking.training.mixing import logits, probabilities
from ranking.training.serving_spec import ServingSpec
from sidkit.core.arrays import Doubles
from sidkit.core.artifact import read_manifest, reading, write_artifact
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError
from sidkit.core.files import read_json
from sidkit.core.integrity import verify_all
from sidkit.core.plugins import described, load_plugins, write_sources

KIND = "adapted_ranker"
"""``kind`` in the manifest of such an artefact."""
CONFIG, TABLE, REINDEXED = "config.json", "adapter.parquet", "reindexed.parquet"


@dataclass(frozen=True)
class Window:
    """The labelled rows that an adapter was fitted on, half-open, microseconds UTC, and how many."""

    start_us: int
    end_us: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class AdaptedConfig(ServingSpec):
    """Configuration of an adapted ranker; ``schema`` and ``features`` are those of all its scorers."""

    arm: str
    adapter: str
    """Name in :data:`ranking.training.adapters.ADAPTERS`, or a plug-in."""
    rate: float
    """Share of positives towards which click rates are smoothed: that of the frozen scorer."""
    positives: float
    """Share of positives among the rows that the frozen scorer was trained on."""
    scorers: tuple[str, ...]
    """Names of the frozen scorer and, of a gate, of the other one."""


class AdaptedRanker:
    """A frozen scorer with an adapter: arrays in, click probabilities out.

    Parameters
    ----------
    scorers : sequence
        The frozen ranker, and the other one of a gate of two.
    adapter : Adapter
        The correction.
    config : AdaptedConfig
        What serving needs.
    """

    def __init__(self, scorers: Sequence[Any], adapter: Adapter, config: AdaptedConfig) -> None:
        self.scorers = tuple(scorers)
        self.adapter = adapter
        self.config = config

    @property
    def smoothing_rate(self) -> float:
        """Share of positives towards which click rates are smoothed."""
        return self.config.rate

    @property
    def positive_rate(self) -> float:
        """Share of positives among the training rows of the frozen scorer."""
        return self.config.positives

    @property
    def vocabulary(self) -> Any:
        """The vocabulary of the frozen scorer; only if it has one and is the only scorer."""
        if len(self.scorers) > 1:
            raise AttributeError("two scorers have vocabularies of their own")
        return self.scorers[0].vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: Any) -> None:
        self.scorers[0].vocabulary = vocabulary

    def score(self, data: Dataset) -> Doubles:
        """Predict click probabilities ``float64 [rows]``; a row whose logit is not corrected has exactly the frozen score.

        Raises
        ------
        EvaluationError
            When the dataset lacks a feature, or has other item vectors than the scorers were trained on.
        """
        scores = [scorer.score(data) for scorer in self.scorers]
        rows = AdapterRows.of(data, *map(logits, scores))
        corrected = self.adapter.logits(rows)
        return np.where(corrected == rows.logit, scores[0], probabilities(corrected))

    @classmethod
    def load(cls, folder: Path, load_scorer: Callable[[Path], Any]) -> AdaptedRanker:
        """Read an artefact and its scorers, which lie beside it, and verify all hashes.

        Parameters
        ----------
        folder : Path
            The artefact.
        load_scorer : callable
            Reads the artefact of a scorer.

        Raises
        ------
        ArtifactError
            When the folder or a scorer's is missing or modified, or a scorer is not the one that the adapter was fitted to.
        PluginError
            When the adapter is a plug-in that cannot be imported.
        """
        manifest = read_manifest(folder, verify=False)
        load_plugins(folder, manifest)
        verify_all(folder, manifest)
        with reading(folder, manifest):
            values = read_json(folder / CONFIG)
            columns = values.pop("content_columns")
            tupled = {name: tuple(values[name]) for name in ("sizes", "scorers")}
            config = AdaptedConfig(
                **{**values, **tupled, "schema": FeatureSchema.of_json(values["schema"])},
                content_columns=None if columns is None else tuple(columns),
            )
            adapter = ADAPTER_NAMES.find(config.adapter).of_table(pq.read_table(folder / TABLE))
        folders = [folder.parent / name for name in config.scorers]
        for path in folders:
            _check_scorer(folder, path, manifest)
        scorers = [load_scorer(path) for path in folders]
        if (folder / REINDEXED).exists():
            from ranking.training.reindex import extend

            extend(scorers[0], pq.read_table(folder / REINDEXED))
        return cls(scorers, adapter, config)


def save_adapted(
    rankers: Path,
    facts: Mapping[str, Any],
    config: AdaptedConfig,
    adapter: Adapter,
    window: Window,
    metrics: Mapping[str, Any],
    reindexed: pa.Table | None = None,
) -> dict[str, Any]:
    """Write the artefact of an adapted ranker beside those of its scorers; see :func:`sidkit.core.artifact.write_artifact`.

    Parameters
    ----------
    rankers : Path
        The folder of the ranker artefacts, which holds the scorers.
    facts : mapping
        Manifest fields: ``name``, ``feature_settings`` and others.
    config : AdaptedConfig
        Its ``scorers`` name the frozen rankers.
    adapter : Adapter
        The correction.
    window : Window
        The rows that it was fitted on.
    metrics : mapping
        Details of the fit.
    reindexed : pa.Table, optional
        Rows of the frozen scorer's id table for new items (:mod:`ranking.training.reindex`).
    """
    manifests = {name: read_manifest(rankers / name) for name in config.scorers}
    plugins = [ADAPTER_NAMES.plugin(config.adapter)]

    def write_files(temporary: Path) -> None:
        written = {**vars(config), "schema": config.schema.as_json()}
        (temporary / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        (temporary / "metrics.json").write_text(json.dumps(dict(metrics), indent=2, sort_keys=True) + "\n")
        pq.write_table(adapter.table(), temporary / TABLE)
        if reindexed is not None and len(reindexed):
            pq.write_table(reindexed, temporary / REINDEXED)
        write_sources(temporary, plugins)

    describe = {
        **facts,
        "kind": KIND,
        "fit_start_us": window.start_us,
        "fit_end_us": window.end_us,
        "rows": window.rows,
        "parents": [
            {"name": name, "fit_end_us": manifest["fit_end_us"], "content_hash": manifest["content_hash"]}
            for name, manifest in manifests.items()
        ],
        **described(plugins),
    }
    return write_artifact(rankers / str(facts["name"]), describe, write_files)


def _check_scorer(folder: Path, scorer: Path, manifest: Mapping[str, Any]) -> None:
    """Check that a scorer is the one that the adapter was fitted to."""
    if not scorer.is_dir():
        raise ArtifactMissingError(
            f"{scorer} does not exist, which {folder.name} corrects; restore the folder, or promote another ranker (`sidkit "
            "ranker list`)"
        )
    stated = {parent["name"]: parent["content_hash"] for parent in manifest["parents"]}
    found = read_manifest(scorer)["content_hash"]
    if stated.get(scorer.name) != found:
        raise ArtifactCorruptError(
            folder,
            f"was fitted to the ranker {scorer.name} with hash {stated.get(scorer.name)}, and that ranker now has {found}",
            "fit the adapter again with `sidkit ranker adapt`",
        )
