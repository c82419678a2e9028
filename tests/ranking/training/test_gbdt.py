"""The gradient-boosting baseline: its features against loops, and how many trees it keeps."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from helpers.places import ROOT
from helpers.training_builders import random_set
from ranking.data.dataset import Dataset
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import boost, boosted_features

PLAIN = BoostingSpec(
    trees=60, learning_rate=0.05, leaves=31, leaf_rows=40, l2=1.0, feature_share=1.0, content_axes=16, history_axes=0,
    similarities=("mean", "nearest"),
)  # fmt: skip
"""Whatever the defaults are."""
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
    told = boosted_features(data, None, PLAIN)
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


@law
@given(st.integers(0, 10**6))
def test_further_history_features_are_those_of_a_loop_over_the_rows(seed: int) -> None:
    data = random_set(20, seed=seed, length=9)
    spec = BoostingSpec(content_axes=0, history_axes=3, similarities=("nearest_5", "newest", "newest_5"))
    told, content, width = boosted_features(data, None, spec), data.items.content, data.numeric.shape[1]
    assert told.shape[1] == width + 3 + 3
    for row in range(len(data)):
        own = content[data.candidate[row]]
        past = [content[item] for item in data.history_items[data.history[row]] if item]
        cosines = sorted((cosine(own, other) for other in past), reverse=True)
        few = np.mean([unit(other) for other in past[:5]], axis=0) if past else np.zeros_like(own)
        expected = [np.mean(cosines[:5]) if past else 0.0, cosine(own, past[0]) if past else 0.0, cosine(own, few)]
        assert told[row, width : width + 3] == pytest.approx(expected, abs=1e-4)
        profile = np.mean(past, axis=0)[:3] if past else np.zeros(3)
        assert told[row, width + 3 :] == pytest.approx(profile, abs=1e-5)


def test_columns_trained_on_clicks_are_left_out_of_all_features() -> None:
    data, spec = random_set(30), BoostingSpec(history_axes=2, similarities=("mean", "newest_5"))
    part = with_content(data, data.items.content[:, 2:5])
    assert np.array_equal(boosted_features(data, (2, 5), spec), boosted_features(part, None, spec))


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
    return model.fit(boosted_features(training, None, PLAIN), training.rows.label)


def test_validation_decides_the_number_of_trees_and_the_others_are_scored_with_it() -> None:
    training, validation, test = (random_set(rows, seed=seed) for rows, seed in [(300, 4), (250, 54), (100, 3)])
    found = boost(training, validation, (validation, test), seed=4, spec=PLAIN)
    auc_of = {
        trees: roc_auc_score(
            validation.rows.label,
            by_hand(training, 4, trees).predict_proba(boosted_features(validation, None, PLAIN))[:, 1],
        )
        for trees in range(10, 61, 10)
    }
    assert found.validation_auc == pytest.approx(max(auc_of.values()))
    assert auc_of[found.trees] == max(auc_of.values())
    assert 10 < found.trees < 60, "the example must overfit, or nothing is decided"
    kept = by_hand(training, 4, found.trees)
    for told, data in zip(found.predictions, (validation, test), strict=True):
        assert told == pytest.approx(kept.predict_proba(boosted_features(data, None, PLAIN))[:, 1])


def test_the_test_rows_change_nothing_but_their_own_scores() -> None:
    training, validation, test = (random_set(rows, seed=seed) for rows, seed in [(200, 1), (100, 2), (100, 3)])
    flipped = dataclasses.replace(test, rows=dataclasses.replace(test.rows, label=1 - test.rows.label))
    few = BoostingSpec(trees=20)
    first = boost(training, validation, (validation, test), seed=0, spec=few)
    again = boost(training, validation, (validation, flipped), seed=0, spec=few)
    other = boost(training, validation, (validation, test.take(np.arange(5))), seed=0, spec=few)
    assert np.array_equal(first.predictions[1], again.predictions[1])
    assert np.array_equal(first.predictions[0], other.predictions[0])
    assert np.array_equal(first.predictions[1][:5], other.predictions[1])
    assert first.trees == again.trees == other.trees


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.3}, {"leaves": 4}, {"leaf_rows": 5}, {"l2": 50.0}, {"feature_share": 0.3}, {"content_axes": 0},
        {"history_axes": 4},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_setting_changes_the_predictions(change: dict[str, object]) -> None:
    training, validation = random_set(300, seed=4), random_set(100, seed=54)
    default, changed = (
        boost(
            training,
            validation,
            (validation,),
            seed=4,
            spec=BoostingSpec.model_validate({**PLAIN.model_dump(), "trees": 30, "leaf_rows": 10, **settings_}),
        )
        for settings_ in ({}, change)
    )
    assert default.grown == changed.grown == 30
    assert not np.array_equal(default.predictions[0], changed.predictions[0])


def test_a_listed_similarity_that_decides_the_label_is_learned() -> None:
    spec = PLAIN.model_copy(update={"trees": 20, "content_axes": 0, "similarities": ("newest",)})
    width = random_set(1).numeric.shape[1]
    parts = []
    for data in (random_set(400, seed=4), random_set(200, seed=54)):
        label = (boosted_features(data, None, spec)[:, width] > 0).astype(np.int8)
        parts.append(dataclasses.replace(data, rows=dataclasses.replace(data.rows, label=label)))
    told, untold = (
        boost(*parts, (), seed=0, spec=spec.model_copy(update={"similarities": names})).validation_auc
        for names in (("newest",), ())
    )
    assert told > 0.99 > untold


def test_the_seed_matters_only_with_random_features() -> None:
    training, validation = random_set(300, seed=4), random_set(100, seed=54)
    for spec in (PLAIN, PLAIN.model_copy(update={"feature_share": 0.3})):
        first, other = (
            boost(training, validation, (validation,), seed=seed, spec=spec).predictions[0] for seed in (0, 1)
        )
        assert np.array_equal(first, other) != spec.is_random


def test_the_defaults_are_those_that_the_benchmark_chose_on_validation_rows() -> None:
    chosen = json.loads((ROOT / "benchmarks" / "results" / "tune_boosting.json").read_text())
    told = {name: value for name, value in chosen["default"].items() if name != "row_share"}  # LightGBM's alone
    assert BoostingSpec.model_validate(told) == BoostingSpec()
    assert min(chosen["default_gain"].values()) >= 0, "on no data set worse than the settings of earlier versions"


def test_boosting_learns_what_the_features_tell() -> None:
    found = boost(random_set(1500, seed=1), random_set(500, seed=2), (), seed=0, spec=BoostingSpec(trees=50))
    assert found.validation_auc > 0.8
    assert found.predictions == ()
