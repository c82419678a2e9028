"""The papers' slices, against a reading of their rules row by row; thresholds come from validation rows alone."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import random_set
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_columns
from ranking.evaluation.paper_slices import SliceCuts, paper_slices
from ranking.evaluation.slices import slices

law = settings(max_examples=60, deadline=None, database=None)

Row = tuple[int, int, int, int, int]
"""exposures_7d, clicks_7d, conversions_7d, earlier exposures besides, the item."""
ROWS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 6), st.integers(0, 1), st.integers(0, 500), st.integers(0, 8)),
    min_size=1, max_size=40,
)  # fmt: skip


def told(rows: list[Row]) -> Dataset:
    data = random_set(len(rows))
    names = numeric_columns()
    numeric = np.zeros_like(data.numeric)
    for place, (exposures, clicks, conversions, before, _) in enumerate(rows):
        counts = {
            "item_exposures_7d": exposures, "item_clicks_7d": clicks, "item_conversions_7d": conversions,
            "item_exposures_all": exposures + before,
        }  # fmt: skip
        for name, count in counts.items():
            numeric[place, names.index(name)] = count
    items = np.array([f"i{row[4]}" for row in rows], dtype=object)
    return dataclasses.replace(data, numeric=numeric, rows=dataclasses.replace(data.rows, item_ids=items))


def seen(row: Row) -> int:
    return max(row[0], row[1])


def coins(row: Row, theta: int) -> str:
    """Hot wins; cold below theta; else neither."""
    if row[1] > 3 or row[2] > 0:
        return "hot"
    return "cold" if seen(row) < theta else "neither"


@law
@given(ROWS, ROWS, ROWS)
def test_each_row_is_where_the_rules_put_it(training: list[Row], validation: list[Row], test: list[Row]) -> None:
    cuts = SliceCuts.of(told(training), told(validation))
    data = told(test)
    found = paper_slices(data, cuts)

    def rows_in(name: str) -> list[int]:
        return np.flatnonzero(found[name]).tolist() if name in found else []

    def expected(rule: object) -> list[int]:
        return [place for place, row in enumerate(test) if rule(row)]  # type: ignore[operator]

    trained = {row[4] for row in training}
    assert rows_in("prior 0-99") == expected(lambda row: max(row[0] + row[3], 0) < 100)
    assert rows_in("strict cold") == expected(lambda row: row[4] not in trained)
    assert rows_in("COINS hot") == expected(lambda row: coins(row, 200) == "hot")
    for name, theta in (("theta 200", 200), ("theta 80 %", cuts.theta)):
        for kind in ("cold", "neither"):
            assert rows_in(f"COINS {kind}, {name}") == expected(lambda row: coins(row, theta) == kind)  # noqa: B023
    assert rows_in("head") == expected(lambda row: seen(row) >= cuts.head_from)
    assert rows_in("tail") == expected(lambda row: seen(row) < min(cuts.tail_below, cuts.head_from))
    assert sorted(rows_in("head") + rows_in("torso") + rows_in("tail")) == list(range(len(test)))
    for name, rows in slices(data).items():
        assert found[name].tolist() == rows.tolist()


@law
@given(ROWS)
def test_theta_is_the_least_that_makes_four_fifths_of_validation_cold_where_any_does(rows: list[Row]) -> None:
    data = told(rows)
    theta = SliceCuts.of(data, data).theta
    share = Counter(coins(row, theta) for row in rows)["cold"] / len(rows)
    possible = Counter(coins(row, 10**9) for row in rows)["cold"] / len(rows)
    if possible >= 0.8:
        assert share >= 0.8
        assert Counter(coins(row, theta - 1) for row in rows)["cold"] / len(rows) < 0.8
    else:
        assert share == possible


def test_head_torso_and_tail_part_the_validation_rows_by_a_quarter_a_half_and_a_quarter() -> None:
    rows: list[Row] = [(count, 0, 0, 0, 1) for count in range(1, 401)]
    found = paper_slices(told(rows), SliceCuts.of(told(rows), told(rows)))
    assert [int(found[name].sum()) for name in ("head", "torso", "tail")] == pytest.approx([100, 200, 100], abs=2)


def test_where_the_log_says_no_exposures_clicks_stand_for_them() -> None:
    rows: list[Row] = [(0, 2, 0, 0, 1), (0, 0, 0, 0, 1), (0, 5, 0, 0, 1)]
    found = paper_slices(told(rows), SliceCuts(2, 5, 1, np.array(["i1"], object)))
    assert np.flatnonzero(found["COINS neither, theta 80 %"]).tolist() == [0]
    assert np.flatnonzero(found["COINS cold, theta 80 %"]).tolist() == [1]
    assert np.flatnonzero(found["COINS hot"]).tolist() == [2]
    assert np.flatnonzero(found["head"]).tolist() == [2]
    assert np.flatnonzero(found["tail"]).tolist() == [1]
