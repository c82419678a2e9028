"""Numeric features against plain Python, and their scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START
from ranking.data.numeric_features import (
    SMOOTHING,
    Scaling,
    age_days,
    feature_names,
    model_features,
    numeric_column,
    numeric_columns,
    numeric_features,
    undo_model_features,
)
from sidkit.core.feature_settings import WINDOWS
from sidkit.stores.offline.plan import ViewRows

law = settings(max_examples=80, deadline=None, database=None)

Row = Mapping[str, Any] | None
COUNTS = {
    "item_stats": [f"{kind}_{window}" for kind in ("exposures", "clicks", "conversions") for window in WINDOWS],
    "user_stats": [f"{kind}_{window}" for kind in ("exposures", "clicks") for window in WINDOWS],
}
TYPES = {
    "item_content": {"created_at_us": pa.int64(), "price": pa.float32()},
    "user_history": {"item_ids": pa.list_(pa.string()), "timestamps_us": pa.list_(pa.int64())},
    **{name: dict.fromkeys(columns, pa.int64()) for name, columns in COUNTS.items()},
}


def view(name: str, rows: list[Row]) -> ViewRows:
    """A view as a store gives it: distinct feature rows once, -1 for rows without any."""
    distinct: list[Any] = []
    index = []
    for row in rows:
        if row is not None and row not in distinct:
            distinct.append(row)
        index.append(-1 if row is None else distinct.index(row))
    columns = {
        f"{name}__{column}": pa.array([row.get(column) for row in distinct], kind)
        for column, kind in TYPES[name].items()
    }
    return ViewRows(name, np.array(index, dtype=np.int64), pa.table(columns))


def features(
    rows: list[dict[str, Row]], items: list[str], at_us: list[int], rate: float = 0.1
) -> dict[str, list[float]]:
    """Name -> what a model sees of each row; ``rows`` give the views' rows."""
    views = {name: view(name, [row.get(name) for row in rows]) for name in TYPES}
    matrix = numeric_features(views, np.array(items, dtype=object), np.array(at_us, dtype=np.int64), rate)
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(rows), len(feature_names()))
    return {name: column.tolist() for name, column in zip(feature_names(), model_features(matrix).T, strict=True)}


def by_hand(row: dict[str, Row], item: str, at_us: int, rate: float) -> dict[str, float]:
    expected: dict[str, float] = {}
    for side in ("item", "user"):
        told = row.get(f"{side}_stats") or {}
        for window in WINDOWS:
            exposures, clicks = told.get(f"exposures_{window}"), told.get(f"clicks_{window}") or 0
            expected[f"{side}_log_exposures_{window}"] = math.log1p(exposures or 0)
            expected[f"{side}_log_clicks_{window}"] = math.log1p(clicks)
            expected[f"{side}_rate_{window}"] = (
                rate if exposures is None else (clicks + SMOOTHING * rate) / (max(exposures, clicks) + SMOOTHING)
            )
    for window in WINDOWS:
        conversions = (row.get("item_stats") or {}).get(f"conversions_{window}")
        expected[f"item_log_conversions_{window}"] = math.log1p(conversions or 0)
    content = row.get("item_content") or {}
    created, price = content.get("created_at_us"), content.get("price")
    expected["item_without_content"] = float(created is None)
    expected["item_log_age_days"] = 0.0 if created is None else math.log1p(max(at_us - created, 0) / DAY)
    expected["item_log_price"] = 0.0 if price is None else math.log1p(max(price, 0))
    history = row.get("user_history") or {"item_ids": [], "timestamps_us": []}
    moments = history["timestamps_us"]
    expected["history_length"] = math.log1p(len(moments))
    expected["history_log_gap_days"] = math.log1p(max(at_us - moments[0], 0) / DAY) if moments else 0.0
    expected["history_log_span_days"] = math.log1p(max(at_us - moments[-1], 0) / DAY) if moments else 0.0
    expected["item_in_history"] = float(item in history["item_ids"])
    return expected


count = st.one_of(st.none(), st.integers(0, 10**7))
moment = st.integers(START - 4000 * DAY, START + 2 * DAY)
items = st.sampled_from(["a", "b", "c", "é"])


