"""The benchmarks of scale: the computed page, the simulated day, and the comparison of profiles (``benchmarks``)."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.places import ROOT

pytestmark = pytest.mark.usefixtures("benchmarks_on_path")


@pytest.fixture(scope="module")
def arithmetic() -> ModuleType:
    return importlib.import_module("arithmetic")


@pytest.fixture(scope="module")
def day() -> ModuleType:
    return importlib.import_module("day_simulation")


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    return importlib.import_module("parity_compare")


def test_the_figures_of_the_page_are_those_that_the_script_computes(arithmetic: ModuleType) -> None:
    text = arithmetic.PAGE.read_text()
    assert arithmetic.written(text, "computed", arithmetic.page()) == text, (
        "run `python benchmarks/arithmetic.py --write`"
    )


def test_the_figures_of_the_profiles_are_those_of_the_page() -> None:
    costs = importlib.import_module("stage_costs")
    page = (ROOT / "docs" / "results" / "scale.md").read_text()
    lines = costs.profile_lines(json.loads(costs.RESULTS.read_text())["profiles"])
    assert lines and all(line in page for line in lines)


def test_core_hours_grow_with_the_rows_and_a_fit_does_not(arithmetic: ModuleType) -> None:
    twice = dataclasses.replace(arithmetic.SCALE, impressions=2 * arithmetic.SCALE.impressions)
    once, double = (
        {stage.name: stage.seconds for stage in arithmetic.stages(scale)} for scale in (arithmetic.SCALE, twice)
    )
    tables, fit = "tables, from scratch, on Spark", "codebook: fit"
    assert double[tables] == pytest.approx(2 * once[tables]) and double[fit] == once[fit]


def test_the_figures_of_the_simulated_day_are_those_of_its_page(day: ModuleType) -> None:
    runs = json.loads(day.OUT.read_text())["runs"]
    page = (ROOT / "docs" / "results" / "large-arithmetic.md").read_text()
    for run in runs:
        assert day.line_of(run) in page


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_the_queue_is_that_of_a_walk_through_all_events(day: ModuleType, workers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1, 40))
    service = rng.exponential(workers * 0.9, 40)
    busy_until = np.zeros(workers)
    expected = []
    for came, takes in zip(arrivals, service, strict=True):
        first = int(np.argmin(busy_until))
        busy_until[first] = max(busy_until[first], came) + takes
        expected.append(busy_until[first] - came)
    np.testing.assert_allclose(day.queue(arrivals, service, workers), expected)


def test_the_mean_wait_of_one_worker_is_that_of_pollaczek_and_khinchine(day: ModuleType) -> None:
    rng = np.random.default_rng(0)
    rate, took = 0.7, 1.0
    arrivals = np.cumsum(rng.exponential(1 / rate, 200_000))
    wait = day.queue(arrivals, np.full(len(arrivals), took), 1).mean() - took
    assert wait == pytest.approx(rate * took**2 / (2 * (1 - rate * took)), rel=0.05)


@pytest.mark.parametrize("cached", [50, 10_000])
def test_cache_hits_are_those_of_a_cache_that_is_read(day: ModuleType, cached: int) -> None:
    traffic = day.Traffic(1e6, items=2_000, zipf=1.0)
    share = np.arange(1, 2_001) ** -1.0
    share /= share.sum()
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        held: dict[int, None] = {}
        reads = rng.choice(2_000, size=3_000, p=share).tolist()
        for at, item in enumerate(reads):
            if at >= 2_900:
                found.append(item in held)
            held.pop(item, None)
            held[item] = None
            if len(held) > cached:
                del held[next(iter(held))]
    expected = day.hit_rate(traffic, np.array([2_950.0]), cached)[0]
    assert np.mean(found) == pytest.approx(expected, abs=0.02)


def test_the_nodes_needed_are_the_fewest_within_the_aim_in_every_hour(day: ModuleType) -> None:
    costs = day.measured_costs(128, 1000.0, 0.3)
    options = argparse.Namespace(cores=2, seconds=3.0, tick=60.0, seed=0)
    traffic = day.Traffic(86_400 * 20 * 300.0)
    nodes, hours = day.nodes_needed(traffic, costs, options)
    assert nodes > 1 and max(hour["p99_ms"] for hour in hours) <= day.AIM_MS
    fewer = day.simulate_day(traffic, costs, nodes - 1, options)
    assert max(hour["p99_ms"] for hour in fewer) > day.AIM_MS
    # Twice the nodes halve the work of each, but a worker that answers fewer requests holds fewer rows.
    more = day.simulate_day(traffic, costs, 2 * nodes, options)
    for busy, idle in zip(hours, more, strict=True):
        assert busy["utilization"] > idle["utilization"] and busy["cache_hits"] > idle["cache_hits"] - 0.01


def test_the_figures_of_parity_are_those_of_its_page_and_no_cell_differs() -> None:
    profiles = importlib.import_module("parity")
    results = json.loads(profiles.RESULTS.read_text())
    page = (ROOT / "docs" / "results" / "parity.md").read_text()
    assert results and all(line in page for line in profiles.lines_of(results))
    for entries in results.values():
        assert all(found["codebook_is_the_same"] for found in entries.values())
        assert all(
            kind["differing"] == 0 < kind["cells"] for found in entries.values() for kind in found["kinds"].values()
        )


TABLE: dict[str, Any] = {
    "key": ["a", "b"], "count": [1, None], "share": [0.5, 1e9], "codes": [[1, 2], []], "vector": [[0.25], None],
}  # fmt: skip


def test_equal_tables_have_no_differing_cell_and_all_cells_count(parity: ModuleType) -> None:
    found = parity.compare(pa.table(TABLE), pa.table(TABLE), "t")
    assert (found.cells, found.differing, found.rows) == (2 + 2 + 2 + 3 + 2, 0, 2)


@pytest.mark.parametrize(
    ("column", "values", "differing"),
    [
        ("count", [1, 0], 1),
        ("share", [0.5 + 5e-7, 1e9 + 1], 0),
        ("share", [0.5 + 2e-6, None], 2),
        ("codes", [[1, 3], []], 1),
        ("codes", [[1], [2]], 2),
        ("vector", [[0.25], []], 1),
        ("key", ["a", "c"], 1),
    ],
)
def test_every_difference_is_counted(parity: ModuleType, column: str, values: list[Any], differing: int) -> None:
    kinds = pa.table(TABLE).schema
    found = parity.compare(pa.table(TABLE), pa.table({**TABLE, column: values}, schema=kinds), "t")
    assert found.differing == differing
    assert bool(found.where) == bool(differing)


def test_missing_rows_columns_and_other_types_are_differences(parity: ModuleType) -> None:
    whole = pa.table(TABLE)
    assert parity.compare(whole, whole.slice(1), "t").differing == 5
    assert parity.compare(whole, whole.drop_columns(["count"]), "t").differing == 2
    assert parity.compare(whole, whole.set_column(1, "count", pa.array([1.0, None])), "t").differing == 2
