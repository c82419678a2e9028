"""Standardised histories: the moments, and that a row's score does not depend on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from helpers.training_builders import CONTENT_DIM, random_set, ranker_config
from ranking.data.batches import Batches, vocabulary_of
from ranking.data.numeric_features import Scaling
from ranking.models.spec import ModelSpec
from ranking.models.standardise import Standardise
from ranking.training.loop import predict, train
from ranking.training.ranker import Ranker, make_model
from ranking.training.spec import TrainingSpec

DATA = random_set(129, seed=1, items=40, users=30)  # the last batch of 32 rows has one row
SCALING = Scaling.fit(DATA.features, 0.5)
SPEC = ModelSpec(dim=CONTENT_DIM, heads=1, hidden=(8,), history_scale=0.5, attention="cosine")


def test_columns_have_mean_0_and_variance_1_in_training_and_the_averages_in_evaluation() -> None:
    part, rows = Standardise(3), torch.randn((50, 3)) * torch.tensor([1e-3, 1.0, 100.0]) + 5
    for _ in range(200):
        out = part(rows)
    np.testing.assert_allclose(out.mean(dim=0), 0, atol=5e-3)
    np.testing.assert_allclose(out.var(dim=0, correction=0), 1, atol=0.02)
    part.eval()
    np.testing.assert_allclose(part(rows), out, atol=0.05)
    assert torch.equal(part(rows[:1]), part(rows)[:1])


def test_a_training_batch_of_one_row_changes_no_average() -> None:
    part = Standardise(3)
    part(torch.randn((9, 3)))
    before = part.mean.clone()
    assert torch.isfinite(part(torch.randn((1, 3)))).all()
    assert torch.equal(part.mean, before)


def test_a_model_is_trained_saved_and_loaded_with_its_moments(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(DATA)
    config = ranker_config(("id", "content"), SPEC, SCALING, residual_levels=2)
    data = Batches(DATA, SCALING, vocabulary)
    spec = TrainingSpec(epochs=2, batch_rows=32)
    model = train(lambda: make_model(config, vocabulary), data, data, spec, seed=0, threads=1).model
    assert model.standardise is not None
    assert (model.standardise.mean != 0).any()
    ranker = Ranker(model, vocabulary, config)
    ranker.save(tmp_path / "ranker", {"name": "ranker"}, {})
    again = Ranker.load(tmp_path / "ranker")
    assert np.array_equal(again.score(DATA), ranker.score(DATA))
    some = DATA.take(np.arange(5))
    np.testing.assert_allclose(again.score(some), predict(model, data)[:5], atol=1e-6)


def test_the_head_reads_histories_with_the_deviation_of_the_settings() -> None:
    vocabulary = vocabulary_of(DATA)
    data, seen = Batches(DATA, SCALING, vocabulary), []
    for scale in (None, 0.2):
        torch.manual_seed(0)
        spec = SPEC.model_copy(update={"history_scale": scale})
        model = make_model(ranker_config(("id",), spec, SCALING, residual_levels=2), vocabulary)
        model.deep.register_forward_pre_hook(
            lambda _, given: seen.append(given[0][:, SPEC.dim : 3 * SPEC.dim].detach())
        )
        model(next(iter(data.batches(129))))
    before, after = (each.std(dim=0, correction=0) for each in seen)
    assert (before[SPEC.dim :] < 1e-3).all(), "products of vectors of size .01"
    torch.testing.assert_close(after[: SPEC.dim], torch.full((SPEC.dim,), 0.2), atol=0.01, rtol=0)
    assert (after[SPEC.dim :] > 0.1).all()
