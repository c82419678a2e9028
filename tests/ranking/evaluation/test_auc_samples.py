"""Bootstrap samples of users shared by all that is compared, against samples that are really drawn row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.evaluation.metrics import BINS, auc, auc_samples, mean_auc
from sidkit.core.bootstrap import Interval, Resamples

law = settings(max_examples=40, deadline=None, database=None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, users."""
    rows = draw(st.integers(2, 30))
    label = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    scores = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.3, 0.30001, 5.0]), min_size=rows, max_size=rows))
    user = draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows))
    return np.array(label, np.int8), np.array(scores), np.array(user)


def drawn_rows(resamples: Resamples, sample: int) -> np.ndarray:
    """Numbers of the rows of one sample, each as often as its user was drawn."""
    return np.repeat(np.arange(len(resamples.cluster)), resamples.weights[resamples.cluster, sample].astype(int))


@law
@given(cases())
def test_a_sample_of_the_auc_is_the_auc_of_the_rows_it_drew(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    label, scores, user = case
    resamples = Resamples.draw(user, 12)
    value, samples = auc_samples(label, scores, resamples)
    assert value == pytest.approx(auc(label, scores), abs=1e-9, nan_ok=True)
    for sample, found in enumerate(samples):
        rows = drawn_rows(resamples, sample)
        assert found == pytest.approx(auc(label[rows], scores[rows]), abs=1e-6, nan_ok=True)


@law
@given(cases(), st.randoms())
def test_a_slice_is_resampled_by_the_same_users_as_the_whole(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], random: object
) -> None:
    label, scores, user = case
    part = np.array([random.random() < 0.6 for _ in label])  # type: ignore[attr-defined]
    whole = Resamples.draw(user, 8)
    _, samples = auc_samples(label[part], scores[part], whole.take(part))
    sums = whole.take(part).sums(np.stack([scores[part], label[part]], axis=1).astype(np.float64))
    for sample in range(samples.shape[0]):
        rows = drawn_rows(whole, sample)
        rows = rows[part[rows]]
        assert samples[sample] == pytest.approx(auc(label[rows], scores[rows]), abs=1e-6, nan_ok=True)
        assert sums[sample] == pytest.approx([scores[rows].sum(), label[rows].sum()], rel=1e-5, abs=1e-5)


def test_as_many_users_are_drawn_as_there_are_and_all_users_are_drawn_alike() -> None:
    resamples = Resamples.draw(np.repeat(np.arange(50), 3), 2000)
    assert (resamples.weights.sum(axis=0) == 50).all()
    assert resamples.weights.mean(axis=1) == pytest.approx(np.ones(50), abs=0.12)
    assert resamples.weights.var() == pytest.approx(1, abs=0.05)


def large(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=6000)
    label = (rng.random(6000) < 1 / (1 + np.exp(1 - 2 * scores))).astype(np.int8)
    return label, scores, scores + 0.5 * rng.normal(size=6000), rng.integers(0, 300, 6000)


def test_beyond_the_bins_samples_stay_far_inside_their_spread() -> None:
    label, scores, _, user = large()
    assert len(np.unique(scores)) > 4 * BINS
    resamples = Resamples.draw(user, 40)
    value, samples = mean_auc(label, [scores], resamples)
    exact = [auc(label[rows], scores[rows]) for rows in (drawn_rows(resamples, sample) for sample in range(40))]
    assert value == auc(label, scores)
    assert samples == pytest.approx(exact, abs=5e-5)
    assert np.std(samples - exact) < np.std(exact) / 100


def test_the_interval_of_a_difference_is_that_of_rows_really_drawn() -> None:
    label, scores, other, user = large()
    resamples = Resamples.draw(user, 200)
    own, base = (mean_auc(label, [each], resamples) for each in (scores, other))
    slow = []
    for sample in range(200):
        rows = drawn_rows(resamples, sample)
        slow.append(auc(label[rows], scores[rows]) - auc(label[rows], other[rows]))
    found = Interval.of(own[0] - base[0], own[1] - base[1])
    assert found.value == pytest.approx(auc(label, scores) - auc(label, other))
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_seeds_are_averaged_sample_by_sample() -> None:
    label, scores, other, user = large()
    resamples = Resamples.draw(user, 30)
    each = [mean_auc(label, [one], resamples) for one in (scores, other)]
    value, samples = mean_auc(label, [scores, other], resamples)
    assert value == pytest.approx((each[0][0] + each[1][0]) / 2)
    assert samples == pytest.approx((each[0][1] + each[1][1]) / 2)


def test_an_arm_against_itself_differs_by_exactly_nothing() -> None:
    label, scores, _, user = large()
    resamples = Resamples.draw(user, 100)
    difference = mean_auc(label, [scores], resamples)[1] - mean_auc(label, [scores.copy()], resamples)[1]
    assert (Interval.of(0.0, difference).low, Interval.of(0.0, difference).high) == (0, 0)


def test_one_user_or_one_class_gives_no_interval() -> None:
    label, scores, _, user = large()
    assert math.isnan(Interval.of(*mean_auc(label, [scores], Resamples.draw(0 * user, 100))).low)
    value, samples = mean_auc(np.ones(6000, np.int8), [scores], Resamples.draw(user, 10))
    assert math.isnan(value)
    assert np.isnan(samples).all()
