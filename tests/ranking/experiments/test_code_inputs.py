"""The arms that isolate which inputs codes bring (``benchmarks/presets/code_inputs``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranking.data.code_schema import code_features
from ranking.experiments.comparison.arms import ComparedArm, load_arms

FOLDER = Path(__file__).parents[3] / "benchmarks" / "presets" / "code_inputs"
ARMS = load_arms([str(path) for path in sorted(FOLDER.glob("*.toml"))])
SCHEMA = code_features((1, 2), conversions=True)
TESTED = [name for name in ARMS if not name.endswith("_shuffled")]


def _read(arm: ComparedArm) -> set[str]:
    return set(SCHEMA.names if arm.features is None else SCHEMA.select(arm.features).names)


@pytest.mark.parametrize("name", TESTED)
def test_every_arm_has_a_control_that_differs_in_the_codes_alone(name: str) -> None:
    arm, control = ARMS[name], ARMS[f"{name}_shuffled"]
    assert arm.baseline == f"{name}_shuffled"
    assert (arm.shuffle_codes, control.shuffle_codes) == (False, True)
    assert arm.representations == control.representations
    assert arm.features == control.features


def test_the_three_families_of_statistics_make_up_all_statistics() -> None:
    families = [_read(ARMS[name]) for name in ("id_prefix_counts", "id_item_rate", "id_user_prefixes")]
    assert set().union(*families) == _read(ARMS["id_statistics"]) == set(SCHEMA.names)
    assert sum(map(len, families)) == len(SCHEMA.names)


def test_the_arm_without_statistics_reads_codes_alone() -> None:
    assert _read(ARMS["id_codes_plain"]) == set()
    assert ARMS["id_codes_plain"].representations == load_arms(["id_codes"])["id_codes"].representations
