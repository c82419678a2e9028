"""Intervals over users, items and trainings: clusters are left out, and a verdict claims no more than that."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidkit.core.intervals import (
    ONE_SEED,
    Changes,
    Clusters,
    Interval,
    Support,
    Variance,
    effective_number,
    mean_interval,
    verdict_on,
)

law = settings(max_examples=25, deadline=None, database=None)


@law
@given(st.integers(0, 10**6))
def test_the_interval_of_a_mean_is_that_of_a_jackknife_over_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, cluster = rng.normal(size=40), rng.integers(0, 9, 40) * 11 - 5
    names, sizes = np.unique(cluster, return_counts=True)
    left_out = np.array([values[cluster != name].mean() for name in names])
    count = len(names)
    variance = (count - 1) / count * ((left_out - values.mean()) ** 2).sum()
    degrees = sizes.sum() ** 2 / (sizes**2).sum() - 1
    found = mean_interval(values, cluster)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, max(degrees, 1)) * math.sqrt(variance))
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_one_cluster_has_no_interval() -> None:
    alone = mean_interval(np.arange(40.0), np.zeros(40, np.int64))
    assert alone.value == 19.5
    assert math.isnan(alone.low) and math.isnan(alone.high)


def test_rows_that_are_copies_add_nothing() -> None:
    values = np.random.default_rng(0).normal(size=80)
    once = mean_interval(values, np.arange(80))
    copies = mean_interval(np.repeat(values, 25), np.repeat(np.arange(80), 25))
    assert (copies.value, copies.low, copies.high) == pytest.approx((once.value, once.low, once.high))


def test_clusters_number_users_items_and_pairs_and_keep_the_numbers_of_a_part() -> None:
    clusters = Clusters.of(np.array(["b", "a", "b", "b"]), np.array([7, 7, 9, 7]))
    assert clusters.sizes == (2, 2, 3)
    assert clusters.pair[0] == clusters.pair[3] and len(set(clusters.pair.tolist())) == 3
    part = clusters.take(np.array([False, False, True, True]))
    assert part.sizes == clusters.sizes
    assert part.item.tolist() == clusters.item[2:].tolist()


def changes_of(user: list[float], item: list[float], pair: list[float]) -> Changes:
    return Changes(*(np.array(each, dtype=np.float64) for each in (user, item, pair)))


def support_of(users: np.ndarray, items: np.ndarray) -> Support:
    return Support.of(np.tile([0, 1], len(users) // 2), Clusters.of(users, items))


def test_the_variance_adds_users_and_items_and_counts_their_pairs_once() -> None:
    support = support_of(np.repeat(np.arange(4), 2), np.tile(np.arange(2), 4))
    found = changes_of([1, 1, 1, 1], [2, 2], [0.5] * 8).variance(support)
    assert found.value == pytest.approx(4 * 3 / 4 + 8 * 1 / 2 - 2 * 7 / 8)
    # A difference below either source by chance is not believed.
    noisy = changes_of([1, 1, 1, 1], [0, 0], [2] * 8).variance(support)
    assert noisy.value == pytest.approx(3)


def test_degrees_of_freedom_are_those_of_the_source_that_dominates() -> None:
    support = support_of(np.arange(40), np.tile(np.arange(4), 10))
    assert changes_of([1] * 40, [0] * 4, [0] * 40).variance(support).degrees == pytest.approx(19)  # 20 positives
    assert changes_of([0] * 40, [1] * 4, [0] * 40).variance(support).degrees == pytest.approx(1)
    few_seeds = Variance.total([Variance(1.0, 100), Variance(50.0, 2)])
    assert few_seeds.value == 51 and 2 < few_seeds.degrees < 2.1


def test_the_variance_of_training_is_that_of_the_mean_over_seeds() -> None:
    values = [0.7, 0.72, 0.71]
    assert Variance.of_mean(values).value == pytest.approx(np.var(values, ddof=1) / 3)
    assert Variance.of_mean(values).degrees == 2
    assert math.isnan(Variance.of_mean([0.7]).value)


def test_equal_estimates_differ_by_exactly_nothing() -> None:
    assert Interval.of(0.0, Variance(0.0, math.inf)) == Interval(0.0, 0.0, 0.0)
    unknown = Interval.of(0.5, Variance(math.nan, math.nan))
    assert math.isnan(unknown.low) and not unknown.excludes_zero


def test_the_effective_number_of_users_falls_with_their_inequality() -> None:
    assert effective_number(np.repeat(np.arange(10), 3)) == pytest.approx(10)
    assert effective_number(np.r_[np.zeros(1000, int), np.arange(1, 11)]) < 1.1
    assert effective_number(np.zeros(0, np.int64)) == 0


def test_support_counts_users_by_their_rows_of_the_rarer_class_and_adds_up_over_origins() -> None:
    label = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    clusters = Clusters.of(np.array([0, 0, 0, 1, 2, 3, 4, 5]), np.arange(8))
    support = Support.of(label, clusters)
    assert (support.positives, support.users, support.effective_users) == (2, 6, 1)
    halves = [Support.of(label[part], clusters.take(part)) for part in (np.arange(2), np.arange(2, 8))]
    both = Support.pooled(halves)
    assert (both.positives, both.users) == (2, 6)


@pytest.mark.parametrize(
    ("low", "high", "positives", "users", "seeds", "outcome", "reason"),
    [
        (0.01, 0.02, 500, 200, True, "better", "interval excludes 0"),
        (-0.2, -0.1, 900, 900, True, "worse", "interval excludes 0"),
        (0.01, 0.02, 499, 200, True, "no evidence", "499 positives (500 needed)"),
        (0.01, 0.02, 500, 199.4, True, "no evidence", "199 effective users (200 needed)"),
        (0.01, 0.02, 66, 31, True, "no evidence", "66 positives (500 needed) and 31 effective users (200 needed)"),
        (-0.1, 0.1, 500, 200, True, "no evidence", "interval contains 0"),
        (0.0, 0.1, 500, 200, True, "no evidence", "interval contains 0"),
        (0.01, 0.02, 500, 200, False, "no evidence", ONE_SEED),
        (math.nan, math.nan, 500, 200, True, "no evidence", "no interval: one user, or one class"),
    ],
)
def test_a_verdict_says_why(
    low: float, high: float, positives: int, users: float, seeds: bool, outcome: str, reason: str
) -> None:
    found = verdict_on(Interval(0.0, low, high), positives, users, seeds_known=seeds)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert str(found) == (f"no evidence ({reason})" if outcome == "no evidence" else outcome)


def test_where_lower_is_better_a_fall_is_better() -> None:
    assert verdict_on(Interval(-0.2, -0.3, -0.1), 500, 200, higher_is_better=False).outcome == "better"
    assert verdict_on(Interval(0.2, 0.1, 0.3), 500, 200, higher_is_better=False).outcome == "worse"


def test_an_interval_is_json_with_null_for_unknown_bounds() -> None:
    assert Interval(0.12345678, math.nan, math.nan).as_json() == {"value": 0.12345678, "low": None, "high": None}
    assert Interval(0.12345678, 0.1, 0.2).as_json("auc", 4) == {"auc": 0.1235, "low": 0.1, "high": 0.2}
    assert Interval(0.9, 0.7, 1.1).within(0, 1) == Interval(0.9, 0.7, 1.0)
