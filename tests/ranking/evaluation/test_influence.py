"""Changes of every metric against rows that are really left out, coverage on fresh worlds, and the rows of ``arms.json``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers.training_builders import random_set
from ranking.evaluation.evaluator import METRICS, EvaluationRows, Evaluator, MetricValue, difference
from ranking.evaluation.metrics import (
    SortedScores,
    auc,
    calibration,
    gauc,
    log_loss,
    normalised_entropy,
    placements,
    within_groups,
)
from ranking.experiments.comparison.results import Row
from sidkit.core.intervals import Changes, Clusters, Support

RNG = np.random.default_rng(0)
ROWS = 3000
TRUTH = np.round(1 / (1 + np.exp(-RNG.normal(size=ROWS))), 2)  # with ties
LABEL = (RNG.random(ROWS) < TRUTH).astype(np.int8)
USER, ITEM = RNG.integers(0, 60, ROWS), RNG.integers(0, 80, ROWS)
DATA = EvaluationRows(LABEL, Clusters.of(USER, ITEM), USER * 100 + RNG.integers(0, 4, ROWS), "request")
NOISY = np.clip(TRUTH + 0.2 * RNG.normal(size=ROWS), 0.01, 0.99)
PART = RNG.random(ROWS) < 0.7
PLAIN = {
    "auc": lambda rows, score: auc(LABEL[rows], score[rows]),
    "gauc": lambda rows, score: gauc(LABEL[rows], score[rows], DATA.group[rows])[0],
    "logloss": lambda rows, score: log_loss(LABEL[rows], score[rows]),
    "normalised_entropy": lambda rows, score: normalised_entropy(LABEL[rows], score[rows]),
    "calibration": lambda rows, score: calibration(LABEL[rows], score[rows]),
}


@pytest.mark.parametrize("metric", METRICS)
def test_changes_are_those_of_leaving_a_user_an_item_or_a_pair_out(metric: str) -> None:
    found = Evaluator(DATA, {"part": PART}).evaluate([TRUTH, NOISY])["part"].metrics[metric]
    seeds = [PLAIN[metric](PART, score) for score in (TRUTH, NOISY)]
    assert found.by_seed == pytest.approx(seeds)
    assert found.value == pytest.approx(np.mean(seeds))
    for clusters, changes in (
        (USER, found.changes.user),
        (ITEM, found.changes.item),
        (DATA.clusters.pair, found.changes.pair),
    ):
        numbers = np.unique(clusters)[:40]
        left_out = [np.mean([PLAIN[metric](PART & (clusters != one), s) for s in (TRUTH, NOISY)]) for one in numbers]
        exact = found.value - np.array(left_out)
        if metric == "gauc" and clusters is not USER:
            # Within a request of a dozen rows, a row that is left out moves the others' shares.
            assert np.corrcoef(changes[: len(numbers)], exact)[0, 1] > 0.9
        else:
            # Exact for ratios; the AUC misses the pairs within the cluster.
            assert changes[: len(numbers)] == pytest.approx(exact, abs=0.06 * np.abs(exact).max())


def test_placements_are_shares_of_the_other_class_in_all_rows_and_within_groups() -> None:
    def of(rows: np.ndarray, row: int) -> float:
        others = TRUTH[rows & (LABEL[row] != LABEL)]
        below, ties = (others < TRUTH[row]).mean(), (others == TRUTH[row]).mean()
        return below + ties / 2 if LABEL[row] else 1 - below - ties / 2

    everything = np.ones(ROWS, bool)
    whole, inside = placements(LABEL, SortedScores.of(TRUTH)), within_groups(LABEL, TRUTH, DATA.group)
    for row in range(0, ROWS, 97):
        group = DATA.group == DATA.group[row]
        assert whole[row] == pytest.approx(of(everything, row))
        assert inside.placement[row] == pytest.approx(of(group, row))
        assert inside.auc[row] == pytest.approx(auc(LABEL[group], TRUTH[group]))
        assert inside.group_rows[row] == group.sum()
        assert inside.class_rows[row] == (LABEL[group] == LABEL[row]).sum()


def test_a_group_of_one_class_has_no_placement() -> None:
    inside = within_groups(np.array([1, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]), np.array([5, 5, 7, 7]))
    assert np.isnan(inside.auc[:2]).all() and np.isnan(inside.placement[:2]).all()
    assert inside.auc[2:].tolist() == [1, 1]


def test_an_undefined_metric_has_no_value() -> None:
    few = np.zeros(ROWS, bool)
    few[np.flatnonzero(LABEL == 1)[:40]] = True
    assert set(Evaluator(DATA, {"part": few}).evaluate([TRUTH])["part"].metrics) == {"logloss", "calibration"}


def world(
    seed: int, users: int = 60, items: int = 50, rows: int = 1200
) -> tuple[EvaluationRows, np.ndarray, np.ndarray]:
    """Two rankers whose difference varies by user and by item, on fresh users and items."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    taste, quality = rng.normal(size=users)[user], rng.normal(size=items)[item]
    clusters = Clusters.of(user, item)
    label = (rng.random(rows) < 1 / (1 + np.exp(-taste - quality))).astype(np.int8)
    return EvaluationRows(label, clusters, clusters.user, "user"), taste, quality


