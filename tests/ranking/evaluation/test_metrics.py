"""Metrics against scikit-learn or a plain loop, with ties, weights and missing classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from ranking.evaluation.metrics import SortedScores, auc, calibration, gauc, log_loss, normalised_entropy

law = settings(max_examples=80, deadline=None, database=None)
NOTHING = np.zeros(0)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, integer weights."""
    rows = draw(st.integers(1, 40))
    label = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    scores = draw(st.lists(st.sampled_from([-1.5, 0.0, 0.1, 0.25, 0.7, 0.70001, 3.0]), min_size=rows, max_size=rows))
    weight = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    return np.array(label, dtype=np.int8), np.array(scores), np.array(weight)


def pairs(label: Sequence[int], scores: Sequence[float]) -> float:
    """The share of (positive, negative) pairs in the right order; ties count half."""
    positive = [score for y, score in zip(label, scores, strict=True) if y == 1]
    negative = [score for y, score in zip(label, scores, strict=True) if y == 0]
    won = [(up > down) + (up == down) / 2 for up, down in itertools.product(positive, negative)]
    return sum(won) / len(won) if won else math.nan


@law
@given(scored())
def test_auc_is_the_share_of_pairs_in_the_right_order(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    label, scores, _ = case
    assert auc(label, scores) == pytest.approx(pairs(label, scores), abs=1e-12, nan_ok=True)
    if 0 < label.sum() < len(label):
        assert auc(label, scores) == pytest.approx(sklearn_metrics.roc_auc_score(label, scores), abs=1e-12)


@law
@given(scored())
def test_an_integer_weight_is_as_good_as_the_row_repeated(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    label, scores, weight = case
    weighted = SortedScores.of(scores).auc(label, weight.astype(float))
    repeated = auc(np.repeat(label, weight), np.repeat(scores, weight))
    assert weighted == pytest.approx(repeated, abs=1e-12, nan_ok=True)


@law
@given(scored())
def test_auc_ignores_any_rising_map_of_the_scores_and_the_order_of_the_rows(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    label, scores, _ = case
    backwards = auc(label[::-1], np.exp(3 * scores)[::-1])
    assert backwards == pytest.approx(auc(label, scores), abs=1e-12, nan_ok=True)
    assert auc(label, -scores) == pytest.approx(1 - auc(label, scores), abs=1e-12, nan_ok=True)


def test_auc_of_perfect_wrong_and_constant_scores() -> None:
    label = np.array([0, 0, 1, 1])
    assert auc(label, np.array([1, 2, 3, 4])) == 1
    assert auc(label, np.array([4, 3, 2, 1])) == 0
    assert auc(label, np.full(4, 0.3)) == 0.5


@pytest.mark.parametrize("label", [np.zeros(3), np.ones(3), NOTHING])
def test_auc_needs_both_classes(label: np.ndarray) -> None:
    assert math.isnan(auc(label, np.arange(len(label), dtype=float)))


def test_auc_needs_both_classes_among_the_rows_with_weight() -> None:
    assert math.isnan(SortedScores.of(np.array([0.1, 0.2, 0.3])).auc(np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0])))


@law
@given(scored(), st.data())
def test_gauc_is_the_mean_over_groups_with_both_classes_weighted_by_their_rows(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    label, scores, _ = case
    group = np.array(data.draw(st.lists(st.sampled_from([-3, 0, 4, 1000]), min_size=len(label), max_size=len(label))))
    total, kept = 0.0, 0
    for number in set(group.tolist()):
        rows = group == number
        if 0 < label[rows].sum() < rows.sum():
            total += rows.sum() * sklearn_metrics.roc_auc_score(label[rows], scores[rows])
            kept += int(rows.sum())
    value, share = gauc(label, scores, group)
    assert value == pytest.approx(total / kept if kept else math.nan, abs=1e-12, nan_ok=True)
    assert share == pytest.approx(kept / len(label))


@law
@given(scored())
def test_gauc_of_one_group_is_auc(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    label, scores, _ = case
    value, share = gauc(label, scores, np.full(len(label), 5))
    assert value == pytest.approx(auc(label, scores), abs=1e-12, nan_ok=True)
    assert share == (0.0 if math.isnan(value) else 1.0)


def test_gauc_by_hand() -> None:
    label = np.array([1, 0, 0, 1, 1, 0])
    scores = np.array([0.9, 0.1, 0.9, 0.5, 0.6, 0.8])
    group = np.array([1, 1, 1, 2, 2, 3])
    # Group 1 has one pair right and one tied; groups 2 and 3 lack a class.
    assert gauc(label, scores, group) == (0.75, 0.5)


def test_gauc_of_nothing_keeps_nothing() -> None:
    value, share = gauc(NOTHING, NOTHING, NOTHING.astype(np.int64))
    assert math.isnan(value)
    assert share == 0.0


@st.composite
def predicted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.integers(1, 30))
    label = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    probability = draw(st.lists(st.floats(0.001, 0.999), min_size=rows, max_size=rows))
    return np.array(label, dtype=np.int8), np.array(probability)


@law
@given(predicted())
def test_log_loss_is_that_of_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    label, probability = case
    expected = sklearn_metrics.log_loss(label, np.stack([1 - probability, probability], axis=1), labels=[0, 1])
    assert log_loss(label, probability) == pytest.approx(expected, rel=1e-9)


@law
@given(predicted())
def test_normalised_entropy_divides_by_the_log_loss_of_always_saying_the_rate(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    label, probability = case
    rate = float(label.mean())
    told = normalised_entropy(label, probability)
    if not 0 < rate < 1:
        assert math.isnan(told)
        return
    assert told == pytest.approx(log_loss(label, probability) / log_loss(label, np.full(len(label), rate)), rel=1e-9)
    assert normalised_entropy(label, np.full(len(label), rate)) == pytest.approx(1)


def test_normalised_entropy_is_below_one_for_predictions_that_help() -> None:
    label = np.array([0, 0, 0, 1])
    assert normalised_entropy(label, np.array([0.1, 0.1, 0.1, 0.8])) < 1
    assert normalised_entropy(label, np.array([0.8, 0.1, 0.1, 0.1])) > 1


@law
@given(predicted())
def test_calibration_is_mean_prediction_over_the_rate(case: tuple[np.ndarray, np.ndarray]) -> None:
    label, probability = case
    if not label.any():
        assert math.isnan(calibration(label, probability))
    else:
        assert calibration(label, probability) == pytest.approx(probability.mean() / label.mean())


def test_certain_and_wrong_is_very_bad_but_finite() -> None:
    assert log_loss(np.array([1, 0]), np.array([0.0, 1.0])) == pytest.approx(-math.log(1e-7), rel=1e-6)
    # Also in single precision, where 1 - 1e-7 rounds to 1.
    single = log_loss(np.array([0]), np.array([1.0], dtype=np.float32))
    assert single == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_nothing_has_no_probability_metric() -> None:
    assert all(math.isnan(measure(NOTHING, NOTHING)) for measure in (log_loss, normalised_entropy, calibration))
