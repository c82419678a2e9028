"""Answers to requests, computed in the scoring thread of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ranking.evaluation.slices import COLD_BELOW, prior_interactions
from ranking.serving.explain import explain
from sidkit.core.clock import iso, parse_time, present_us
from sidkit.serve.bodies import (
    CodesAnswer,
    ItemCodes,
    Popular,
    Prefix,
    RankAnswer,
    RankedItem,
    RankRequest,
    Similar,
    SimilarAnswer,
    SimilarItem,
)
from sidkit.serve.metrics import Metrics
from sidkit.serve.model import ServingModel
from sidkit.serve.problems import RequestError

if TYPE_CHECKING:
    from ranking.serving.features import Request
    from ranking.serving.scorer import Scores
    from sidkit.core.arrays import Bools, Doubles


@dataclass(frozen=True)
class Scored:
    """The candidates of one user, with features and scores."""

    user_id: str
    item_ids: list[str]
    at_us: int
    request: Request
    scores: Scores

    @cached_property
    def cold(self) -> Bools:
        """Whether an item had few interactions before, ``bool [items]``."""
        cold: Bools = prior_interactions(self.request.data) < COLD_BELOW
        return cold


class Answers:
    """Computes answers with a given model.

    Parameters
    ----------
    metrics : Metrics
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def scored(
        self,
        model: ServingModel,
        user_id: str,
        item_ids: list[str],
        at_us: int,
        context: dict[str, Any] | None,
        found_seconds: float = 0.0,
    ) -> Scored:
        """Read the features of candidates and score them, all in one batch; finding the candidates took ``found_seconds``."""
        began = perf_counter()
        request = model.scorer.read(user_id, item_ids, at_us, context=context)
        gathered = perf_counter()
        scores = model.scorer.score_request(request)
        scored_at = perf_counter()
        for stage, seconds in (
            ("read", found_seconds + request.read_seconds),
            ("gather", gathered - began - request.read_seconds),
            ("score", scored_at - gathered),
        ):
            self._metrics.observe_stage(stage, seconds)
        scored = Scored(user_id, item_ids, at_us, request, scores)
        self._observe(scored)
        return scored

    def rank(self, model: ServingModel, body: RankRequest, request_id: str) -> tuple[RankAnswer, Scored]:
        """Rank candidates for a user.

        Raises
        ------
        RequestError
            When both or neither of ``item_ids`` and ``retrieve`` are given, or there are no candidates.
        ServingError, TimeError
            When a value of the request cannot be used.
        """
        at_us = moment(body.at, model)
        began = perf_counter()
        item_ids = _candidates(model, body, at_us)
        scored = self.scored(model, body.user_id, item_ids, at_us, body.context, perf_counter() - began)
        values = scored.scores.values
        order = np.argsort(-values, kind="stable")[: body.k]
        changes = explain(scored.request.data, model.scorer.ranker.score) if body.explain else None
        answer = RankAnswer(
            request_id=request_id,
            user_id=body.user_id,
            user_known=scored.scores.user_known,
            ranker=model.ranker,
            codebook=model.codebook,
            at=iso(at_us),
            features_until=iso(model.key.until_us),
            target=model.scorer.target,
            calibrated=model.scorer.calibration.calibrated,
            candidates=len(item_ids),
            items=_ranked(model, scored, order.tolist(), changes),
        )
        return answer, scored

    def _observe(self, scored: Scored) -> None:
        metrics, count = self._metrics, len(scored.item_ids)
        metrics.candidates.observe(count)
        metrics.cold.observe(float(scored.cold.mean()))
        metrics.observe_scores(scored.scores.values)
        unknown = count - int(scored.scores.known.sum())
        if unknown:
            metrics.unknown.labels("item").inc(unknown)
        if not scored.scores.user_known:
            metrics.unknown.labels("user").inc()


def codes_of(model: ServingModel, item_ids: Sequence[str]) -> CodesAnswer:
    """The codes of items."""
    places = model.index.places(item_ids)
    return CodesAnswer(
        model.codebook,
        [
            ItemCodes(
                item, _codes(model, place), unknown=place < 0, stale=place >= 0 and bool(model.index.stale[place])
            )
            for item, place in zip(item_ids, places.tolist(), strict=True)
        ],
    )


def similar_to(model: ServingModel, item_id: str, most: int, at_us: int) -> SimilarAnswer:
    """Items similar to one.

    Raises
    ------
    ServingError
        When the item is unknown or has no content.
    """
    near = model.candidates.similar(item_id, at_us, most)
    return SimilarAnswer(
        model.codebook,
        item_id,
        [SimilarItem(each.item_id, each.similarity, each.codes, each.shared_levels) for each in near],
    )


def moment(text: str | None, model: ServingModel) -> int:
    """The time of a request, microseconds UTC; default: now, or the end of the materialized features if the clock is behind it.

    Raises
    ------
    TimeError
        When the text is no time with a zone.
    """
    return max(present_us(), model.key.until_us) if text is None else parse_time(text)


def _candidates(model: ServingModel, body: RankRequest, at_us: int) -> list[str]:
    if (body.item_ids is None) == (body.retrieve is None):
        got = "both" if body.item_ids is not None else "neither"
        raise RequestError(422, "item_ids or retrieve", got, "give one of them")
    if body.item_ids is not None:
        item_ids = list(dict.fromkeys(body.item_ids))
        if not item_ids:
            raise RequestError(422, "at least one item id", "an empty list", "give the candidates, or retrieve")
        return item_ids
    by, candidates = body.retrieve, model.candidates
    if isinstance(by, Similar):
        found = [each.item_id for each in candidates.similar(by.item_id, at_us, by.limit, by.where)]
    elif isinstance(by, Prefix):
        found = candidates.prefix(by.codes, at_us, by.limit, by.where)
    else:
        assert isinstance(by, Popular)
        found = candidates.popular(by.window, at_us, by.limit, by.where)
    if not found:
        raise RequestError(
            422, "candidates", "none that meet the conditions of retrieve", "use a shorter prefix or other conditions"
        )
    return found


def _ranked(
    model: ServingModel, scored: Scored, order: list[int], changes: dict[str, Doubles] | None
) -> list[RankedItem]:
    ids = [scored.item_ids[at] for at in order]
    places = model.index.places(ids)
    stale = np.where(places >= 0, model.index.stale[places], False).tolist() if len(model.index) else [False] * len(ids)
    rows = zip(
        ids,
        scored.scores.values[order].tolist(),
        (scored.cold & scored.scores.known)[order].tolist(),
        (~scored.scores.known)[order].tolist(),
        stale,
        strict=True,
    )
    if changes is None:
        return [RankedItem(*row) for row in rows]
    titles = model.index.titles
    return [
        RankedItem(
            *row,
            codes=_codes(model, place),
            title=titles[place] if titles and place >= 0 else None,
            explanation={group: round(float(change[at]), 6) for group, change in changes.items()},
        )
        for row, place, at in zip(rows, places.tolist(), order, strict=True)
    ]


def _codes(model: ServingModel, place: int) -> list[int] | None:
    if place < 0:
        return None
    codes: list[int] = model.index.codes[place].tolist()
    return codes if codes[0] >= 0 else None
