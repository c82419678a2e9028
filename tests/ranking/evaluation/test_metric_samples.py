"""Every metric and every bootstrap sample of it against rows that are really drawn, and the rows of ``arms.json``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers.training_builders import random_set
from ranking.evaluation.evaluator import (
    HIGHER_IS_BETTER,
    METRICS,
    EvaluationRows,
    Evaluator,
    MetricValue,
    difference,
)
from ranking.evaluation.metrics import auc, calibration, gauc, log_loss, normalised_entropy
from ranking.experiments.comparison.results import Row
from sidkit.core.bootstrap import Interval, Resamples, verdict_on

RNG = np.random.default_rng(0)
ROWS = 600
TRUTH = 1 / (1 + np.exp(-RNG.normal(size=ROWS)))
LABEL = (RNG.random(ROWS) < TRUTH).astype(np.int8)
USER = RNG.integers(0, 40, ROWS).astype(np.int64)
DATA = EvaluationRows(LABEL, USER, USER * 100 + RNG.integers(0, 4, ROWS), "request")
NOISY = np.clip(TRUTH + 0.2 * RNG.normal(size=ROWS), 0.01, 0.99)
PART = RNG.random(ROWS) < 0.7
PLAIN = {
    "auc": lambda rows, score: auc(LABEL[rows], score[rows]),
    "gauc": lambda rows, score: gauc(LABEL[rows], score[rows], DATA.group[rows])[0],
    "logloss": lambda rows, score: log_loss(LABEL[rows], score[rows]),
    "normalised_entropy": lambda rows, score: normalised_entropy(LABEL[rows], score[rows]),
    "calibration": lambda rows, score: calibration(LABEL[rows], score[rows]),
}


def metrics(scores: list[np.ndarray], part: np.ndarray, resamples: Resamples) -> dict[str, MetricValue]:
    return Evaluator(DATA, {"part": part}, resamples).evaluate(scores)["part"].metrics


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_and_every_sample_of_it_is_that_of_the_rows(metric: str) -> None:
    resamples = Resamples.draw(USER, 25)
    found = metrics([TRUTH, NOISY], PART, resamples)[metric]
    inside = np.flatnonzero(PART)
    each = [PLAIN[metric](inside, score) for score in (TRUTH, NOISY)]
    assert found.by_seed == pytest.approx(each)
    assert found.value == pytest.approx(np.mean(each))
    for sample in range(25):
        rows = np.repeat(np.arange(ROWS), np.where(PART, resamples.weights[USER, sample], 0).astype(int))
        if metric == "gauc":
            continue
        assert found.samples[sample] == pytest.approx(
            np.mean([PLAIN[metric](rows, score) for score in (TRUTH, NOISY)]), rel=1e-4
        )


def test_a_group_of_a_user_drawn_twice_counts_twice_and_is_not_one_larger_group() -> None:
    resamples = Resamples.draw(USER, 10)
    found = metrics([NOISY], PART, resamples)["gauc"]
    for sample in range(10):
        total, weight = 0.0, 0.0
        for group in np.unique(DATA.group[PART]):
            rows = np.flatnonzero((DATA.group == group) & PART)
            own = auc(LABEL[rows], NOISY[rows])
            times = resamples.weights[USER[rows[0]], sample] * len(rows)
            if np.isfinite(own):
                total, weight = total + own * times, weight + times
        assert found.samples[sample] == pytest.approx(total / weight, rel=1e-4)


def test_what_is_undefined_has_no_line() -> None:
    few = np.zeros(ROWS, bool)
    few[np.flatnonzero(LABEL == 1)[:40]] = True
    found = metrics([TRUTH], few, Resamples.draw(USER, 10))
    assert set(found) == {"logloss", "calibration"}


@pytest.mark.parametrize(
    ("metric", "low", "high", "positives", "verdict"),
    [
        ("auc", 0.01, 0.02, 500, "better"), ("auc", 0.01, 0.02, 499, "no evidence"), ("auc", -0.2, -0.1, 900, "worse"),
        ("auc", -0.1, 0.1, 900, "no evidence"), ("auc", 0.0, 0.1, 900, "no evidence"), ("logloss", 0.01, 0.02, 900, "worse"),
        ("logloss", -0.2, -0.1, 900, "better"), ("auc", float("nan"), float("nan"), 900, "no evidence"),
    ],
)  # fmt: skip
def test_a_verdict_needs_an_interval_without_zero_and_five_hundred_positives(
    metric: str, low: float, high: float, positives: int, verdict: str
) -> None:
    found = verdict_on(Interval(0.0, low, high), positives, higher_is_better=HIGHER_IS_BETTER[metric])
    assert found.outcome == verdict


def test_a_line_is_the_stated_object() -> None:
    own = MetricValue(0.7, (0.69, 0.71), lambda: np.linspace(0.6, 0.8, 1001))
    base = MetricValue(0.6, (0.6, 0.6), lambda: np.linspace(0.55, 0.65, 1001))
    told = Row.of("world", "A9", "cold", "auc", own, ("A3", difference(own, base, 700)), 700).as_json()
    assert list(told) == [
        "data", "arm", "seeds", "slice", "metric", "mean", "low", "high", "baseline", "delta", "delta_low", "delta_high",
        "positives", "verdict",
    ]  # fmt: skip
    assert (told["seeds"], told["mean"], told["delta"], told["verdict"]) == (2, 0.7, 0.1, "better")
    assert (told["low"], told["high"]) == pytest.approx((0.605, 0.795))
    assert (told["delta_low"], told["delta_high"]) == pytest.approx((0.0525, 0.1475))
    alone = Row.of("world", "A3", "cold", "calibration", own, None, 700).as_json()
    assert [alone[key] for key in ("baseline", "delta", "delta_low", "delta_high", "verdict")] == [None] * 5


def test_groups_are_requests_where_the_log_names_them() -> None:
    data = random_set(30)
    assert EvaluationRows.of(data).grouped_by == "user"
    requests = np.array([f"r{place // 3}" if place > 5 else None for place in range(30)], dtype=object)
    told = EvaluationRows.of(dataclasses.replace(data, rows=dataclasses.replace(data.rows, request_ids=requests)))
    assert told.grouped_by == "request"
    assert len(np.unique(told.group[6:])) == 8
    assert len(np.unique(told.group[:6])) == len(set(zip(data.rows.user_ids[:6], data.rows.at_us[:6], strict=True)))
