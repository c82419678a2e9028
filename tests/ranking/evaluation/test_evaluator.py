"""The evaluation of arms: metrics per slice, paired differences, the oracle, and what it refuses to say."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from helpers.builders import DAY, START, FinishedJob
from helpers.training_builders import set_with
from ranking.data.dataset import Dataset
from ranking.evaluation.evaluator import LEAST_PER_CLASS, EvaluationRows, Evaluator, enough, refuse_leakage
from ranking.evaluation.metrics import auc, gauc
from ranking.evaluation.slices import slices
from ranking.experiments.evaluate import evaluate_ranker
from ranking.pipeline.evaluation import evaluate_arms
from semantic_ids.catalog import Catalog
from sidkit.core.clock import iso
from sidkit.core.errors import EvaluationError, LeakageError
from sidkit.core.intervals import ONE_SEED


def world(rows: int = 500, cold: int = 200, users: int = 40) -> tuple[Dataset, np.ndarray]:
    """Rows of which the first ``cold`` are of cold items, and their true probabilities."""
    rng = np.random.default_rng(0)
    data = set_with([3] * cold + [50] * (rows - cold), age_days=[2.0] * rows)
    truth = 1 / (1 + np.exp(-rng.normal(size=rows) * 1.5))
    user_ids = np.array([f"u{number}" for number in rng.integers(0, users, rows)], dtype=object)
    label = (rng.random(rows) < truth).astype(np.int8)
    return dataclasses.replace(data, rows=dataclasses.replace(data.rows, user_ids=user_ids, label=label)), truth


DATA, TRUTH = world()
NOISY = np.clip(TRUTH + 0.2 * np.random.default_rng(1).normal(size=len(TRUTH)), 0.01, 0.99)
NOISE = np.random.default_rng(2).uniform(0.01, 0.99, len(TRUTH))


def relabelled(data: Dataset, **changes: np.ndarray) -> Dataset:
    return dataclasses.replace(data, rows=dataclasses.replace(data.rows, **changes))


def evaluated(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The evaluation as it is written."""
    return evaluate_arms(*arguments, **options).as_json()


def auc_difference(label: np.ndarray, scores: list[np.ndarray], base: list[np.ndarray], rows: np.ndarray) -> float:
    return float(
        np.mean(
            [
                auc(label[rows], one[rows]) - auc(label[rows], other[rows])
                for one, other in zip(scores, base, strict=True)
            ]
        )
    )


def resampled_differences(
    label: np.ndarray, scores: list[np.ndarray], base: list[np.ndarray], user: np.ndarray
) -> list[float]:
    """Differences on samples of users with replacement."""
    rng, users = np.random.default_rng(0), np.unique(user)
    rows_of = [np.flatnonzero(user == one) for one in users]
    return [
        auc_difference(
            label, scores, base, np.concatenate([rows_of[one] for one in rng.integers(0, len(users), len(users))])
        )
        for _ in range(60)
    ]


def number(names: np.ndarray) -> np.ndarray:
    return np.unique(names.astype(str), return_inverse=True)[1]


def test_each_slice_has_its_own_figures_averaged_over_seeds() -> None:
    told = evaluated(DATA, {"arm": [TRUTH, NOISY]}, [], None)["arms"]["arm"]
    assert set(told) == {"all", "cold", "warm", "prior 1-9", "prior 10-99", "age 1-3 d"}
    for name, rows in slices(DATA).items():
        label, seeds = DATA.rows.label[rows], [TRUTH[rows], NOISY[rows]]
        each = [roc_auc_score(label, scores) for scores in seeds]
        assert told[name]["auc"] == pytest.approx(np.mean(each))
        assert told[name]["auc_by_seed"] == pytest.approx(each)
        assert told[name]["logloss"] == pytest.approx(np.mean([log_loss(label, scores) for scores in seeds]))
        assert told[name]["calibration"] == pytest.approx(np.mean([s.mean() / label.mean() for s in seeds]))
        rate = np.full(len(label), label.mean())
        assert told[name]["normalised_entropy"] == pytest.approx(told[name]["logloss"] / log_loss(label, rate))


