"""Re-rankers: score the candidates of a request together, after the ranker. Register a new one here.

An arm's ``reranker`` may also name a plug-in (:mod:`sidkit.core.plugins`), a subclass of
:class:`ranking.models.rerankers.base.Reranker`. The registry refers to classes by path without importing them, so that presets
can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.plugins import Registry

if TYPE_CHECKING:
    from ranking.models.rerankers.base import Reranker

RERANKERS = {
    "joint": "ranking.models.rerankers.joint:JointReranker",
}

RERANKER_NAMES: Registry[Reranker] = Registry(
    "reranker", "sidkit.rerankers", "ranking.models.rerankers.base:Reranker", RERANKERS, takes=("shape", "spec")
)
"""What an arm's ``reranker`` may name: the above, and plug-ins."""

__all__ = ["RERANKERS", "RERANKER_NAMES"]
