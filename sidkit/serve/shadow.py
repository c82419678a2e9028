"""Shadow mode: a second ranker scores the requests that were answered, and the differences are logged."""

from __future__ import annotations

import json
import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidkit.core.arrays import Doubles
from sidkit.core.errors import SidkitError
from sidkit.core.redact import scrubbed
from sidkit.serve.metrics import Metrics
from sidkit.serve.model import ModelLoader, ServingModel
from sidkit.serve.ranking import Scored

_LOG = logging.getLogger("sidkit.serve.shadow")
_WAITING = 32
_TOP = 10


@dataclass(frozen=True)
class ShadowRequest:
    """A request that was answered."""

    request_id: str
    ranker: str
    scored: Scored
    context: dict[str, Any] | None


class Shadow:
    """Scores requests with a second ranker in a thread of its own; answers do not wait for it.

    Parameters
    ----------
    loader : ModelLoader
        Loads the second ranker.
    metrics : Metrics
    """

    def __init__(self, loader: ModelLoader, metrics: Metrics) -> None:
        self._loader = loader
        self._metrics = metrics
        self._model: ServingModel | None = None
        self._waiting: queue.Queue[ShadowRequest | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="sidkit-shadow", daemon=True)
        self._thread.start()

    def offer(self, request: ShadowRequest) -> None:
        """Score a request later; it is dropped, and counted, if too many wait."""
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            self._metrics.shadow_dropped.inc()

    def close(self) -> None:
        """Score what waits, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            try:
                self._compare(request)
            except Exception as error:  # noqa: BLE001  answers do not depend on the shadow
                problem = (
                    scrubbed(error) if isinstance(error, SidkitError) else f"{type(error).__name__}: {scrubbed(error)}"
                )
                _LOG.error(json.dumps({"request_id": request.request_id, "error": problem}))

    def _compare(self, request: ShadowRequest) -> None:
        key = self._loader.wanted() if self._model is None else self._model.key
        if self._model is None:
            self._model = self._loader.load(key)
        scored = request.scored
        other = self._model.scorer.score(scored.user_id, scored.item_ids, scored.at_us, context=request.context)
        difference = np.abs(other - scored.scores.values)
        self._metrics.shadow_difference.observe(float(difference.mean()))
        line = {
            "request_id": request.request_id,
            "ranker": request.ranker,
            "shadow": key.ranker,
            "candidates": len(other),
            "mean_difference": round(float(difference.mean()), 8),
            "largest_difference": round(float(difference.max()), 8),
            **compared(scored.scores.values, other),
        }
        _LOG.info(json.dumps(line))


def compared(scores: Doubles, other: Doubles, top: int = _TOP) -> dict[str, float | None]:
    """Agreement of two scorings of the same candidates.

    Returns
    -------
    dict
        ``rank_correlation``, Spearman's (None if one of them is constant), and ``top_overlap``, the share of the best ``top``
        candidates that both have.
    """
    top = min(top, len(scores))
    ranks = [np.argsort(np.argsort(-each, kind="stable"), kind="stable").astype(np.float64) for each in (scores, other)]
    constant = len(scores) < 2 or any(np.ptp(each) == 0 for each in (scores, other))
    best = [set(np.flatnonzero(rank < top).tolist()) for rank in ranks]
    return {
        "rank_correlation": None if constant else round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 6),
        "top_overlap": round(len(best[0] & best[1]) / top, 6),
    }