def test_rows_positives_and_users_of_each_slice_are_told() -> None:
    told = evaluated(DATA, {"arm": [TRUTH]}, [], None)["rows"]
    for name, rows in slices(DATA).items():
        assert 0 < told[name].pop("effective_users") <= told[name]["users"]
        assert told[name] == {
            "rows": rows.sum(), "positives": DATA.rows.label[rows].sum(), "users": len(set(DATA.rows.user_ids[rows])),
        }  # fmt: skip


def test_groups_are_requests_where_the_log_names_them_else_users() -> None:
    by_user = evaluated(DATA, {"arm": [NOISY]}, [], None)
    requests = np.array([f"r{row // 5}" for row in range(len(DATA))], dtype=object)
    by_request = evaluated(relabelled(DATA, request_ids=requests), {"arm": [NOISY]}, [], None)
    for verdict, names, by in [(by_user, DATA.rows.user_ids, "user"), (by_request, requests, "request")]:
        value, kept = gauc(DATA.rows.label, NOISY, number(names))
        assert verdict["gauc_by"] == by
        assert verdict["arms"]["arm"]["all"]["gauc"] == pytest.approx(value)
        assert verdict["arms"]["arm"]["all"]["gauc_kept"] == pytest.approx(kept)
    assert by_user["arms"]["arm"]["all"]["gauc"] != by_request["arms"]["arm"]["all"]["gauc"]


def test_rows_without_a_request_are_not_one_request() -> None:
    data = DATA.take(np.arange(6))
    label = np.array([1, 0, 1, 0, 1, 0], dtype=np.int8)
    requests = np.array(["r", "r", None, None, None, None], dtype=object)
    users = np.array(["a", "a", "b", "c", "d", "e"], dtype=object)
    right_in_r = np.array([0.9, 0.1, 0.2, 0.8, 0.3, 0.7])
    told = evaluated(
        relabelled(data, label=label, request_ids=requests, user_ids=users), {"arm": [right_in_r]}, [], None
    )
    assert told["arms"]["arm"]["all"]["gauc"] == 1.0


@pytest.mark.parametrize(("positives", "told"), [(49, False), (50, True), (450, True), (451, False)])
def test_a_slice_with_fewer_than_fifty_rows_of_a_class_has_no_auc(positives: int, told: bool) -> None:
    label = (np.arange(500) < positives).astype(np.int8)[np.random.default_rng(0).permutation(500)]
    data = relabelled(DATA, label=label)
    assert LEAST_PER_CLASS == 50
    assert enough(label) == told
    verdict = evaluated(data, {"arm": [TRUTH], "base": [NOISE]}, ["base"], TRUTH)
    figures = verdict["arms"]["arm"]["all"]
    assert (figures["auc"] is not None) == (figures["auc_by_seed"] is not None) == told
    assert ("auc_interval" in figures) == told
    assert (verdict["oracle"]["all"] is not None) == told
    assert any(row["slice"] == "all" for row in verdict["differences"]) == told
    assert figures["logloss"] is not None


def test_differences_are_paired_by_row_and_seed_for_every_arm_and_slice() -> None:
    arms = {"arm": [TRUTH, TRUTH**2], "base": [NOISY, NOISY**2], "third": [NOISE, NOISE]}
    # Every row has an item of its own, so that users are the only clusters of several rows.
    data = relabelled(DATA, item_ids=np.arange(len(DATA)).astype(str).astype(object))
    told = evaluated(data, arms, ["base", "absent"], None, least_positives=10, least_users=10)["differences"]
    assert [(row["arm"], row["baseline"], row["slice"]) for row in told] == [
        (arm, "base", name) for arm in ("arm", "third") for name in ("all", "cold", "warm")
    ]
    for row in told:
        rows = slices(DATA)[row["slice"]]
        scores, base = ([each[rows] for each in arms[name]] for name in (row["arm"], "base"))
        label, user = DATA.rows.label[rows], number(DATA.rows.user_ids[rows])
        drawn = resampled_differences(label, scores, base, user)
        assert row["value"] == pytest.approx(auc_difference(label, scores, base, np.arange(len(label))))
        # Users resampled: as wide as the interval, which has few items and seeds that hardly differ.
        assert row["high"] - row["low"] == pytest.approx(2 * 2.03 * np.std(drawn), rel=0.35)
        assert row["low"] <= row["value"] <= row["high"]
    assert told[0]["verdict"] == "better"
    assert told[3]["verdict"] == "worse"