@st.composite
def rows_of_views(draw: st.DrawFn) -> list[tuple[dict[str, Row], str, int]]:
    """Views' rows with nulls, rows that are missing, and views that are missing for every row."""

    def stats(columns: list[str]) -> Row:
        return dict.fromkeys(columns) | {column: draw(count) for column in columns if draw(st.booleans())}

    pool: dict[str, list[Row]] = {name: [None] for name in TYPES}
    for name, columns in COUNTS.items():
        pool[name] += [stats(columns) for _ in range(draw(st.integers(0, 2)))]
    content = st.fixed_dictionaries(
        {"created_at_us": st.one_of(st.none(), moment), "price": st.one_of(st.none(), st.floats(-5, 1e6, width=32))}
    )
    pool["item_content"] += draw(st.lists(content, max_size=3))
    for _ in range(draw(st.integers(0, 3))):
        ids = draw(st.lists(items, max_size=5))
        times = sorted(draw(st.lists(moment, min_size=len(ids), max_size=len(ids))), reverse=True)
        pool["user_history"].append({"item_ids": ids, "timestamps_us": times})
    return [
        ({name: draw(st.sampled_from(pool[name])) for name in TYPES}, draw(items), draw(moment))
        for _ in range(draw(st.integers(1, 6)))
    ]


@law
@given(rows_of_views(), st.floats(0.001, 0.999))
def test_numeric_features_are_those_of_plain_python(case: list[tuple[dict[str, Row], str, int]], rate: float) -> None:
    told = features([row for row, _, _ in case], [item for _, item, _ in case], [at for _, _, at in case], rate)
    for at, (row, item, at_us) in enumerate(case):
        expected = by_hand(row, item, at_us, rate)
        assert {name: values[at] for name, values in told.items()} == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert set(expected) == set(told)


@law
@given(rows_of_views())
def test_the_features_of_a_row_do_not_depend_on_the_other_rows(case: list[tuple[dict[str, Row], str, int]]) -> None:
    together = features([row for row, _, _ in case], [item for _, item, _ in case], [at for _, _, at in case])
    for at, (row, item, at_us) in enumerate(case):
        alone = features([row], [item], [at_us])
        assert {name: values[at] for name, values in together.items()} == {
            name: each[0] for name, each in alone.items()
        }


def test_a_row_of_which_nothing_is_known_tells_nothing_but_that() -> None:
    told = features([{}], ["a"], [START], rate=0.07)
    rates = {name for name in told if "_rate_" in name}
    assert len(rates) == 8
    assert {told[name][0] for name in rates} == {np.float32(0.07)}
    assert told["item_without_content"] == [1.0]
    assert all(values == [0.0] for name, values in told.items() if name not in {*rates, "item_without_content"})


def test_a_rate_moves_from_the_training_rate_to_the_items_own_as_exposures_grow() -> None:
    counted = [(0, 0), (10, 5), (1000, 500), (10**7, 5 * 10**6)]
    rows: list[dict[str, Row]] = [{"item_stats": {"exposures_all": n, "clicks_all": k}} for n, k in counted]
    told = features(rows, ["a"] * 4, [START] * 4, rate=0.1)["item_rate_all"]
    assert told == pytest.approx([0.1, 0.3, (500 + 1) / 1010, 0.5], rel=1e-5)


def test_a_log_of_positives_has_one_rate_for_all_items_but_still_counts_clicks() -> None:
    rows: list[dict[str, Row]] = [{"item_stats": {"exposures_all": None, "clicks_all": n}} for n in (0, 3, 90)]
    told = features(rows, ["a"] * 3, [START] * 3, rate=0.2)
    assert set(told["item_rate_all"]) == {np.float32(0.2)}
    assert told["item_log_clicks_all"] == pytest.approx(np.log1p([0, 3, 90]).tolist())
    assert told["item_log_exposures_all"] == [0.0, 0.0, 0.0]


def test_more_clicks_than_exposures_never_make_a_rate_above_one() -> None:
    told = features([{"user_stats": {"exposures_7d": 2, "clicks_7d": 50}}], ["a"], [START], rate=0.5)
    assert told["user_rate_7d"] == pytest.approx([(50 + 5) / 60])


@law
@given(st.lists(st.tuples(st.integers(-(10**15), 10**15), st.one_of(st.none(), st.integers(-(10**15), 10**15))),
                min_size=1))  # fmt: skip
def test_ages_are_days_never_negative_and_unknown_where_the_moment_is(pairs: list[tuple[int, int | None]]) -> None:
    at = np.array([row for row, _ in pairs], dtype=np.int64)
    since = np.array([math.nan if then is None else then for _, then in pairs], dtype=float)
    expected = [math.nan if then is None else max(row - then, 0) / DAY for row, then in pairs]
    assert age_days(at, since) == pytest.approx(expected, nan_ok=True)


