"""The bootstrap draws users, pairs arms, and claims nothing that it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.evaluation.metrics import auc, mean_auc
from sidkit.core.bootstrap import Interval, Resamples, mean_interval, verdict_on

law = settings(max_examples=25, deadline=None, database=None)
FEW = 200


def auc_interval(label: np.ndarray, scores: list[np.ndarray], user: np.ndarray, resamples: int = 1000) -> Interval:
    return Interval.of(*mean_auc(label, scores, Resamples.draw(user, resamples)))


def auc_difference(
    label: np.ndarray, scores: list[np.ndarray], baseline: list[np.ndarray], user: np.ndarray, resamples: int = 1000
) -> Interval:
    drawn = Resamples.draw(user, resamples)
    (value, one), (other, others) = mean_auc(label, scores, drawn), mean_auc(label, baseline, drawn)
    return Interval.of(value - other, one - others)


def outcome(found: Interval) -> str:
    return verdict_on(found, 500).outcome


def world(seed: int = 0, users: int = 60, each: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the scores that made them, users."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=users * each)
    label = (rng.random(users * each) < 1 / (1 + np.exp(-2 * scores))).astype(np.int8)
    return label, scores, np.repeat(np.arange(users), each)


def noisy(scores: np.ndarray, amount: float, seed: int) -> np.ndarray:
    return scores + amount * np.random.default_rng(seed).normal(size=len(scores))


@law
@given(st.integers(0, 10**6))
def test_the_interval_contains_the_point(seed: int) -> None:
    label, scores, user = world(seed)
    found = auc_interval(label, [scores], user, FEW)
    assert found.value == auc(label, scores)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2


def test_the_interval_is_about_as_wide_as_the_spread_over_fresh_samples_of_users() -> None:
    values = [auc(*world(seed)[:2]) for seed in range(300)]
    label, scores, user = world(1000)
    found = auc_interval(label, [scores], user)
    assert (found.high - found.low) / (2 * 1.96 * np.std(values)) == pytest.approx(1, abs=0.3)


@law
@given(st.integers(0, 10**6))
def test_an_arm_against_itself_differs_by_exactly_nothing(seed: int) -> None:
    label, scores, user = world(seed, users=15, each=4)
    found = auc_difference(label, [scores, -scores], [scores, -scores], user, FEW)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert outcome(found) == "no evidence"


def test_a_clearly_better_arm_is_better_and_its_opponent_is_worse_by_as_much() -> None:
    label, scores, user = world()
    weak = noisy(scores, 2, 1)
    found, back = (auc_difference(label, *arms, user, FEW) for arms in (([scores], [weak]), ([weak], [scores])))
    assert outcome(found) == "better"
    assert outcome(back) == "worse"
    assert found.value == pytest.approx(auc(label, scores) - auc(label, weak))
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_two_arms_of_noise_give_no_evidence() -> None:
    label, scores, user = world()
    found = auc_difference(label, [noisy(0 * scores, 1, 1)], [noisy(0 * scores, 1, 2)], user, FEW)
    assert outcome(found) == "no evidence"
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.01, "no evidence"), (0.0, 0.01, "no evidence"),
        (-0.01, 0.0, "no evidence"), (math.nan, math.nan, "no evidence"),
    ],
)  # fmt: skip
def test_a_verdict_needs_an_interval_that_leaves_out_zero(low: float, high: float, verdict: str) -> None:
    assert outcome(Interval(0.5, low, high)) == verdict


def test_users_are_drawn_and_not_rows() -> None:
    # Each user's rows are copies: 25 times the rows hold no more information than one row per user.
    label, scores, _ = world(3, users=80, each=1)
    users = np.arange(80)
    copies = [np.repeat(values, 25) for values in (label, scores, users)]
    once = auc_interval(label, [scores], users, FEW)
    many = auc_interval(copies[0], [copies[1]], copies[2], FEW)
    as_rows = auc_interval(copies[0], [copies[1]], np.arange(80 * 25), FEW)
    assert (many.value, many.low, many.high) == pytest.approx((once.value, once.low, once.high))
    assert many.high - many.low > 3 * (as_rows.high - as_rows.low)


def test_pairing_sees_a_difference_far_smaller_than_either_interval() -> None:
    label, scores, user = world(4)
    left, right = scores, noisy(scores, 0.3, 5)
    alone = auc_interval(label, [left], user, FEW)
    paired = auc_difference(label, [left], [right], user, FEW)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_the_same_question_has_the_same_answer() -> None:
    label, scores, user = world()
    first, again = (auc_interval(label, [scores], user, FEW) for _ in range(2))
    assert first == again


@law
@given(st.integers(0, 10**6), st.integers(-(10**9), 10**9))
def test_the_names_of_the_users_do_not_matter(seed: int, shift: int) -> None:
    label, scores, user = world(seed, users=10, each=3)
    assert auc_interval(label, [scores], user, 50) == auc_interval(label, [scores], 7 * user + shift, 50)


def test_seeds_are_averaged_and_paired_in_their_order() -> None:
    label, scores, user = world()
    arm, base = [noisy(scores, 1, 1), noisy(scores, 1, 2)], [noisy(scores, 1, 3), noisy(scores, 1, 4)]
    assert auc_interval(label, arm, user, FEW).value == pytest.approx(np.mean([auc(label, each) for each in arm]))
    expected = np.mean([auc(label, a) - auc(label, b) for a, b in zip(arm, base, strict=True)])
    assert auc_difference(label, arm, base, user, FEW).value == pytest.approx(expected)


def test_more_seeds_narrow_the_interval_only_as_far_as_the_users_allow() -> None:
    label, scores, user = world(6)
    one = auc_interval(label, [scores], user, FEW)
    same = auc_interval(label, [scores] * 3, user, FEW)
    assert (same.low, same.high) == pytest.approx((one.low, one.high))


def test_one_user_or_one_class_gives_no_interval() -> None:
    label, scores, user = world(users=1)
    lonely = auc_interval(label, [scores], user, FEW)
    assert lonely.value == auc(label, scores)
    assert math.isnan(lonely.low)
    assert outcome(lonely) == "no evidence"
    flat = auc_interval(np.ones(30), [np.arange(30.0)], np.arange(30), FEW)
    assert math.isnan(flat.value)
    assert math.isnan(flat.high)


def test_resamples_that_lost_a_class_are_left_out() -> None:
    label = np.array([1, 0, 0, 0, 0, 0])
    found = auc_interval(label, [np.array([0.9, 0.1, 0.2, 0.95, 0.4, 0.5])], np.arange(6), FEW)
    assert found.value == 0.8
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(
    ("low", "high", "positives", "outcome", "reason"),
    [
        (0.01, 0.02, 500, "better", "interval excludes 0"), (-0.2, -0.1, 900, "worse", "interval excludes 0"),
        (0.01, 0.02, 499, "no evidence", "fewer than 500 positives"), (-0.1, 0.1, 500, "no evidence", "interval contains 0"),
        (math.nan, math.nan, 500, "no evidence", "no interval: one user, or one class"),
    ],
)  # fmt: skip
def test_a_verdict_says_why(low: float, high: float, positives: int, outcome: str, reason: str) -> None:
    found = verdict_on(Interval(0.0, low, high), positives)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert str(found) == (f"no evidence ({reason})" if outcome == "no evidence" else outcome)


def test_where_lower_is_better_a_fall_is_better() -> None:
    assert verdict_on(Interval(-0.2, -0.3, -0.1), 500, higher_is_better=False).outcome == "better"
    assert verdict_on(Interval(0.2, 0.1, 0.3), 500, higher_is_better=False).outcome == "worse"


@law
@given(st.integers(0, 10**6))
def test_the_interval_of_a_mean_is_that_of_clusters_really_drawn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, cluster = rng.normal(size=40), rng.integers(0, 9, 40) * 11 - 5
    names = np.unique(cluster)
    draws, means = np.random.default_rng(seed), []
    for _ in range(FEW):
        picked = names[draws.integers(0, len(names), len(names))]
        means.append(np.concatenate([values[cluster == name] for name in picked]).mean())
    found = mean_interval(values, cluster, FEW, seed)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert math.isnan(mean_interval(values, np.zeros(40, np.int64), FEW).low)


def test_an_interval_is_json_with_null_for_what_is_not_there() -> None:
    assert Interval(0.12345678, math.nan, math.nan).as_json() == {"value": 0.12345678, "low": None, "high": None}
    assert Interval(0.12345678, 0.1, 0.2).as_json("auc", 4) == {"auc": 0.1235, "low": 0.1, "high": 0.2}
