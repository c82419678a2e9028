"""History poolings: map a user's past items to vectors for the head. Register a new one here.

``[ranker.model] history`` may also name a plug-in (:mod:`sidkit.core.plugins`), a subclass of
:class:`ranking.models.histories.base.History`. The registry refers to classes by path without importing them, so that presets
can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.plugins import Registry

if TYPE_CHECKING:
    from ranking.models.histories.base import History

HISTORIES = {
    "mean": "ranking.models.histories.mean:MeanHistory",
    "target_attention": "ranking.models.histories.target_attention:TargetAttentionHistory",
    "bidirectional": "ranking.models.histories.bidirectional:BidirectionalHistory",
    "anchors": "ranking.models.histories.anchors:AnchorsHistory",
    "shared_gated": "ranking.models.histories.shared_gated:SharedGatedHistory",
}

HISTORY_NAMES: Registry[History] = Registry(
    "history",
    "sidkit.histories",
    "ranking.models.histories.base:History",
    HISTORIES,
    takes=("modality_dim", "behaviour_dim", "spec"),
)
"""What ``[ranker.model] history`` may name: the above, and plug-ins."""

BOTH_SPACES = frozenset({"bidirectional", "shared_gated"})
"""Built-in histories that need a representation in the behaviour and one in the modality space."""

__all__ = ["BOTH_SPACES", "HISTORIES", "HISTORY_NAMES"]
