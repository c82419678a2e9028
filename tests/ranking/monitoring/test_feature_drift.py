"""Drift by day: what is found, what is not, and what is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.monitoring.compare_columns import compare, missing
from ranking.monitoring.drift import DRIFT, STABLE, UNKNOWN, DriftBounds, FeatureDrift, MonitoredRows, drift_of
from sidkit.core.arrays import Ints
from sidkit.core.clock import DAY_US
from sidkit.core.errors import ConfigError

FEW = DriftBounds(min_rows=50)


def rows_of(days: int = 1, each: int = 1_000, first: int = 0, request: Ints | None = None, **columns: Any) -> Any:
    at_us = np.repeat(np.arange(first, first + days) * DAY_US, each)
    numbers = np.arange(len(at_us)) if request is None else request
    return MonitoredRows(pa.table(columns), at_us, numbers)


def one(reference: MonitoredRows, recent: MonitoredRows, bounds: DriftBounds = FEW) -> FeatureDrift:
    [found] = drift_of(reference, recent, bounds)
    return found


def draws(seed: int, count: int, shift: float = 0.0) -> pa.Array:
    return pa.array(np.random.default_rng(seed).normal(shift, 1, count).astype(np.float32))


def test_the_same_distribution_is_stable_and_a_shift_drifts() -> None:
    reference = rows_of(20, x=draws(0, 20_000))
    assert one(reference, rows_of(3, first=20, x=draws(1, 3_000))).verdict == STABLE
    shifted = one(reference, rows_of(3, first=20, x=draws(1, 3_000, 1.0)))
    assert shifted.verdict == DRIFT and [day.verdict for day in shifted.days] == [DRIFT] * 3
    assert shifted.days[0].mean == pytest.approx(1.0, abs=0.1) and shifted.days[0].day == "1970-01-21"


def test_a_day_with_few_rows_has_no_verdict() -> None:
    found = one(rows_of(20, x=draws(0, 20_000)), rows_of(1, each=49, x=draws(1, 49, 5.0)))
    assert found.verdict == UNKNOWN and found.worst == 0.0


def test_missing_values_are_a_drift_of_their_own() -> None:
    values = np.random.default_rng(1).normal(0, 1, 1_000)
    gone = pa.array(np.where(np.arange(1_000) % 2 == 0, np.nan, values).astype(np.float32), from_pandas=True)
    found = one(rows_of(20, x=draws(0, 20_000)), rows_of(x=gone))
    assert found.verdict == DRIFT and found.days[0].missing == 0.5 and found.missing == 0.0


def test_a_feature_of_the_user_is_counted_once_per_request() -> None:
    # 20 requests of 100 rows: the users' values of a day are 20 observations, not 2,000.
    values = np.repeat(np.random.default_rng(3).normal(0, 1, 20), 100).astype(np.float32)
    request = np.repeat(np.arange(20), 100)
    reference = rows_of(20, x=draws(0, 20_000))
    found = one(reference, rows_of(1, each=2_000, request=request, x=pa.array(values)), DriftBounds(min_rows=10))
    assert found.days[0].rows == 20 and found.verdict == STABLE
    assert one(reference, rows_of(1, each=2_000, x=pa.array(values)), DriftBounds(min_rows=10)).verdict == DRIFT


def test_the_reference_is_its_own_control() -> None:
    # A count that grows with the log: every day differs from the whole, without anything being wrong.
    grown = np.repeat(np.arange(20), 1_000) + np.random.default_rng(0).random(20_000)
    later = np.repeat(20, 1_000) + np.random.default_rng(1).random(1_000)
    columns = [pa.array(each.astype(np.float32)) for each in (grown, later)]
    found = one(rows_of(20, x=columns[0]), rows_of(1, first=20, x=columns[1]))
    assert found.days[0].psi > 0.25 and found.usual >= found.days[0].psi and found.verdict == STABLE
    shuffled = np.random.default_rng(2).permutation(grown).astype(np.float32)
    assert one(rows_of(20, x=pa.array(shuffled)), rows_of(1, first=20, x=columns[1])).verdict == DRIFT


def test_categories_lists_and_codes_have_distributions() -> None:
    rng = np.random.default_rng(0)
    colours = np.array(["red", "blue", "green"], dtype=object)
    known = rng.integers(0, 3, 20_000)
    codes = [[int(value), 7] for value in known]
    reference = rows_of(
        20,
        colour=pa.array(colours[known].tolist()),
        colours=pa.array([[colours[value], "grey"] for value in known], pa.list_(pa.string())),
        item_sid__codes=pa.array(codes, pa.list_(pa.int32())),
        item_vector=pa.array([[0.0]] * 20_000, pa.list_(pa.float32())),
    )
    recent = rows_of(
        colour=pa.array(["violet"] * 500 + [None] * 500),
        colours=pa.array([["red", "grey"]] * 1_000, pa.list_(pa.string())),
        item_sid__codes=pa.array([[9, 7]] * 600 + [None] * 400, pa.list_(pa.int32())),
        item_vector=pa.array([[1.0]] * 1_000, pa.list_(pa.float32())),
    )
    verdicts = {each.name: each.verdict for each in drift_of(reference, recent, FEW)}
    assert verdicts == dict.fromkeys(("colour", "colours", "item_sid__codes[1]", "item_sid__codes[2]"), DRIFT)
    ignored = drift_of(reference, recent, FEW, ("item_sid__*", "colours"))
    assert [each.name for each in ignored] == ["colour"]
    same = drift_of(reference, reference, FEW)
    assert {each.verdict for each in same} == {STABLE}


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected .+, got .+; exchange them"):
        DriftBounds(watch=0.3, drift=0.2)


NUMBERS = st.lists(st.none() | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


@settings(max_examples=50)
@given(NUMBERS)
def test_a_column_agrees_with_itself_and_a_missing_value_differs_from_any(values: list[float | None]) -> None:
    column = pa.chunked_array([pa.array(values, pa.float32())])
    assert not compare(column, column, 0.0).differ.any()
    absent = pa.chunked_array([pa.nulls(len(values), pa.float32())])
    known = [value is not None for value in values]
    assert compare(column, absent, 1.0).differ.tolist() == known
    assert missing(column).tolist() == [not each for each in known]


def test_lists_and_texts_are_compared_as_a_whole() -> None:
    def differ(one: Any, other: Any, kind: pa.DataType) -> list[bool]:
        both = [pa.chunked_array([pa.array(each, kind)]) for each in (one, other)]
        found: list[bool] = compare(*both, 1e-5).differ.tolist()
        return found

    vectors = pa.list_(pa.float32())
    assert differ([[1, 2], [1], None, []], [[1, 2.5], [1, 1], None, []], vectors) == [True, True, False, False]
    both = [
        pa.chunked_array([pa.array([[1.0, 2.0], [5.0]], vectors)]),
        pa.chunked_array([pa.array([[1.0, 2.5], [5.0]], vectors)]),
    ]
    assert compare(*both, 1e-5).largest == 0.5
    texts = pa.list_(pa.string())
    assert differ([["a"], ["a", "b"], None], [["a"], ["b", "a"], []], texts) == [False, True, True]
    assert differ(["a", None, "b"], ["a", None, "c"], pa.string()) == [False, False, True]
