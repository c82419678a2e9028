"""MMQ-v2's router: the codes of an item count by its interactions as of the row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from helpers.training_builders import SIZES, random_set, ranker_config
from ranking.data.batch import Batch
from ranking.data.batches import Batches, Vocabulary, seen_in
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, numeric_columns
from ranking.evaluation.slices import prior_interactions
from ranking.models.ctr_model import CtrModel
from ranking.models.parts import forced_off, parts_in
from ranking.models.representations.base import ItemShape
from ranking.models.representations.routed_sid import RoutedSidRepresentation
from ranking.models.representations.sid import SidRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec
from ranking.training.measure_liveness import measure_liveness
from ranking.training.ranker import fit_representations, make_model
from semantic_ids.pairs.mass import mass_of

SPEC = ModelSpec(dim=4, hidden=(8,), mass_interactions=20.0)


def counted(data: Dataset) -> Dataset:
    """The same rows with whole numbers of exposures and clicks."""
    numeric = data.numeric.copy()
    rng = np.random.default_rng(3)
    for name, most in (("item_exposures_all", 40), ("item_clicks_all", 10)):
        numeric[:, numeric_columns().index(name)] = rng.integers(0, most, len(data)) * (rng.random(len(data)) < 0.8)
    return dataclasses.replace(data, numeric=numeric)


DATA = counted(random_set(80, items=30))
TRAINING = DATA.take(np.flatnonzero(DATA.candidate <= 20)[:50])  # later items are new
VOCABULARY = Vocabulary.fit(TRAINING.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)


def model_of(spec: ModelSpec = SPEC) -> CtrModel:
    config = ranker_config(("id", "routed_sid"), spec, SCALING)
    torch.manual_seed(0)
    return make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen_in(TRAINING, VOCABULARY))).eval()


def part_of(model: CtrModel) -> RoutedSidRepresentation:
    (part,) = (each for each in model.parts if isinstance(each, RoutedSidRepresentation))
    return part


def batch_of(data: Dataset = DATA) -> Batch:
    return Batches(data, SCALING, VOCABULARY).batch(torch.arange(len(data)))


def test_a_candidate_has_its_codes_times_the_mass_of_its_interactions_as_of_the_row() -> None:
    part, batch = part_of(model_of()), batch_of()
    plain = SidRepresentation.forward(part, batch.items)
    _, candidates = part.encode(batch)
    mass = torch.from_numpy(mass_of(prior_interactions(DATA), 20.0)).float()
    assert mass.min() == 0 and mass.max() == 1
    torch.testing.assert_close(candidates, mass[:, None] * plain[batch.candidate], atol=1e-4, rtol=1e-3)


def test_a_history_item_has_the_mass_of_its_training_rows_and_an_item_of_later_has_none() -> None:
    part, batch = part_of(model_of()), batch_of()
    plain = SidRepresentation.forward(part, batch.items)
    shown = {item: int((TRAINING.rows.item_ids == item).sum()) for item in set(TRAINING.rows.item_ids)}
    seen = seen_in(TRAINING, VOCABULARY)
    trained = np.bincount(seen.index, weights=seen.shown, minlength=VOCABULARY.size)
    assert trained[2:].sum() == sum(shown.values()) - trained[:2].sum()
    mass = torch.from_numpy(mass_of(np.where(np.arange(len(trained)) > 1, trained, 0), 20.0)).float()
    torch.testing.assert_close(part(batch.items), mass[batch.items.index][:, None] * plain)
    assert not part(batch.items)[batch.items.index == 1].any()


def test_a_gate_of_one_is_sid_bit_by_bit_and_of_zero_no_codes() -> None:
    model, batch = model_of(), batch_of()
    part = part_of(model)
    gates = [each for each in parts_in(part, "p") if each.kind == "gate"]
    assert [gate.name for gate in gates] == ["p.router", "p.history_router"]
    with forced_off(gates[0], 1.0), forced_off(gates[1], 1.0):
        vectors, candidates = part.encode(batch)
    plain = SidRepresentation.forward(part, batch.items)
    assert torch.equal(vectors, plain) and torch.equal(candidates, plain[batch.candidate])
    with forced_off(gates[0], 0.0):
        assert not part.encode(batch)[1].any()


def test_without_counts_a_candidate_has_the_mass_of_its_training_rows() -> None:
    shape = ItemShape(VOCABULARY.size, SIZES, 6)
    seen = seen_in(TRAINING, VOCABULARY)
    part = RoutedSidRepresentation.from_spec(shape, SPEC, RoutedSidRepresentation.fit(shape, SPEC, seen))
    batch = batch_of()
    vectors, candidates = part.encode(batch)
    torch.testing.assert_close(candidates, vectors[batch.candidate])


def test_the_control_has_the_interactions_of_other_rows_and_cannot_serve() -> None:
    spec = SPEC.model_copy(update={"shuffled_counts": True})
    part, batch = part_of(model_of(spec)), batch_of()
    part.train().encode(batch)
    part.eval()
    found, own = part._interactions(batch), part_of(model_of())._interactions(batch)
    assert torch.equal(found, part._interactions(batch)), "the same in every call"
    assert np.isin(found.round().numpy(), own.round().numpy()).all()
    assert np.corrcoef(found.detach(), own)[0, 1] < 0.5
    trained = [model.fitted_trained for model in (part, part_of(model_of()))]
    assert torch.equal(trained[0].sort().values, trained[1].sort().values) and not torch.equal(*trained)
    arm = ArmSpec(representations=("id", "routed_sid"), model={"shuffled_counts": True})
    assert not arm.can_serve and ArmSpec(representations=("id", "routed_sid")).can_serve


def test_a_comparison_lists_the_mass_by_interactions() -> None:
    model = model_of()
    batches = Batches(DATA, SCALING, VOCABULARY)
    counts = prior_interactions(DATA)
    (router,) = (part for part in measure_liveness(model, batches, counts=counts) if part.name == "routed_sid.router")
    assert router.kind == "gate" and len(router.auc_off) == 2
    means = [each.mean for each in router.by_count]
    assert means == sorted(means) and means[0] == pytest.approx(0, abs=1e-5) and means[-1] > 0.8
