"""The neighbour prior of id rows: against a loop, off by default bit for bit, and without items of the future."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.training_builders import CONTENT_DIM, TRAINED_ON, random_set, ranker_config
from ranking.data.batch import Batch, Seen
from ranking.data.batches import Batches, Vocabulary, seen_in
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, feature_names, numeric_columns
from ranking.data.vocabulary import UNKNOWN
from ranking.models.ctr_model import CtrModel
from ranking.models.item_statistics import CountScaling
from ranking.models.parts import forced_off
from ranking.models.representations import neighbours
from ranking.models.representations.base import ItemShape
from ranking.models.representations.id import IdRepresentation
from ranking.models.representations.neighbours import fit_neighbours
from ranking.models.spec import ModelSpec
from ranking.training.loop import predict
from ranking.training.ranker import Ranker, fit_representations, make_model
from sidkit.core.errors import ConfigError
from sidkit.core.neighbour_search import search

SPEC = ModelSpec(dim=4, hidden=(8,), id_dropout=0.2, prior_strength=5.0, prior_neighbours=3)
WHOLE = slice(None)


def counted(data: Dataset) -> Dataset:
    """The same rows with whole numbers of exposures and clicks."""
    numeric = data.numeric.copy()
    rng = np.random.default_rng(3)
    for name, most in (("item_exposures_all", 40), ("item_clicks_all", 60)):
        numeric[:, numeric_columns().index(name)] = rng.integers(0, most, len(data))
    return dataclasses.replace(data, numeric=numeric)


DATA = counted(random_set(80, items=30))
TRAINING = DATA.take(np.flatnonzero(DATA.candidate <= 20)[:50])  # later items are new
VOCABULARY = Vocabulary.fit(TRAINING.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)


def model_of(spec: ModelSpec) -> CtrModel:
    config = ranker_config(("id", "content"), spec, SCALING)
    torch.manual_seed(0)
    return make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen_in(TRAINING, VOCABULARY)))


def batch_of(data: Dataset = DATA) -> Batch:
    return Batches(data, SCALING, VOCABULARY).batch(torch.arange(len(data)))


def unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


def neighbours_by_hand(
    content: np.ndarray, own: int | None, trained: dict[int, np.ndarray], count: int
) -> dict[int, float]:
    """Id row -> weight."""
    if not np.any(content):
        return {}
    nearest = sorted((row for row in trained if row != own), key=lambda row: -float(unit(content) @ unit(trained[row])))
    around = np.array([unit(trained[row]) for row in nearest[:count]])
    spread = around.std(axis=0) + 1e-3
    weight = np.exp(-0.5 * ((around - unit(content)) ** 2 / spread).sum(axis=1))
    return dict(zip(nearest[:count], (weight / weight.sum()).tolist(), strict=True))


def test_a_candidates_vector_is_that_of_the_formula_row_by_row() -> None:
    model = model_of(SPEC).eval()
    part = model.parts[0]
    assert isinstance(part, IdRepresentation)
    nn.init.normal_(part.table.weight)
    rows = part.table.weight.detach().numpy()
    batch = batch_of()
    _, vectors = part.encode(batch)
    shown = np.bincount(TRAINING.candidate, minlength=len(DATA.items))
    index = VOCABULARY.numbers(DATA.items.ids)
    trained: dict[int, np.ndarray] = {}
    for row in sorted(set(index[shown > 0])):
        version = max(np.flatnonzero(index == row), key=lambda at: (shown[at], at))
        if np.any(DATA.items.content[version]):
            trained[int(row)] = DATA.items.content[version]
    exposures, clicks = (
        DATA.numeric[:, numeric_columns().index(f"item_{kind}_all")] for kind in ("exposures", "clicks")
    )
    unseen = 0
    for row, item in enumerate(DATA.candidate):
        own = int(index[item])
        known = own != UNKNOWN
        content = trained.get(own, np.zeros(CONTENT_DIM)) if known else DATA.items.content[item]
        weights = neighbours_by_hand(content, own if known else None, trained, SPEC.prior_neighbours)
        count = min(float(max(exposures[row], clicks[row])), float(shown[index == own].sum())) if known else 0.0
        expected = rows[own]
        if weights:
            prior = sum(weight * rows[other] for other, weight in weights.items())
            expected = (count * rows[own] + SPEC.prior_strength * prior) / (count + SPEC.prior_strength)
            unseen += not known
        np.testing.assert_allclose(vectors[row].detach().numpy(), expected, atol=2e-3)
    assert unseen > 3, "items outside the training window have the neighbours' mean"


def test_without_strength_the_model_is_the_base_model_bit_for_bit() -> None:
    off = SPEC.model_copy(update={"prior_strength": 0.0})
    base, model = (model_of(spec) for spec in (ModelSpec(dim=4, hidden=(8,), id_dropout=0.2), off))
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), model.parameters(), strict=True))
    assert list(base.state_dict()) == list(model.state_dict())
    batch = batch_of()
    for train in (True, False):
        logits = []
        for each in (base, model):
            torch.manual_seed(5)
            logits.append(each.train(train)(batch))
        assert torch.equal(*logits)
    with_prior = model_of(SPEC)
    assert sum(each.numel() for each in with_prior.parameters()) == sum(each.numel() for each in base.parameters())


def test_no_item_of_the_future_is_a_neighbour() -> None:
    """Items born after the training rows have no row: they are never a neighbour, of training rows or of others."""
    part = model_of(SPEC).eval().parts[0]
    born_later = set(range(len(DATA.items))) - set(TRAINING.candidate.tolist())
    assert any(DATA.items.ids[item] not in set(TRAINING.rows.item_ids) for item in born_later)
    trained_rows = set(VOCABULARY.numbers(TRAINING.rows.item_ids).tolist())
    assert set(part.fitted_key_rows.tolist()) <= trained_rows
    used = part.fitted_near[part.fitted_near_weight > 0]
    assert set(used.tolist()) <= trained_rows
    assert UNKNOWN not in trained_rows


def test_the_random_control_keeps_weights_and_permutes_the_items() -> None:
    seen = seen_in(TRAINING, VOCABULARY)
    right, control = (fit_neighbours(seen, VOCABULARY.size, WHOLE, 3, randomised=each) for each in (False, True))
    assert torch.equal(right["near_weight"], control["near_weight"])
    assert torch.equal(right["keys"], control["keys"])
    assert sorted(right["key_rows"].tolist()) == sorted(control["key_rows"].tolist())
    assert (right["key_rows"] != control["key_rows"]).float().mean() > 0.5


def test_two_items_of_equal_content_are_each_others_nearest_neighbour() -> None:
    content = np.eye(4, 3, dtype=np.float32)
    content[3] = content[0]
    index = np.arange(2, 6)
    seen = Seen(np.ones(4, np.int64), index, index, np.zeros((4, 1), np.int64), None, content)
    fitted = fit_neighbours(seen, 6, WHOLE, 1)
    assert fitted["near"][2].item() == 5 and fitted["near"][5].item() == 2


def test_the_index_is_bounded_and_holds_the_most_trained_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "INDEXED", 5)
    seen = seen_in(TRAINING, VOCABULARY)
    fitted = fit_neighbours(seen, VOCABULARY.size, WHOLE, 3)
    rows = fitted["key_rows"]
    assert len(rows) == len(fitted["keys"]) == 5
    trained = fitted["trained"]
    has_content = fitted["near_weight"].sum(dim=1) > 0
    others = [row for row in torch.nonzero(has_content).flatten().tolist() if row not in rows.tolist()]
    assert others and trained[rows].min() >= trained[others].max()


@given(st.integers(0, 10**6))
def test_an_item_is_not_its_own_neighbour_and_weights_sum_to_one(seed: int) -> None:
    keys = nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)), dim=1)
    near, weight = search(keys, keys, 4, torch.arange(9))
    assert (near != torch.arange(9)[:, None]).all()
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(9))
    assert search(keys, keys, 4)[0][:, 0].tolist() == list(range(9))


def test_a_vector_of_zeros_and_an_empty_index_have_no_neighbours() -> None:
    keys = nn.functional.normalize(torch.randn(3, 2), dim=1)
    assert (search(torch.zeros(1, 2), keys, 2)[1] == 0).all()
    assert search(keys, keys[:0], 2)[0].shape == (3, 0)
    assert search(keys[:1], keys[:1], 2, torch.tensor([0]))[0].shape == (1, 0)


def test_both_the_own_row_and_the_neighbours_learn() -> None:
    part = model_of(SPEC).parts[0].eval()
    batch = batch_of(DATA.take(np.arange(1)))
    gradient = torch.autograd.grad(part.encode(batch)[1].sum(), part.table.weight)[0]
    own = int(batch.candidate_index[0])
    others = part.fitted_near[own][part.fitted_near_weight[own] > 0].tolist()
    assert (gradient[[own, *others]].abs().sum(dim=1) > 0).all()


def test_the_counts_of_scaled_features_are_those_of_the_rows() -> None:
    exposures, clicks = (
        DATA.numeric[:, numeric_columns().index(f"item_{kind}_all")] for kind in ("exposures", "clicks")
    )
    found = CountScaling.of(SCALING).counts(torch.from_numpy(SCALING.apply(DATA.features)))
    np.testing.assert_allclose(found.numpy(), np.maximum(exposures, clicks), rtol=1e-3, atol=1e-3)


def test_forced_off_leaves_the_own_row_and_forced_on_the_neighbours() -> None:
    model = model_of(SPEC).eval()
    part = next(part for part in model.evaluated_parts() if part.name == "id.prior_share")
    nn.init.normal_(model.parts[0].table.weight)
    batch = batch_of()
    rows: Tensor = model.parts[0].table.weight[batch.candidate_index]
    with forced_off(part, 0.0):
        torch.testing.assert_close(model.parts[0].encode(batch)[1], rows)
    with forced_off(part, 1.0):
        assert not torch.allclose(model.parts[0].encode(batch)[1], rows)


def test_neighbours_are_saved_with_the_ranker(tmp_path: Path) -> None:
    config = ranker_config(("id", "content"), SPEC, SCALING)
    ranker = Ranker(model_of(SPEC).eval(), VOCABULARY, config)
    nn.init.normal_(ranker.model.parts[0].table.weight)
    expected = predict(ranker.model, ranker.batches(DATA))
    ranker.save(tmp_path / "ranker", {"name": "ranker", **TRAINED_ON.as_json()}, {})
    loaded = Ranker.load(tmp_path / "ranker")
    np.testing.assert_array_equal(loaded.score(DATA), expected)
    assert torch.equal(loaded.model.parts[0].fitted_near, ranker.model.parts[0].fitted_near)


def test_content_that_was_trained_on_clicks_is_refused() -> None:
    shape = ItemShape(5, (3,), 2, numeric_dim=len(feature_names()), content_columns=(0, 0))
    with pytest.raises(ConfigError, match=r"not trained on clicks.*set prior_strength = 0"):
        IdRepresentation.from_spec(shape, SPEC)
    IdRepresentation.from_spec(shape, SPEC.model_copy(update={"prior_strength": 0.0}))
