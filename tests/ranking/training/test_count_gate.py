"""Count gates: who wins where is learned from validation rows, without signal they are the constant blend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from helpers.training_builders import set_with
from ranking.data.dataset import Dataset
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import ArmDetails, ArmResult
from ranking.training.blend import blend_arm
from ranking.training.count_gate import BIAS, COLUMNS, CountGate, gate_features, shuffled
from ranking.training.mixing import logits, probabilities
from ranking.training.predictions import read_details, write_predictions

ROWS = 4000
COUNTED = ArmSpec(kind="blend", of=("behaviour", "content"), by_counts=True)


@pytest.fixture(scope="module")
def case() -> tuple[Dataset, np.ndarray]:
    """Rows, and logits ``[2, rows]``: the first scorer knows warm items, the second one cold items."""
    rng = np.random.default_rng(0)
    counts = np.where(rng.random(ROWS) < 0.5, rng.integers(0, 5, ROWS), rng.integers(200, 2000, ROWS))
    truth = rng.normal(size=ROWS)
    label = (rng.random(ROWS) < probabilities(truth)).astype(np.int8)
    data = set_with(counts.tolist())
    users = np.array([f"u{number}" for number in rng.integers(0, 300, ROWS)], dtype=object)
    data = dataclasses.replace(data, rows=dataclasses.replace(data.rows, label=label, user_ids=users))
    cold = counts < 10
    noise = rng.normal(size=(2, ROWS)) * 3
    return data, truth + np.where(np.stack([cold, ~cold]), noise, 0.2 * noise)


def test_a_gate_trusts_each_scorer_where_it_is_better(case: tuple[Dataset, np.ndarray]) -> None:
    data, members = case
    label, features = data.rows.label, gate_features(data)
    gate = CountGate.fit(label, features, members, data.rows.user_ids, 0.5)
    share = gate.shares(features)
    cold = features[:, 0] < np.log1p(10)
    assert share[cold].mean() < 0.2 < 0.8 < share[~cold].mean()
    blended = roc_auc_score(label, gate.blended(features, members))
    constant = max(
        roc_auc_score(label, weight * members[0] + (1 - weight) * members[1]) for weight in np.linspace(0, 1, 11)
    )
    assert blended > constant + 0.02
    assert len(gate.as_json()) == 4
    assert CountGate.of_json(gate.as_json()) == gate
    expected = 1 / (1 + np.exp(-(features @ np.array(gate.weights) + gate.bias)))
    np.testing.assert_allclose(share, expected)


def test_with_shuffled_counts_nothing_is_gained(case: tuple[Dataset, np.ndarray]) -> None:
    data, members = case
    label, features = data.rows.label, gate_features(data)
    mixed = shuffled(features, 0)
    assert sorted(mixed.tolist()) == sorted(features.tolist())
    gate = CountGate.fit(label, mixed, members, data.rows.user_ids, 0.5)
    constant = roc_auc_score(label, members.mean(axis=0))
    assert abs(roc_auc_score(label, gate.blended(mixed, members)) - constant) < 0.005
    assert np.ptp(gate.shares(mixed)) < 0.3


def test_between_equal_scorers_the_gate_is_the_constant_blend(case: tuple[Dataset, np.ndarray]) -> None:
    data, members = case
    same = np.stack([members[0], members[0]])
    gate = CountGate.fit(data.rows.label, gate_features(data), same, data.rows.user_ids, 0.3)
    assert gate == CountGate.constant(0.3)
    np.testing.assert_allclose(gate.shares(gate_features(data)), 0.3)


def saved(folder: Path, members: np.ndarray) -> dict[str, Path]:
    paths = {}
    for name, each in zip(COUNTED.of, probabilities(members), strict=True):
        paths[name] = folder / f"{name}.parquet"
        write_predictions(paths[name], ArmResult(0.5, each, each[:500], None, ArmDetails()))
    return paths


def test_a_blend_by_counts_states_its_gate_and_how_it_acts(tmp_path: Path, case: tuple[Dataset, np.ndarray]) -> None:
    data, members = case
    blend = blend_arm("mix", 0, COUNTED, data, data.take(np.arange(500)), saved(tmp_path, members))
    gate = blend.details.gate
    assert gate is not None and set(gate) == {*COLUMNS, BIAS}
    expected = CountGate.of_json(gate).blended(gate_features(data), logits(probabilities(members)))
    np.testing.assert_allclose(blend.validation, probabilities(expected))
    np.testing.assert_allclose(blend.test, blend.validation[:500])
    assert blend.liveness is not None
    (part,) = blend.liveness
    assert part.kind == "weights" and part.delta_auc[0] < -0.02
    assert [each.least for each in part.by_count] == [0, 1, 100]
    assert part.by_count[0].mean < part.by_count[-1].mean
    write_predictions(tmp_path / "mix.parquet", blend)
    assert read_details(tmp_path / "mix.parquet")["gate"] == gate
    control = COUNTED.model_copy(update={"shuffled_counts": True})
    other = blend_arm("mix", 0, control, data, data.take(np.arange(500)), saved(tmp_path, members))
    assert other.validation_auc < blend.validation_auc - 0.02


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "blend", "of": ("a", "b", "c"), "by_counts": True}, "two arms to blend by counts, got 3.*name two"),
        (
            {"kind": "blend", "of": ("a", "b"), "shuffled_counts": True},
            "the control of by_counts; set by_counts = true",
        ),
        ({"kind": "gbdt", "by_counts": True}, "only a blend arm has 'by_counts'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ArmSpec.model_validate(wrong)


def test_a_blend_of_an_earlier_version_has_the_same_dump() -> None:
    assert "by_counts" not in ArmSpec(kind="blend", of=("a", "b")).model_dump()
    assert COUNTED.model_dump()["by_counts"] is True
