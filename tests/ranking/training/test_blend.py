"""Blends: validation rows choose the weights, test rows change nothing, and the order of the members does not matter."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from helpers.training_builders import random_set
from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import log_loss
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import ArmDetails, ArmResult
from ranking.training.blend import blend_arm
from ranking.training.mixing import best_weights, logits, probabilities
from ranking.training.predictions import read_details, write_predictions

law = settings(max_examples=40, deadline=None, database=None)


def member(label: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Probabilities that follow the label through noise of their own."""
    return probabilities(label - 0.5 + noise * np.random.default_rng(seed).normal(size=len(label)))


def saved(folder: Path, validation: np.ndarray, test: np.ndarray) -> dict[str, Path]:
    """The predictions of members ``[members, rows]`` as files."""
    paths = {}
    for number, (first, second) in enumerate(zip(validation, test, strict=True)):
        paths[f"arm{number}"] = folder / f"arm{number}.parquet"
        write_predictions(paths[f"arm{number}"], ArmResult(0.5, first, second, None, ArmDetails()))
    return paths


@pytest.fixture
def label() -> np.ndarray:
    return (np.random.default_rng(5).random(400) < 0.3).astype(np.int8)


BLEND = ArmSpec(kind="blend", of=("arm0", "arm1"))


def rows_of(label: np.ndarray) -> Dataset:
    """Rows with these labels."""
    data = random_set(len(label))
    return dataclasses.replace(data, rows=dataclasses.replace(data.rows, label=label))


def test_two_members_with_errors_of_their_own_are_both_used_and_the_blend_beats_them(label: np.ndarray) -> None:
    members = np.stack([logits(member(label, 1.0, seed)) for seed in (1, 2)])
    weights = best_weights(label, members)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0.3
    assert roc_auc_score(label, weights @ members) > max(roc_auc_score(label, each) for each in members) + 0.01


def test_the_weights_are_those_of_a_search_over_all_tenths(label: np.ndarray) -> None:
    members = np.stack([logits(member(label, noise, seed)) for seed, noise in enumerate((0.8, 1.2, 2.0))])
    grid = [np.array(each) / 10 for each in itertools.product(range(11), repeat=3) if sum(each) == 10]
    best = max(roc_auc_score(label, weights @ members) for weights in grid)
    assert roc_auc_score(label, best_weights(label, members) @ members) == pytest.approx(best, abs=1e-12)


def test_ties_of_the_auc_are_decided_by_log_loss(label: np.ndarray) -> None:
    good = logits(member(label, 0.5, 1))
    overconfident = np.stack([good, 4 * good])
    weights = best_weights(label, overconfident)
    losses = {share: log_loss(label, probabilities((1 - share) * good + share * 4 * good)) for share in (0.0, 0.5, 1.0)}
    assert log_loss(label, probabilities(weights @ overconfident)) <= min(losses.values())


def test_a_useless_member_gets_no_weight(label: np.ndarray) -> None:
    members = np.stack([logits(member(label, 0.01, 1)), np.random.default_rng(0).normal(size=len(label)) * 3])
    assert best_weights(label, members)[0] == 1


@law
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_logits_are_finite_and_give_the_probabilities_back(values: list[float]) -> None:
    probability = np.array(values)
    found = logits(probability)
    assert np.isfinite(found).all()
    assert probabilities(found) == pytest.approx(probability, abs=1e-6)


def test_a_blend_is_the_same_for_any_order_of_its_members_and_states_its_weights(
    tmp_path: Path, label: np.ndarray
) -> None:
    validation = np.stack([member(label, 1.0, seed) for seed in (1, 2)])
    paths = saved(tmp_path, validation, validation[:, :50])
    rows = rows_of(label)
    one, other = (
        blend_arm("mix", 0, BLEND, rows, rows.take(np.arange(50)), dict(order))
        for order in (paths.items(), [*paths.items()][::-1])
    )
    assert np.array_equal(one.test, other.test)
    assert one.details == other.details
    weights = one.details.weights
    assert weights is not None and list(weights) == ["arm0", "arm1"]
    assert one.ranker is None
    assert one.validation_auc == pytest.approx(roc_auc_score(label, one.validation))
    expected = probabilities(sum(weights[f"arm{at}"] * logits(validation[at, :50]) for at in (0, 1)))
    assert one.test == pytest.approx(expected)
    write_predictions(tmp_path / "mix.parquet", one)
    assert read_details(tmp_path / "mix.parquet") == {"weights": weights}


def test_test_rows_do_not_change_the_weights(tmp_path: Path, label: np.ndarray) -> None:
    validation = np.stack([member(label, 1.0, seed) for seed in (1, 2)])
    found = []
    for name, test in (("a", validation), ("b", 1 - validation)):
        (tmp_path / name).mkdir()
        found.append(
            blend_arm("mix", 0, BLEND, rows_of(label), rows_of(label), saved(tmp_path / name, validation, test))
        )
    assert found[0].details == found[1].details
    assert not np.array_equal(found[0].test, found[1].test)
