"""Numeric features in quantile bins: what the head is told, from which rows the bins are, and that serving tells the same."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import random_set, ranker_config, seen_as
from ranking.data.batches import Batches, vocabulary_of
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling
from ranking.models import numeric_bins
from ranking.models.numeric_bins import Edges, NumericBins, binned, quantile_edges
from ranking.models.spec import ModelSpec
from ranking.training.loop import train
from ranking.training.ranker import Ranker, RankerConfig, make_model
from ranking.training.spec import TrainingSpec


def told(value: float, edges: tuple[float, ...]) -> list[float]:
    """Equation 1 of Gorishniy et al. (2022), but flat outside the outer edges."""
    found = []
    for low, high in itertools.pairwise(edges):
        found.append(0.0 if value < low else 1.0 if value >= high else (value - low) / (high - low))
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(-50, 50), unique=True, max_size=6).map(sorted), min_size=1, max_size=4), st.data())
def test_a_value_is_told_by_the_share_of_each_bin_below_it(edges: list[list[int]], data: st.DataObject) -> None:
    asked: Edges = tuple(tuple(each / 10 for each in feature) for feature in edges)
    rows = data.draw(st.lists(st.lists(st.integers(-70, 70), min_size=len(edges), max_size=len(edges)), max_size=5))
    numeric = np.asarray(rows, np.float32).reshape(-1, len(edges)) / 10
    expected = [
        [share for value, each in zip(row, asked, strict=True) for share in told(value, each)] for row in numeric
    ]
    found = NumericBins(asked)(torch.from_numpy(numeric)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.asarray(expected).reshape(found.shape), atol=1e-4)


def matrix(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(size=rows), rng.integers(0, 3, rows), np.zeros(rows)], axis=1).astype(np.float32)


def test_each_bin_holds_as_many_training_rows_equal_values_share_one_and_a_constant_has_none() -> None:
    rows = matrix(8_000)
    normal, three, constant = quantile_edges([rows], 8)
    assert np.histogram(rows[:, 0], normal)[0].tolist() == pytest.approx([1_000] * 8, abs=2)
    assert three == (0, 1, 2)
    assert constant == ()


@pytest.mark.parametrize("cut", [1, 7, 500, 999])
def test_how_training_rows_are_cut_makes_no_difference(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = matrix(1_000)
    chunks = [rows[start : start + cut] for start in range(0, len(rows), cut)]
    assert quantile_edges(chunks, 4) == quantile_edges([rows], 4)
    monkeypatch.setattr(numeric_bins, "SAMPLE_ROWS", 130)
    assert quantile_edges(chunks, 4) == quantile_edges([rows], 4) == quantile_edges([rows[::8]], 4)


def bump() -> Dataset:
    """Rows whose label depends on the middle of one numeric feature, which no straight line finds."""
    data = random_set(4_000)
    features = np.zeros_like(data.features)
    features[:, 0] = np.random.default_rng(1).normal(size=len(data))
    rows = dataclasses.replace(data.rows, label=(np.abs(features[:, 0]) < 0.5).astype(data.rows.label.dtype))
    return dataclasses.replace(data, numeric=seen_as(features), rows=rows)


def config_of(data: Dataset, bins: int, **model: Any) -> RankerConfig:
    scaling = Scaling.fit(data.features, 0.3)
    if bins:
        scaling = binned(scaling, [data.features], bins)
    spec = ModelSpec(dim=2, history="mean", dropout=0.0, numeric_bins=bins, **model)
    return ranker_config(("id",), spec, scaling)


def trained(data: Dataset, config: RankerConfig) -> tuple[Ranker, float]:
    vocabulary = vocabulary_of(data)
    scaling = Ranker(make_model(config, vocabulary), vocabulary, config).scaling
    tensors = [Batches(data, scaling, vocabulary) for _ in range(2)]
    spec = TrainingSpec(epochs=5, learning_rate=3e-2)
    found = train(lambda: make_model(config, vocabulary), *tensors, spec, seed=0, threads=1)
    return Ranker(found.model, vocabulary, config), max(found.validation_auc)


def test_the_head_bends_at_the_bins() -> None:
    data = bump()
    linear, bent = (trained(data, config_of(data, bins, hidden=()))[1] for bins in (0, 8))
    assert linear < 0.6
    assert bent > 0.9


def test_a_saved_ranker_keeps_its_bins(tmp_path: Path) -> None:
    data = bump()
    ranker, _ = trained(data, config_of(data, 4, hidden=(8,)))
    ranker.save(tmp_path / "ranker", {"name": "ranker"}, {})
    loaded = Ranker.load(tmp_path / "ranker")
    assert loaded.scaling == ranker.scaling
    assert loaded.scaling.edges[0][0] == pytest.approx(ranker.scaling.apply(data.features)[:, 0].min())
    assert np.array_equal(loaded.score(data), ranker.score(data))
