"""How features are used: point-in-time training frames, rankers, evaluation, online scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ranking.artifact import Ranker
    from ranking.serving.scorer import Scorer
    from ranking.training_set import TrainingSet, build_training_set

__all__ = ["Ranker", "Scorer", "TrainingSet", "build_training_set"]

_HOMES = {
    "Ranker": "ranking.artifact",
    "Scorer": "ranking.serving.scorer",
    "TrainingSet": "ranking.training_set",
    "build_training_set": "ranking.training_set",
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