def test_intervals_cover_differences_that_vary_by_user_and_by_item() -> None:
    differences, covered_with_items, covered_by_users = [], [], []
    for seed in range(300):
        rows, taste, quality = world(seed)
        evaluator = Evaluator(rows, {"all": np.ones(len(taste), bool)})
        one, other = (evaluator.evaluate([score])["all"].metrics["auc"] for score in (taste, quality))
        found = difference(one, other).interval
        changes = one.changes - other.changes
        users_only = Changes(changes.user, 0 * changes.item, 0 * changes.pair).variance(one.support)
        differences.append(found.value)
        covered_with_items.append(found)
        covered_by_users.append(users_only.margin)
    true = float(np.mean(differences))  # by symmetry 0
    share = np.mean([found.low <= true <= found.high for found in covered_with_items])
    assert 0.92 <= share <= 0.985
    by_users = np.mean(
        [abs(value - true) <= margin for value, margin in zip(differences, covered_by_users, strict=True)]
    )
    assert by_users < 0.9


def test_a_row_of_the_results_is_the_stated_object() -> None:
    rng = np.random.default_rng(1)
    clusters = Clusters.of(np.arange(3000), np.arange(3000))
    support = Support.of(np.tile([0, 0, 0, 1], 750), clusters)

    def value(mean: float, by_seed: tuple[float, ...], size: float) -> MetricValue:
        moved = rng.normal(scale=size, size=3000)
        return MetricValue(mean, by_seed, support, lambda: [Changes(moved, moved, moved)] * 2)

    own, base = value(0.7, (0.65, 0.75), 1e-4), value(0.6, (0.6, 0.6), 1e-4)
    row = Row.of("world", "A9", "cold", "auc", own, ("A3", difference(own, base))).as_json()
    assert list(row) == [
        "data", "arm", "seeds", "slice", "metric", "mean", "low", "high", "baseline", "delta", "delta_low", "delta_high",
        "positives", "verdict", "reason", "effective_users",
    ]  # fmt: skip
    assert (row["seeds"], row["mean"], row["delta"], row["positives"], row["effective_users"]) == (
        2,
        0.7,
        0.1,
        750,
        750,
    )
    assert row["delta_low"] < 0.1 < row["delta_high"]
    # Two seeds that differ by .1 leave one degree of freedom: no verdict on a gain of .1.
    assert (row["verdict"], row["reason"]) == ("no evidence", "interval contains 0")
    alone = Row.of("world", "A3", "cold", "calibration", own, None).as_json()
    assert [alone[key] for key in ("baseline", "delta", "delta_low", "delta_high", "verdict", "reason")] == [None] * 6


def test_groups_are_requests_where_the_log_names_them() -> None:
    data = random_set(30)
    assert EvaluationRows.of(data).grouped_by == "user"
    requests = np.array([f"r{place // 3}" if place > 5 else None for place in range(30)], dtype=object)
    with_requests = EvaluationRows.of(
        dataclasses.replace(data, rows=dataclasses.replace(data.rows, request_ids=requests))
    )
    assert with_requests.grouped_by == "request"
    assert len(np.unique(with_requests.group[6:])) == 8
    assert len(np.unique(with_requests.group[:6])) == len(
        set(zip(data.rows.user_ids[:6], data.rows.at_us[:6], strict=True))
    )
