"""Artefacts of rankers with a re-ranker: the ranker's artefact, the re-ranker's weights and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranking.data.dataset import Dataset
from ranking.data.vocabulary import Vocabulary
from ranking.models.rerank_spec import RerankSpec
from ranking.models.rerankers import RERANKER_NAMES
from ranking.models.rerankers.base import Reranker
from ranking.training.mixing import probabilities
from ranking.training.ranker import METRICS, Ranker, RankerConfig
from ranking.training.rerank_inputs import RequestBatches, shape_of
from ranking.training.rerank_training import changed_logits
from sidkit.core.arrays import Doubles
from sidkit.core.artifact import read_manifest, reading, write_artifact
from sidkit.core.files import read_json
from sidkit.core.integrity import verify_all
from sidkit.core.plugins import described, load_plugins, write_sources

KIND = "reranked_ranker"
"""``kind`` in the manifest of such an artefact."""
BASE, CONFIG, TENSORS = "base", "reranker.json", "reranker.safetensors"


class RerankedRanker:
    """A neural ranker and a re-ranker: arrays in, click probabilities out.

    Parameters
    ----------
    base : Ranker
        The ranker.
    reranker : Reranker
        Changes its logits, request by request.
    name : str
        Name of the re-ranker in :data:`ranking.models.rerankers.RERANKERS`, or a plug-in.
    """

    def __init__(self, base: Ranker, reranker: Reranker, name: str) -> None:
        self.base, self.reranker, self.name = base, reranker, name

    @property
    def config(self) -> RankerConfig:
        """Configuration of the ranker, which is all that serving needs."""
        return self.base.config

    @property
    def smoothing_rate(self) -> float:
        """Share of positives towards which click rates are smoothed."""
        return self.base.smoothing_rate

    @property
    def positive_rate(self) -> float:
        """Share of positives among the training rows."""
        return self.base.positive_rate

    @property
    def vocabulary(self) -> Vocabulary:
        """The ranker's vocabulary."""
        return self.base.vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: Vocabulary) -> None:
        self.base.vocabulary = vocabulary

    def score(self, data: Dataset) -> Doubles:
        """Predict click probabilities ``float64 [rows]``; the scores of a request depend on all its rows, in any order.

        Rows are grouped as :func:`ranking.data.requests.request_numbers` does, so rows of one user at one time without request
        ids are one request.

        Raises
        ------
        EvaluationError
            When the dataset lacks a feature, or has other item vectors than the ranker was trained on.
        """
        return probabilities(changed_logits(self.reranker, RequestBatches(self.base, data)))

    def save(self, folder: Path, describe: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`."""
        from safetensors.torch import save_file

        plugins = [RERANKER_NAMES.plugin(self.name)]

        def write_files(temporary: Path) -> None:
            self.base.save(temporary / BASE, describe, metrics)
            tensors = {name: value.contiguous() for name, value in self.reranker.state_dict().items()}
            save_file(tensors, temporary / TENSORS)
            settings = {"reranker": self.name, "rerank": self.reranker.spec.model_dump(mode="json")}
            (temporary / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
            (temporary / METRICS).write_text(json.dumps(dict(metrics), indent=2, sort_keys=True) + "\n")
            write_sources(temporary, plugins)

        return write_artifact(folder, {**describe, "kind": KIND, **described(plugins)}, write_files)

    @classmethod
    def load(cls, folder: Path) -> RerankedRanker:
        """Read an artefact and verify its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing or modified.
        PluginError
            When a plug-in cannot be imported.
        """
        from safetensors.torch import load_file

        manifest = read_manifest(folder, verify=False)
        load_plugins(folder, manifest)
        verify_all(folder, manifest)
        base = Ranker.load(folder / BASE)
        with reading(folder, manifest):
            settings = read_json(folder / CONFIG)
            name = settings["reranker"]
            reranker = RERANKER_NAMES.find(name)(shape_of(base), RerankSpec(**settings["rerank"]))
            reranker.load_state_dict(load_file(folder / TENSORS))
        return cls(base, reranker.eval(), name)