def test_feature_names_are_unique() -> None:
    assert len(set(feature_names())) == len(feature_names())
    assert len(set(numeric_columns())) == len(numeric_columns()) == len(feature_names())


def test_a_data_set_holds_counts_days_and_prices_as_they_are() -> None:
    row: dict[str, Row] = {
        "item_stats": {"exposures_7d": 12_345_678, "clicks_7d": 3, "conversions_all": 1},
        "user_stats": {"clicks_1d": 7},
        "item_content": {"created_at_us": START - 3 * DAY // 2, "price": 19.5},
        "user_history": {"item_ids": ["a", "b"], "timestamps_us": [START - DAY // 4, START - 2 * DAY]},
    }
    views = {name: view(name, [row.get(name)]) for name in TYPES}
    matrix = numeric_features(views, np.array(["b"], dtype=object), np.array([START]), 0.1)
    expected = {
        "item_exposures_7d": 12_345_678, "item_clicks_7d": 3, "item_conversions_all": 1, "user_clicks_1d": 7,
        "item_age_days": 1.5, "item_price": 19.5, "history_length": 2, "history_gap_days": 0.25, "history_span_days": 2,
        "item_in_history": 1, "item_exposures_1d": 0,
    }  # fmt: skip
    assert {name: numeric_column(matrix, name)[0] for name in expected} == expected


@law
@given(st.integers(0, 10**6))
def test_columns_come_back_from_the_features_that_older_frames_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numeric = np.exp(rng.uniform(-3, 12, (50, len(numeric_columns())))).astype(np.float32)
    whole = [
        at for at, name in enumerate(numeric_columns())
        if any(kind in name for kind in ("exposures", "clicks", "conversions", "length"))
    ]  # fmt: skip
    numeric[:, whole] = np.rint(numeric[:, whole])
    back = undo_model_features(model_features(numeric))
    np.testing.assert_array_equal(back[:, whole], numeric[:, whole])
    np.testing.assert_allclose(back, numeric, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(model_features(back), model_features(numeric), atol=1e-6)
    assert model_features(numeric).dtype == back.dtype == np.float32


def test_histories_in_a_slice_of_a_larger_table_are_read_by_their_own_rows() -> None:
    whole = view("user_history", [
        {"item_ids": ["x"] * 4, "timestamps_us": [START - 9 * DAY] * 4},
        {"item_ids": ["a", "b"], "timestamps_us": [START - DAY, START - 3 * DAY]},
    ])  # fmt: skip
    views = {name: view(name, [None]) for name in TYPES}
    views["user_history"] = ViewRows("user_history", np.array([0]), whole.table.slice(1))
    matrix = numeric_features(views, np.array(["b"], dtype=object), np.array([START]), 0.1)
    told = dict(zip(feature_names(), model_features(matrix)[0].tolist(), strict=True))
    assert [told[name] for name in feature_names()[-4:]] == pytest.approx([math.log(3), math.log(2), math.log(4), 1.0])


matrices = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).normal(3, 7, (40, 4)).astype(np.float32))


@law
@given(matrices)
def test_scaled_training_features_have_mean_zero_and_deviation_one(matrix: np.ndarray) -> None:
    scaled = Scaling.fit(matrix, 0.1).apply(matrix)
    assert scaled.dtype == np.float32
    assert scaled.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-4)
    assert scaled.std(axis=0) == pytest.approx(np.ones(4), abs=1e-4)


def test_a_feature_that_is_constant_in_training_is_zero_everywhere() -> None:
    training = np.full((20, 2), 3.3, dtype=np.float32)
    training[:, 1] = np.arange(20)
    later = np.array([[9.9, 4.0]], dtype=np.float32)
    scaling = Scaling.fit(training, 0.1)
    assert scaling.apply(training)[:, 0].tolist() == [0.0] * 20
    assert scaling.apply(later)[0, 0] == 0
    assert scaling.apply(later)[0, 1] != 0


def test_what_training_never_saw_is_cut_off_at_five_deviations() -> None:
    scaling = Scaling.fit(np.array([[-1.0], [1.0]], dtype=np.float32), 0.1)
    assert scaling.apply(np.array([[-1e9], [-4.9], [0.5], [7.0]], np.float32))[:, 0].tolist() == pytest.approx(
        [-5, -4.9, 0.5, 5]
    )


def test_scaling_keeps_the_training_rate() -> None:
    assert Scaling.fit(np.zeros((2, 1), dtype=np.float32), 0.37).rate == 0.37
