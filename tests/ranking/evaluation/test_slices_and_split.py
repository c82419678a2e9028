"""Slices as of the row, the global split in time, thinning by user, and the labelled rows they work on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START, moments
from helpers.training_builders import set_with
from ranking.data.dataset import Dataset, read_rows
from ranking.data.split import TimeSplit, check_both_classes
from ranking.evaluation.slices import COLD_BELOW, prior_interactions, slices
from sidkit.core.config import SplitSettings
from sidkit.core.errors import ContractError, EvaluationError
from sidkit.datasets.user_sample import thin_by_user

law = settings(max_examples=100, deadline=None, database=None)
COUNTS = st.integers(0, 2_000_000)


def rows_in(data: Dataset, name: str) -> list[int]:
    found = slices(data)
    return np.flatnonzero(found[name]).tolist() if name in found else []


@law
@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=20))
def test_an_item_is_as_warm_as_the_larger_of_its_counts(pairs: list[tuple[int, int]]) -> None:
    # Where the log holds positives only, exposures are unknown and go in as 0.
    exposures, clicks = map(list, zip(*pairs, strict=True))
    data = set_with(exposures, clicks)
    expected = np.maximum(exposures, clicks)
    assert prior_interactions(data) == pytest.approx(expected, rel=2e-6, abs=0)
    small = expected < 10_000
    assert prior_interactions(data)[small].tolist() == expected[small].tolist()


def test_an_item_is_cold_below_ten_interactions() -> None:
    data = set_with([0, 9, 10, 500], [0, 3, 0, 20])
    assert COLD_BELOW == 10
    assert rows_in(data, "all") == [0, 1, 2, 3]
    assert rows_in(data, "cold") == [0, 1]
    assert rows_in(data, "warm") == [2, 3]


def test_prior_buckets_have_the_stated_edges() -> None:
    data = set_with([0, 1, 9, 10, 99, 100, 999, 1000, 50_000])
    names = ["prior 0", "prior 1-9", "prior 10-99", "prior 100-999", "prior 1000+"]
    assert [rows_in(data, name) for name in names] == [[0], [1, 2], [3, 4], [5, 6], [7, 8]]


def test_age_buckets_have_the_stated_edges_and_leave_out_items_of_unknown_age() -> None:
    data = set_with([0] * 8, age_days=[0.0, 0.99, 1.01, 2.9, 3.1, 7.1, 30.1, None])
    names = ["age < 1 d", "age 1-3 d", "age 3-7 d", "age 7-30 d", "age > 30 d"]
    assert [rows_in(data, name) for name in names] == [[0, 1], [2, 3], [4], [5], [6]]


@law
@given(st.lists(st.tuples(COUNTS, st.one_of(st.none(), st.floats(0, 4000))), min_size=1, max_size=30))
def test_each_row_is_in_one_prior_bucket_and_in_one_age_bucket_if_its_age_is_known(
    rows: list[tuple[int, float | None]],
) -> None:
    data = set_with([count for count, _ in rows], age_days=[age for _, age in rows])
    found = slices(data)
    prior = sum(found[name].astype(int) for name in found if name.startswith("prior"))
    age = sum((found[name].astype(int) for name in found if name.startswith("age")), np.zeros(len(rows), int))
    assert prior.tolist() == [1] * len(rows)
    assert age.tolist() == [int(told is not None) for _, told in rows]
    both = found.get("cold", np.zeros(len(rows), bool)) ^ found.get("warm", np.zeros(len(rows), bool))
    assert both.all()


def test_slices_without_rows_are_not_listed() -> None:
    assert set(slices(set_with([500], age_days=[100.0]))) == {"all", "warm", "prior 100-999", "age > 30 d"}


def test_first_touches_and_returns_are_told_apart_where_users_come_back() -> None:
    data = set_with([5, 5, 5])
    had = dataclasses.replace(data.rows, had_before=np.array([False, True, False]))
    never = dataclasses.replace(data.rows, had_before=np.zeros(3, dtype=bool))
    assert rows_in(dataclasses.replace(data, rows=had), "first touch") == [0, 2]
    assert rows_in(dataclasses.replace(data, rows=had), "returning") == [1]
    assert not {"first touch", "returning"} & set(slices(dataclasses.replace(data, rows=never)))


def test_the_same_item_is_cold_in_the_morning_and_warm_in_the_evening() -> None:
    data = set_with([9, 10])
    same = dataclasses.replace(data, candidate=np.array([4, 4], dtype=np.int32))
    assert rows_in(same, "cold") == [0]
    assert rows_in(same, "warm") == [1]


@st.composite
def sorted_times(draw: st.DrawFn) -> np.ndarray:
    """Many ties, as in real logs."""
    return np.sort(np.array(draw(st.lists(st.integers(0, 30), min_size=0, max_size=120)), dtype=np.int64)) + START


shares = st.sampled_from([(0.8, 0.1), (0.5, 0.25), (0.34, 0.33), (0.05, 0.05)])


@law
@given(sorted_times(), shares)
def test_a_split_is_in_time_disjoint_and_complete_or_refused(at_us: np.ndarray, cut: tuple[float, float]) -> None:
    settings_ = SplitSettings(train=cut[0], validation=cut[1])
    try:
        split = TimeSplit.of(at_us, settings_)
    except EvaluationError:
        first, second = int(len(at_us) * cut[0]), int(len(at_us) * (cut[0] + cut[1]))
        empty = not 0 < first < second < len(at_us)
        assert empty or len({at_us[0], at_us[first], at_us[second]}) < 3, "this log can be split"
        return
    parts = split.parts(at_us)
    assert list(parts) == ["train", "validation", "test"]
    assert np.concatenate(list(parts.values())).tolist() == list(range(len(at_us)))
    assert all(len(part) for part in parts.values())
    seen = [set(at_us[part].tolist()) for part in parts.values()]
    assert max(seen[0]) < min(seen[1])
    assert max(seen[1]) < min(seen[2])


def test_without_ties_the_parts_have_the_asked_shares() -> None:
    at_us = START + np.arange(1000, dtype=np.int64) * 60_000_000
    parts = TimeSplit.of(at_us, SplitSettings(train=0.7, validation=0.2)).parts(at_us)
    assert {name: len(part) for name, part in parts.items()} == pytest.approx(
        {"train": 700, "validation": 200, "test": 100}, abs=1
    )


def test_rows_of_one_moment_stay_together_even_across_the_cut() -> None:
    at_us = np.array([1, 2, 3, 4, 4, 4, 4, 5, 6, 7]) + START
    parts = TimeSplit.of(at_us, SplitSettings(train=0.5, validation=0.3)).parts(at_us)
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": [0, 1, 2], "validation": [3, 4, 5, 6, 7], "test": [8, 9],
    }  # fmt: skip


@pytest.mark.parametrize("at_us", [[], [1], [1, 2], [5] * 100, [1] * 90 + [2] * 10])
def test_a_log_of_too_few_moments_is_refused_with_its_size(at_us: list[int]) -> None:
    with pytest.raises(EvaluationError, match=rf"^{len(at_us)} rows cannot be split in time.*distinct times"):
        TimeSplit.of(np.array(at_us, dtype=np.int64), SplitSettings())


def test_a_split_describes_its_cuts_in_utc() -> None:
    assert TimeSplit(START, START + DAY, START - DAY).describe() == {
        "codebook_end": "2019-12-31T00:00:00+00:00",
        "train_end": "2020-01-01T00:00:00+00:00",
        "validation_end": "2020-01-02T00:00:00+00:00",
    }


@law
@given(sorted_times(), shares, st.sampled_from([None, 0.01, 0.04]))
def test_rankers_train_between_the_end_of_the_codebooks_clicks_and_the_validation_rows(
    at_us: np.ndarray, cut: tuple[float, float], codebook: float | None
) -> None:
    settings_ = SplitSettings(train=cut[0], validation=cut[1], codebook=codebook)
    try:
        split = TimeSplit.of(at_us, settings_)
    except EvaluationError:
        return
    share = codebook or 0.625 * cut[0]
    assert settings_.codebook_share == share
    fit_end = split.fit_end_us(learns_from_clicks=True)
    assert int((at_us < fit_end).sum()) <= len(at_us) * share, "at most this share of the rows is before the cut"
    assert split.fit_end_us(learns_from_clicks=False) == split.train_end_us
    whole, parts = split.parts(at_us), split.training_from(fit_end).parts(at_us)
    assert parts["train"].tolist() == [row for row in whole["train"] if at_us[row] >= fit_end]
    for name in ("validation", "test"):
        assert parts[name].tolist() == whole[name].tolist()


def users(*rows_each: int) -> np.ndarray:
    names = [f"user {number}" for number, rows in enumerate(rows_each) for _ in range(rows)]
    return np.array(names, dtype=object)


@law
@given(st.lists(st.integers(1, 6), min_size=1, max_size=60), st.integers(1, 200), st.randoms())
def test_thinning_takes_whole_users_by_their_ids_alone(each: list[int], most: int, random: object) -> None:
    user_ids = users(*each)
    order = np.arange(len(user_ids))
    random.shuffle(order)  # type: ignore[attr-defined]
    kept = thin_by_user(user_ids, most)
    chosen = set(user_ids[kept])
    assert kept.tolist() == [row for row, user in enumerate(user_ids) if user in chosen]
    assert set(user_ids[order][thin_by_user(user_ids[order], most)]) == chosen
    assert chosen <= set(user_ids[thin_by_user(user_ids, most + 7)])
    if most >= len(user_ids):
        assert len(kept) == len(user_ids)


def test_thinning_gives_about_the_asked_number_of_rows() -> None:
    rng = np.random.default_rng(0)
    user_ids = users(*rng.integers(1, 10, 8000))
    for most in (2000, 10_000, 30_000):
        assert len(thin_by_user(user_ids, most)) == pytest.approx(most, rel=0.1)


def test_both_classes_pass() -> None:
    check_both_classes(np.array([0, 1, 0], dtype=np.int8), "train")


@pytest.mark.parametrize(("label", "said"), [([1, 1, 1], "label 1"), ([0, 0], "label 0"), ([], "label 0")])
def test_one_class_is_refused_with_what_there_is(label: list[int], said: str) -> None:
    with pytest.raises(EvaluationError, match=rf"the validation rows \({len(label)}\) all have {said}.*split\.train"):
        check_both_classes(np.array(label, dtype=np.int8), "validation")


def rows_table(**columns: pa.Array) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array(["u", "v", "u"]),
            "item_id": pa.array(["a", "b", "b"]),
            "event_timestamp": moments([START, START + 1, START + 2]),
            "label": pa.array([0, 1, 0], pa.int8()),
            **columns,
        }
    )


def test_labelled_rows_are_read_from_parquet_to_the_microsecond(tmp_path: Path) -> None:
    table = rows_table(request_id=pa.array(["r", "r", "s"]), had_before=pa.array([False, True, False]))
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read_rows(tmp_path / "rows.parquet")
    assert (rows.user_ids.tolist(), rows.item_ids.tolist()) == (["u", "v", "u"], ["a", "b", "b"])
    assert rows.at_us.tolist() == [START, START + 1, START + 2]
    assert rows.label.tolist() == [0, 1, 0]
    assert rows.request_ids is not None
    assert rows.request_ids.tolist() == ["r", "r", "s"]
    assert rows.had_before is not None
    assert rows.had_before.tolist() == [False, True, False]
    assert len(rows.take(np.array([2, 0]))) == 2
    assert rows.take(np.array([2, 0])).user_ids.tolist() == ["u", "u"]


def test_rows_without_requests_have_none() -> None:
    assert read_rows(rows_table()).request_ids is None
    assert read_rows(rows_table(request_id=pa.nulls(3, pa.string()))).request_ids is None


def test_some_rows_may_lack_a_request_id() -> None:
    rows = read_rows(rows_table(request_id=pa.array(["r", None, "s"])))
    assert rows.request_ids is not None
    assert (rows.request_ids[0], rows.request_ids[2]) == ("r", "s")


def test_rows_that_lack_a_column_are_refused_by_its_name() -> None:
    with pytest.raises(ContractError, match="expected column 'event_timestamp', 'label', got user_id, item_id"):
        read_rows(rows_table().select(["user_id", "item_id"]))
