"""The rows on which codebook windows are compared (``benchmarks/window_rows.py``)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ranking.data.dataset import LabelledRows
from ranking.data.split import TimeSplit

PATH = Path(__file__).parents[2] / "benchmarks" / "window_rows.py"


@pytest.fixture(scope="module")
def drawn() -> ModuleType:
    spec = importlib.util.spec_from_file_location("window_rows", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["window_rows"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> LabelledRows:
    """1,000 rows, one a microsecond, not in the order of time; users with 1 to 200 rows."""
    rng = np.random.default_rng(3)
    users = np.array([f"u{int(name)}" for name in np.sqrt(rng.integers(1000, size=1000))], object)
    at_us = rng.permutation(1000).astype(np.int64)
    return LabelledRows(users, np.array(["i"] * 1000, object), at_us, (at_us % 2).astype(np.int8))


@pytest.fixture(scope="module")
def chosen(drawn: ModuleType, rows: LabelledRows) -> object:
    return drawn.WindowRows.of(rows, TimeSplit(600, 900, 0), [100, 300], drawn.Limits(200, 100, 7))


def test_every_cut_leaves_the_same_number_of_rows_after_it(drawn, rows, chosen) -> None:
    at_us = rows.at_us[chosen.index]
    assert (np.diff(at_us) > 0).all(), "rows are in the order of time"
    for cut in (drawn.FIRST, 100, 300):
        assert len(chosen.train[cut]) == 200
        assert at_us[chosen.train[cut]].min() >= cut and at_us[chosen.train[cut]].max() < 600
    assert list(chosen.thinned) == [100, 300]
    assert 200 > len(chosen.thinned[100]) > len(chosen.thinned[300]) > 0
    assert set(chosen.thinned[300]) <= set(chosen.thinned[100]) <= set(chosen.train[drawn.FIRST])


def test_training_rows_are_those_of_whole_users_but_for_the_last(drawn, rows, chosen) -> None:
    after = rows.take(np.flatnonzero((rows.at_us >= 300) & (rows.at_us < 600)))
    taken = rows.take(chosen.index).take(chosen.train[300])
    names, counts = np.unique(taken.user_ids, return_counts=True)
    cut_short = [name for name, count in zip(names, counts, strict=True) if count < (after.user_ids == name).sum()]
    assert len(cut_short) <= 1


def test_validation_rows_of_one_user_are_limited_and_no_user_is_left_out(drawn, rows, chosen) -> None:
    window = rows.take(np.flatnonzero((rows.at_us >= 600) & (rows.at_us < 900)))
    taken = rows.take(chosen.index).take(chosen.validation)
    assert taken.at_us.min() >= 600 and taken.at_us.max() < 900
    names, counts = np.unique(taken.user_ids, return_counts=True)
    assert counts.max() <= 7 and len(taken) <= 100
    assert set(names) == set(window.user_ids)
    few = drawn.few_per_user(window.user_ids, drawn.Limits(200, 10**6, 7))
    expected = [min(7, (window.user_ids == name).sum()) for name in names]
    assert [(window.user_ids[few] == name).sum() for name in names] == expected, "the limit of a user alone"


def test_all_rows_are_taken_where_there_are_fewer_than_the_limit(drawn, rows) -> None:
    found = drawn.WindowRows.of(rows, TimeSplit(600, 900, 0), [550], drawn.Limits(200, 100, 7))
    assert len(found.train[550]) == 50
