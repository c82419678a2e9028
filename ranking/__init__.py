"""How features are used: point-in-time datasets, rankers, evaluation, online scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from ranking.data.dataset import Dataset
    from ranking.data.frame_builder import build_dataset
    from ranking.data.torch_inputs import TorchInputs
    from ranking.serving.scorer import Scorer
    from ranking.training.external_ranker import ExternalRanker
    from ranking.training.ranker import Ranker

__all__ = ["Dataset", "ExternalRanker", "Ranker", "Scorer", "TorchInputs", "build_dataset"]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(
        __name__,
        {
            "Ranker": "ranking.training.ranker",
            "ExternalRanker": "ranking.training.external_ranker",
            "TorchInputs": "ranking.data.torch_inputs",
            "Scorer": "ranking.serving.scorer",
            "Dataset": "ranking.data.dataset",
            "build_dataset": "ranking.data.frame_builder",
        },
    )
