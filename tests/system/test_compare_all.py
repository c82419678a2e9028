"""`sidkit ranker compare --arms all`, as users run it: every shipped arm is trained and compared, and a rerun resumes."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.builders import FAST_PRESET
from helpers.commands import ask_well
from ranking.experiments.comparison.arms import shipped_arms
from ranking.experiments.comparison.baselines import CONTROLS
from sidkit.datasets.synthetic import Sizes, write_world


def test_every_shipped_arm_is_compared_by_one_command(tmp_path: Path) -> None:
    source, page = tmp_path / "source", tmp_path / "page.html"
    write_world(source, "strong", Sizes(12_000))
    ask_well("data", "embed", source, "--attributes", "category", "--attribute-width", 64)
    command = (
        "ranker", "compare", "--data", source, "--repo", tmp_path / "repo", "--preset", FAST_PRESET, "--arms", "all",
        "--seeds", 1, "--origins", 1, "--max-train-rows", 500, "--own-sizes", "--json",
    )  # fmt: skip
    facts = json.loads(ask_well(*command).out)
    shipped = shipped_arms()
    assert set(facts["arms"]) == set(shipped) and "skipped" not in facts, facts.get("skipped")
    pairs = {(row["arm"], row["baseline"]) for row in facts["rows"] if row["metric"] == "auc" and row["slice"] == "all"}
    stated = {(arm, spec.baseline) for arm, spec in shipped.items() if spec.baseline is not None}
    controls = {(arm, f"{arm}{end}") for arm in shipped for end in CONTROLS if f"{arm}{end}" in shipped}
    assert len(controls) > 20 and stated | controls <= pairs, (stated | controls) - pairs
    assert set(facts["liveness"]) >= {arm for arm, spec in shipped.items() if spec.kind == "neural"}

    again = ask_well(*command, "--html", page)
    assert json.loads(again.out)["rows"] == facts["rows"]
    assert not [line for line in again.err.splitlines() if line.startswith("done ")], "nothing is done again"
    assert all(f'"{arm}"' in page.read_text() for arm in shipped)
