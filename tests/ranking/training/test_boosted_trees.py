"""Boosted trees as arrays score like scikit-learn's, with missing values and categories, and survive a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from helpers.training_builders import SERVING, TRAINED_ON, random_set
from ranking.training import gbdt
from ranking.training.boosted_ranker import BoostedRanker, save_trees
from ranking.training.boosted_trees import BoostedTrees
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.load_ranker import load_trained
from sidkit.core.errors import ArtifactCorruptError

SMALL = BoostingSpec(trees=20, leaf_rows=5)


def table(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Features, of which the third and the last are categories with gaps, and labels."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 6)).astype(np.float32)
    features[:, 2] = rng.integers(0, 40, rows) * 3
    features[:, 5] = rng.integers(0, 4, rows)
    features[rng.random(features.shape) < 0.1] = np.nan
    label = (np.nan_to_num(features[:, 0]) + (np.nan_to_num(features[:, 2]) % 2) + rng.normal(size=rows) > 0.5).astype(
        int
    )
    return features, label


@settings(max_examples=8, deadline=None, database=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 12))
def test_logits_are_those_of_scikit_learn(seed: int, categorical: bool, trees: int) -> None:
    features, label = table(seed)
    model = HistGradientBoostingClassifier(
        max_iter=12, max_leaf_nodes=7, categorical_features=[2, 5] if categorical else None, early_stopping=False
    ).fit(features, label)
    others, _ = table(seed + 1)
    others[:20, 2] = 7  # no category of training
    expected = list(model.staged_decision_function(others))[trees - 1]
    found = BoostedTrees.of(model, trees).logits(others)
    np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=1e-12)
    assert np.ptp(found) > 0


def test_a_saved_ranker_scores_like_the_trained_one(tmp_path: Path) -> None:
    data = random_set(200)
    boosted = gbdt.boost(
        data.take(np.arange(100)), data.take(np.arange(100, 150)), (data,), seed=0, spec=SMALL, save=True
    )
    assert boosted.saved is not None
    stated = {**vars(SERVING), "arm": "gbdt", "rate": 0.5, "boosting": SMALL}
    save_trees(boosted.saved, tmp_path / "ranker", {"name": "ranker", **TRAINED_ON.as_json()}, {}, **stated)
    ranker = load_trained(tmp_path / "ranker")
    assert isinstance(ranker, BoostedRanker)
    np.testing.assert_allclose(ranker.score(data), boosted.predictions[0], atol=1e-12)
    np.testing.assert_allclose(ranker.score(data.take(np.arange(3))), boosted.predictions[0][:3], atol=1e-12)
    assert ranker.config.sizes == SERVING.sizes and ranker.smoothing_rate == ranker.positive_rate == 0.5
    (tmp_path / "ranker" / "trees.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactCorruptError, match=r"trees\.safetensors"):
        load_trained(tmp_path / "ranker")


def test_without_asking_no_trees_are_returned() -> None:
    data = random_set(60)
    assert gbdt.boost(data, data, (), seed=0, spec=SMALL).saved is None
