"""Load any ranker artefact, built-in or external."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ranking.data.dataset import Dataset
from ranking.training.adapted_ranker import KIND as ADAPTED
from ranking.training.adapted_ranker import AdaptedRanker
from ranking.training.registered_ranker import KIND, RegisteredRanker
from ranking.training.serving_spec import ServingSpec
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Doubles
from sidkit.core.artifact import read_manifest
from sidkit.core.extras import require


class LoadedRanker(Protocol):
    """What scoring and evaluation need of a ranker."""

    @property
    def config(self) -> ServingSpec:
        """Codebook, feature service and features of training."""

    @property
    def smoothing_rate(self) -> float:
        """Share of positives towards which click rates are smoothed."""

    @property
    def positive_rate(self) -> float:
        """Share of positives among the training rows."""

    def score(self, data: Dataset) -> Doubles:
        """Predict probabilities ``float64 [rows]``."""


def load_ranker(folder: Path, codebook: CodebookRecord, purpose: str) -> LoadedRanker:
    """Read a ranker's artefact and verify its hashes.

    Parameters
    ----------
    folder : Path
        The artefact.
    codebook : CodebookRecord
        The ranker's codebook.
    purpose : str
        What the ranker is loaded for, for errors.

    Raises
    ------
    MissingExtraError
        When the ranker needs torch and safetensors and they are not installed.
    ArtifactError, PluginError
        See :meth:`ranking.training.ranker.Ranker.load` and
        :meth:`ranking.training.registered_ranker.RegisteredRanker.load`.
    """
    kind = read_manifest(folder, verify=False).get("kind")
    if kind == KIND:
        return RegisteredRanker.load(folder, codebook)
    if kind == ADAPTED:
        return AdaptedRanker.load(folder, lambda scorer: load_ranker(scorer, codebook, purpose))
    require("torch", "safetensors", purpose=purpose, extra="rank")
    return load_trained(folder)


def load_trained(folder: Path) -> LoadedRanker:
    """Read the artefact of an arm: a neural ranker, one with a re-ranker or an adapter, gradient boosting or a blend.

    Raises
    ------
    ArtifactError, PluginError
        See :func:`load_ranker`.
    """
    kind = read_manifest(folder, verify=False).get("kind")
    if kind == "boosted_ranker":
        from ranking.training.boosted_ranker import BoostedRanker

        return BoostedRanker.load(folder)
    if kind == ADAPTED:
        return AdaptedRanker.load(folder, load_trained)
    if kind == "blend_ranker":
        from ranking.training.blend_ranker import BlendRanker

        return BlendRanker.load(folder, load_trained)
    if kind == "reranked_ranker":
        from ranking.training.reranked_ranker import RerankedRanker

        return RerankedRanker.load(folder)
    from ranking.training.ranker import Ranker

    return Ranker.load(folder)