def test_a_difference_on_under_500_positives_is_no_evidence() -> None:
    (row, *_) = evaluated(DATA, {"arm": [TRUTH], "base": [NOISE]}, ["base"], None)["differences"]
    assert row["low"] > 0
    assert row["positives"] == int(DATA.rows.label.sum()) < 500
    assert row["verdict"] == "no evidence"


def test_an_arm_that_equals_its_baseline_gives_no_evidence() -> None:
    for row in evaluated(DATA, {"arm": [NOISY], "base": [NOISY.copy()]}, ["base"], None)["differences"]:
        assert (row["value"], row["low"], row["high"], row["verdict"]) == (0, 0, 0, "no evidence")


def test_one_seed_per_arm_has_intervals_but_no_verdict() -> None:
    (row, *_) = evaluated(DATA, {"arm": [TRUTH], "base": [NOISE]}, ["base"], None, least_positives=10, least_users=10)[
        "differences"
    ]
    assert row["low"] > 0
    assert (row["verdict"], row["reason"]) == ("no evidence", ONE_SEED)


def test_items_of_many_rows_widen_the_interval() -> None:
    items = np.array([f"i{number % 5}" for number in range(len(DATA))], dtype=object)
    # All rows of an item share its label, so five items are all that the rows know of.
    label = np.isin(items, ["i1", "i3"]).astype(np.int8)
    few, many = (
        evaluated(relabelled(DATA, label=label, item_ids=ids), {"arm": [NOISY]}, [], None)["arms"]["arm"]["all"]
        for ids in (items, np.arange(len(DATA)).astype(str).astype(object))
    )
    widths = [row["auc_interval"][1] - row["auc_interval"][0] for row in (few, many)]
    assert widths[0] > widths[1]


def test_the_oracle_is_the_auc_of_the_truth_where_it_is_known() -> None:
    known = TRUTH.copy()
    known[::3] = np.nan
    told = evaluated(DATA, {"arm": [NOISY]}, [], known)
    rows = np.isfinite(known)
    assert told["oracle"]["all"] == pytest.approx(roc_auc_score(DATA.rows.label[rows], known[rows]))
    assert set(told["oracle"]) == set(told["rows"])
    assert evaluated(DATA, {"arm": [NOISY]}, [], None)["oracle"] is None
    assert told["ceiling"] is None
    assert evaluated(DATA, {"arm": [NOISY]}, [], None, ceiling=known)["ceiling"] == told["oracle"]
    assert evaluated(DATA, {"arm": [NOISY]}, [], np.full(len(DATA), np.nan))["oracle"]["all"] is None


def test_what_is_undefined_is_null() -> None:
    data = relabelled(DATA, label=np.zeros(len(DATA), dtype=np.int8))
    figures = evaluated(data, {"arm": [NOISY]}, [], None)["arms"]["arm"]["all"]
    assert {name for name, value in figures.items() if value is None} == {
        "auc", "auc_by_seed", "gauc", "normalised_entropy", "calibration",
    }  # fmt: skip


@pytest.mark.parametrize("users", [40, 1])
def test_an_evaluation_is_valid_json(users: int) -> None:
    data, truth = world(users=users)
    verdict = evaluated(data, {"arm": [truth], "base": [NOISE]}, ["base"], truth)
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict


