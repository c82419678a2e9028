"""The gradient-boosting baseline: its features against loops, and how many trees it keeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from helpers.training_builders import random_set
from ranking.data.dataset import Dataset
from ranking.training.gbdt import boost, boosted_features

law = settings(max_examples=30, deadline=None, database=None)


def with_content(data: Dataset, content: np.ndarray) -> Dataset:
    return dataclasses.replace(data, items=dataclasses.replace(data.items, content=content.astype(np.float32)))


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else 0.0


def unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


@law
@given(st.integers(0, 10**6), st.integers(2, 24))
def test_boosted_features_are_those_of_a_loop_over_the_rows(seed: int, dim: int) -> None:
    data = random_set(25, seed=seed)
    content = np.random.default_rng(seed).normal(size=(len(data.items), dim))
    content[[0, 3, 8]] = 0  # padding, and items without content
    data = with_content(data, content)
    told = boosted_features(data)
    width = data.numeric.shape[1]
    assert told.dtype == np.float32
    assert np.array_equal(told[:, :width], data.features)
    assert np.array_equal(told[:, width + 2 :], data.items.content[data.candidate][:, :16])
    for row in range(len(data)):
        own = content[data.candidate[row]]
        past = [content[item] for item in data.history_items[data.history[row]] if item]
        mean = cosine(own, np.mean([unit(other) for other in past], axis=0)) if past else 0.0
        nearest = max((cosine(own, other) for other in past), default=0.0)
        assert told[row, width] == pytest.approx(mean, abs=1e-4)
        assert told[row, width + 1] == pytest.approx(nearest, abs=1e-5)


def test_features_do_not_depend_on_how_many_rows_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_set(53)
    whole = boosted_features(data)
    monkeypatch.setattr("ranking.training.gbdt._CHUNK", 10)
    assert boosted_features(data) == pytest.approx(whole, abs=1e-6)


def by_hand(training: Dataset, seed: int, trees: int) -> HistGradientBoostingClassifier:
    model = HistGradientBoostingClassifier(
        max_iter=trees, learning_rate=0.05, max_leaf_nodes=31, min_samples_leaf=40, l2_regularization=1.0,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
    return model.fit(boosted_features(training), training.rows.label)


def test_validation_decides_the_number_of_trees_and_the_others_are_scored_with_it() -> None:
    training, validation, test = (random_set(rows, seed=seed) for rows, seed in [(300, 4), (250, 54), (100, 3)])
    found = boost(training, validation, (validation, test), seed=4, trees=60)
    auc_of = {
        trees: roc_auc_score(
            validation.rows.label, by_hand(training, 4, trees).predict_proba(boosted_features(validation))[:, 1]
        )
        for trees in range(10, 61, 10)
    }
    assert found.validation_auc == pytest.approx(max(auc_of.values()))
    assert auc_of[found.trees] == max(auc_of.values())
    assert 10 < found.trees < 60, "the example must overfit, or nothing is decided"
    kept = by_hand(training, 4, found.trees)
    for told, data in zip(found.predictions, (validation, test), strict=True):
        assert told == pytest.approx(kept.predict_proba(boosted_features(data))[:, 1])


def test_the_test_rows_change_nothing_but_their_own_scores() -> None:
    training, validation, test = (random_set(rows, seed=seed) for rows, seed in [(200, 1), (100, 2), (100, 3)])
    flipped = dataclasses.replace(test, rows=dataclasses.replace(test.rows, label=1 - test.rows.label))
    first = boost(training, validation, (validation, test), seed=0, trees=20)
    again = boost(training, validation, (validation, flipped), seed=0, trees=20)
    other = boost(training, validation, (validation, test.take(np.arange(5))), seed=0, trees=20)
    assert np.array_equal(first.predictions[1], again.predictions[1])
    assert np.array_equal(first.predictions[0], other.predictions[0])
    assert np.array_equal(first.predictions[1][:5], other.predictions[1])
    assert first.trees == again.trees == other.trees


def test_so_many_trees_are_fitted_as_the_module_says(monkeypatch: pytest.MonkeyPatch) -> None:
    training, validation, test = (random_set(rows, seed=seed) for rows, seed in [(300, 4), (250, 54), (100, 3)])
    for trees in (10, 60):
        monkeypatch.setattr("ranking.training.gbdt.TREES", trees)
        found = boost(training, validation, (test,), seed=4)
        told = boost(training, validation, (test,), seed=4, trees=trees)
        assert found.trees == told.trees <= trees
        assert np.array_equal(found.predictions[0], told.predictions[0])


def test_boosting_learns_what_the_features_tell() -> None:
    found = boost(random_set(1500, seed=1), random_set(500, seed=2), (), seed=0, trees=50)
    assert found.validation_auc > 0.8
    assert found.predictions == ()
