"""History poolings: map a user's past items to vectors for the head. Register a new one here."""

from __future__ import annotations

from collections.abc import Callable

from ranking.models.histories.base import History, Space
from ranking.models.histories.bidirectional import BidirectionalHistory
from ranking.models.histories.mean import MeanHistory
from ranking.models.histories.sid_match import SidMatchHistory
from ranking.models.histories.target_attention import TargetAttentionHistory
from ranking.models.spec import ModelSpec

HISTORIES: dict[str, Callable[[int, int, ModelSpec], History]] = {
    "mean": MeanHistory,
    "target_attention": TargetAttentionHistory,
    "bidirectional": BidirectionalHistory,
}

__all__ = ["HISTORIES", "History", "SidMatchHistory", "Space"]