def test_an_evaluation_may_start_where_the_fits_end() -> None:
    refuse_leakage(START, {"codes_v1": START, "older": START - DAY})
    refuse_leakage(START, {})


def test_an_evaluation_before_a_fit_end_names_the_artefacts_and_the_dates() -> None:
    ends = {"codes_v1": START + DAY, "old": START, "ranker_v2": START + 2 * DAY}
    with pytest.raises(LeakageError) as caught:
        refuse_leakage(START, ends)
    assert caught.value.evaluation_start == "2020-01-01T00:00:00+00:00"
    assert caught.value.parents == {
        "codes_v1": "2020-01-02T00:00:00+00:00", "ranker_v2": "2020-01-03T00:00:00+00:00",
    }  # fmt: skip
    for said in ("2020-01-01", "codes_v1", "2020-01-02", "ranker_v2", "2020-01-03"):
        assert said in str(caught.value)
    assert "old" not in caught.value.parents


# One ranker of a finished job, evaluated again through the feature store.


def test_a_ranker_evaluated_again_on_the_test_window_gets_the_figures_of_the_job(finished: FinishedJob) -> None:
    name = finished.result.rankers["id_codes"][0]
    assert name is not None
    told = evaluate_ranker(finished.repo, name, finished.repo.labelled_rows)
    stated = finished.result.evaluation
    assert told.rows == stated.rows
    assert told.gauc_by == stated.gauc_by == "request"
    assert set(told.slices) == set(stated.arms["id_codes"])
    for slice_name, figures in stated.arms["id_codes"].items():
        for metric, figure in vars(figures).items():
            found = getattr(told.slices[slice_name], metric)
            assert found == (None if figure is None else pytest.approx(figure, rel=1e-6)), (slice_name, metric)


def test_a_comparison_says_why_it_shows_nothing() -> None:
    evaluator = Evaluator(EvaluationRows.of(DATA), slices(DATA))
    truth, noise = evaluator.evaluate([TRUTH, 0.999 * TRUTH]), evaluator.evaluate([NOISE, 0.999 * NOISE])
    assert evaluator.compare(truth, noise)["all"].verdict.reason == (
        f"{DATA.rows.label.sum()} positives (500 needed) and 36 effective users (200 needed)"
    )
    some = Evaluator(EvaluationRows.of(DATA), slices(DATA), least_positives=10, least_users=10)
    assert some.compare(truth, truth)["all"].verdict.reason == "interval contains 0"
    assert some.compare(truth, noise)["all"].verdict.outcome == "better"
    assert some.compare(truth, noise, "logloss", ["all"])["all"].verdict.outcome == "better"
    assert list(some.compare(truth, noise, slices=["cold", "absent"])) == ["cold"]


def test_a_ranker_is_not_evaluated_on_rows_that_it_has_seen(finished: FinishedJob) -> None:
    catalog = Catalog.open(finished.repo)
    record = catalog.ranker(finished.result.rankers["id_codes"][0])
    codebook = catalog.codebook(record.codebook)
    with pytest.raises(LeakageError, match=re.escape(iso(record.fit_end_us))) as caught:
        evaluate_ranker(finished.repo, record.name, finished.repo.labelled_rows, codebook.fit_end_us)
    assert set(caught.value.parents) == {record.name}
    with pytest.raises(LeakageError) as caught:
        evaluate_ranker(finished.repo, record.name, finished.repo.labelled_rows, codebook.fit_end_us - 1)
    assert caught.value.parents == {record.name: iso(record.fit_end_us), codebook.name: iso(codebook.fit_end_us)}


def test_an_evaluation_without_rows_is_refused(finished: FinishedJob) -> None:
    name = finished.result.rankers["id"][0]
    with pytest.raises(EvaluationError, match="expected rows at or after"):
        evaluate_ranker(finished.repo, name, finished.repo.labelled_rows, START + 9000 * DAY)
