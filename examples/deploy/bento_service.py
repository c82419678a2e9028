"""The scorer inside BentoML: ``SIDKIT_REPO=my_repo bentoml serve bento_service:Ranking`` in this folder.

``curl localhost:3000/rank -H 'content-type: application/json' -d '{"user_id": "u1", "item_ids": ["i1", "i2"]}'``
"""

from __future__ import annotations

import os
from typing import Any

import bentoml

import sidkit


@bentoml.service(workers=1, traffic={"timeout": 10, "concurrency": 32})
class Ranking:
    """Ranks candidates for a user; one request is one batch, so that BentoML need not batch requests."""

    def __init__(self) -> None:
        self.scorer = sidkit.open(os.environ["SIDKIT_REPO"]).scorer()

    @bentoml.api
    def rank(self, user_id: str, item_ids: list[str], at: str | None = None) -> dict[str, Any]:
        """Items with scores, the best first; ``at`` is a time for replays."""
        scores = self.scorer.score(user_id, item_ids, at)
        best = scores.sort_values("score", ascending=False, kind="stable")
        return {"ranker": scores.attrs["ranker"], "items": best.to_dict("records")}
