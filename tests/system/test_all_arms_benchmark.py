"""The benchmark of all arms by one command: what its page says follows from what the command printed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest

from ranking.experiments.comparison.baselines import CONTROL, INPUTS

pytestmark = pytest.mark.usefixtures("benchmarks_on_path")


@pytest.fixture(scope="module")
def all_arms() -> ModuleType:
    return importlib.import_module("all_arms")


def row(baseline: str | None, delta: float | None, **changes: Any) -> dict[str, Any]:
    low, high = (None, None) if delta is None else (delta - 0.01, delta + 0.01)
    stated = {"arm": "graph", "slice": "all", "metric": "auc", "baseline": baseline, "delta": delta, "seeds": 2}
    return {**stated, "delta_low": low, "delta_high": high, "verdict": "no evidence", **changes}


def part(name: str, *, own: bool, alive: bool | None) -> dict[str, Any]:
    return {"name": name, "own": own, "alive": alive}


RESULT = {
    "rows": [
        row("inputs", 0.03, verdict="unequal rows"), row("inputs_after", -0.002), row("graph_shuffled", 0.02, verdict="better"),
        row("graph_random", 0.03, verdict="better"), row("id_codes", 0.05, verdict="better"),
        row("inputs_after", -0.5, metric="gauc"),
        row("inputs", None, arm="inputs"),
    ],
    "arms": {
        "graph": {"baseline": "inputs", "auc_by_seed": {"all": [0.8, 0.81]}},
        "inputs": {"baseline": None, "auc_by_seed": {"all": [0.79, 0.79]}},
    },
    "units": [
        {"arm": "graph", "without": None, "cpu_seconds": 4.0}, {"arm": "graph", "without": None, "cpu_seconds": 6.0},
        {"arm": "graph", "without": "graph.loss", "cpu_seconds": 100.0}, {"arm": "inputs", "without": None, "cpu_seconds": 2.0},
    ],
    "liveness": {"graph": [part("graph.table", own=True, alive=False), part("id.table", own=False, alive=True)]},
    "origins": [{"rows": {"train": {"used": 900, "available": 1000}}}],
    "slices": {"all": {"positives": 70}, "cold": {"positives": 7}},
    "seconds": {"prepare": 60.0, "units": 224.0, "units_cpu": 112.0, "judge": 8.0},
    "peak_rss_mb": 900.4,
    "skipped": {"attributes": "no attributes"},
}  # fmt: skip


def test_an_arm_is_compared_with_its_inputs_on_the_same_rows_and_with_one_control(all_arms: ModuleType) -> None:
    found = all_arms.digest(RESULT, jobs=2)
    graph, inputs = found["arms"]["graph"], found["arms"]["inputs"]
    assert graph["compared"][INPUTS]["arm"] == "inputs_after"
    assert graph["compared"][INPUTS]["all"]["delta"] == -0.002
    assert graph["compared"][CONTROL]["arm"] == "graph_shuffled"
    assert inputs["compared"] == {} and inputs["acts"] is None
    assert graph["acts"] is False, "the part that acts is not the idea's"
    assert (graph["cpu_seconds"], graph["auc"]) == (5.0, pytest.approx(0.805)), "trainings without a loss are others"
    assert (found["trainings"], found["minutes"], found["skipped"]) == (4, 3.0, ["attributes"])
    line = all_arms.table(found).splitlines()[2]
    assert line == (
        "| `graph` | .8050 | `inputs_after` | -.0020 [-.0120, +.0080] | - | no evidence | "
        "**+.0200 [+.0100, +.0300]** | - | no | 5.0 |"
    )
    assert (
        all_arms.costs({"xwines_slim": found}).splitlines()[2]
        == "| X-Wines | 2 | 4 | 3.0 | 1.9 | 900 | 0 | 1 | 0 | 0 |"
    )


def test_the_tables_of_the_page_are_those_of_the_results(all_arms: ModuleType) -> None:
    assert all_arms.page() == all_arms.PAGE.read_text(), "run `python benchmarks/all_arms.py --write`"
