"""GateSID's history: between two target attentions, its gate by item statistics, and an alignment that cannot move the gate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import random_set, ranker_config, set_with
from ranking.data.batch import Batch
from ranking.data.batches import Batches, Vocabulary, seen_in
from ranking.data.numeric_features import Scaling, feature_names
from ranking.models.ctr_model import CtrModel
from ranking.models.histories.base import Space
from ranking.models.histories.shared_gated import SharedGatedHistory
from ranking.models.item_statistics import ItemStatistics, statistic_places
from ranking.models.losses import gated_alignment
from ranking.models.parts import forced_off, parts_in
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec, RankerSpec, losses_of, without_loss
from ranking.training.measure_liveness import measure_liveness
from ranking.training.ranker import fit_representations, make_model

law = settings(max_examples=15, deadline=None, database=None)
DATA = random_set(60)
VOCABULARY = Vocabulary.fit(DATA.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)
SPEC = ModelSpec(dim=4, heads=2, hidden=(8,), history="shared_gated", dropout=0.0, id_dropout=0.0)
DIMS = (4, 6)


def spaces(batch: Batch, seed: int) -> tuple[Space, Space]:
    generator = torch.Generator().manual_seed(seed)
    modality, behaviour = (torch.randn((len(batch.items.index), dim), generator=generator) for dim in DIMS)
    return Space(modality[batch.candidate], modality), Space(behaviour[batch.candidate], behaviour)


def batch_of(rows: int = 60) -> Batch:
    return Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(rows))


def model_of(spec: ModelSpec = SPEC) -> CtrModel:
    config = ranker_config(("id", "content"), spec, SCALING)
    torch.manual_seed(0)
    return make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen_in(DATA, VOCABULARY)))


def seeded(spec: ModelSpec = SPEC) -> SharedGatedHistory:
    torch.manual_seed(2)
    history = SharedGatedHistory(*DIMS, spec)
    for parameter in history.parameters():
        torch.nn.init.normal_(parameter)
    return history.eval()


@law
@given(st.integers(0, 10**6))
def test_a_gate_of_one_is_the_target_attention_of_the_behaviour_space_and_of_zero_of_the_modality_space(
    seed: int,
) -> None:
    history, batch = seeded(), batch_of()
    modality, behaviour = spaces(batch, seed)
    (gate,) = (part for part in parts_in(history, "history") if part.kind == "gate")
    for value, space, attention in ((1.0, behaviour, history.behaviour), (0.0, modality, history.modality)):
        with forced_off(gate, value):
            pooled = history(modality, behaviour, batch)
        at = (batch.history, batch.mask, batch.gap_bucket)
        weights = attention.weights(space.candidate, space.items, *at)
        own = attention(space.candidate, space.items, *at)
        start = DIMS[0] * SPEC.heads if space is behaviour else 0
        torch.testing.assert_close(pooled[:, start : start + own.shape[1]], own)
        other = modality if space is behaviour else behaviour
        crossed = torch.einsum("bhl,bld->bhd", weights, other.history(batch)).flatten(1)
        start = 0 if space is behaviour else DIMS[0] * SPEC.heads
        torch.testing.assert_close(pooled[:, start : start + crossed.shape[1]], crossed)


@law
@given(st.integers(0, 10**6))
def test_values_are_pooled_by_the_mixed_weights(seed: int) -> None:
    history, batch = seeded(), batch_of()
    modality, behaviour = spaces(batch, seed)
    weights = history.weights(modality, behaviour, batch)
    gate = history.gate_of(modality, behaviour, batch)[:, None, None]
    torch.testing.assert_close(weights["shared"], gate * weights["behaviour"] + (1 - gate) * weights["modality"])
    pooled = history(modality, behaviour, batch)
    expected = [torch.einsum("bhl,bld->bhd", weights["shared"], each.history(batch)) for each in (modality, behaviour)]
    flat = torch.cat([each.flatten(1) for each in expected], dim=1)
    torch.testing.assert_close(pooled[:, : flat.shape[1]], flat)
    assert pooled.shape[1] == history.dim == 2 * flat.shape[1]


def test_the_gate_reads_counts_rates_and_age_of_the_item_and_nothing_of_the_user() -> None:
    names = [feature_names()[at] for at in statistic_places()]
    assert {"item_log_exposures_all", "item_log_clicks_all", "item_rate_7d", "item_log_age_days"} <= set(names)
    assert all(name.startswith("item_") for name in names)
    assert "item_in_history" not in names
    history, batch = seeded(), batch_of()
    modality, behaviour = spaces(batch, 0)
    before = history.gate_of(modality, behaviour, batch)
    changed = batch.numeric.clone()
    changed[:, [at for at, name in enumerate(feature_names()) if name.startswith(("user_", "history_"))]] += 1
    assert torch.equal(history.gate_of(modality, behaviour, _with(batch, changed)), before)
    changed[:, feature_names().index("item_log_clicks_all")] += 1
    assert not torch.allclose(history.gate_of(modality, behaviour, _with(batch, changed)), before)


def _with(batch: Batch, numeric: torch.Tensor) -> Batch:
    return Batch(**{**vars(batch), "numeric": numeric})


def test_the_alignment_has_no_gradient_into_the_gate() -> None:
    model, batch = model_of().train(), batch_of()
    model(batch)
    (loss,) = model.auxiliary(batch).values()
    loss.backward()
    history = model.history
    assert isinstance(history, SharedGatedHistory)
    assert loss > 0
    assert all(parameter.grad is None for parameter in history.gate_net.parameters())
    assert model.parts[0].table.weight.grad.abs().sum() > 0, "ids are aligned"
    assert history.align is not None and history.align.weight.grad.abs().sum() > 0, "and content"
    assert model.auxiliary(batch) == {}, "the loss of a batch is taken once"


@law
@given(st.integers(0, 10**6))
def test_the_alignment_is_an_info_nce_weighted_by_one_minus_the_gate(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    own, content = (torch.randn((7, 3), generator=generator) for _ in range(2))
    gate = torch.rand(7, generator=generator)
    candidate = torch.tensor([4, 1, 4, 9, 1, 6, 2])
    last = [2, 3, 4, 5, 6]  # of the rows of an item, the last one
    unit = [torch.nn.functional.normalize(each[last], dim=1).double().numpy() for each in (own, content)]
    cosine = np.exp(unit[0] @ unit[1].T / 0.1)
    expected = np.mean((1 - gate[last].numpy()) * -np.log(np.diag(cosine) / cosine.sum(axis=1)))
    assert float(gated_alignment(own, content, gate, candidate, 0.1, 512)) == pytest.approx(expected, rel=1e-4)
    assert float(gated_alignment(own, content, torch.ones(7), candidate, 0.1, 512)) == 0, "a warm item is not aligned"
    assert float(gated_alignment(own[:1], content[:1], gate[:1], candidate[:1], 0.1, 512)) == 0
    assert float(gated_alignment(own, content, gate, candidate, 0.1, 2)) >= 0


def test_a_comparison_trains_the_arm_without_the_alignment() -> None:
    arm = ArmSpec(representations=("id", "content"), model={"history": "shared_gated"})
    assert losses_of(arm, ModelSpec()) == {"shared_gated.alignment": "alignment_weight"}
    without = without_loss(arm, ModelSpec(), "shared_gated.alignment")
    assert losses_of(without, ModelSpec()) == {}
    batch = batch_of()
    model = model_of(SPEC.model_copy(update={"alignment_weight": 0.0})).train()
    model(batch)
    assert model.auxiliary(batch) == {}


def test_the_control_reads_the_statistics_of_training_rows_and_depends_on_its_row_alone() -> None:
    statistics = ItemStatistics(shuffled=True)
    numeric = torch.randn(50, len(feature_names()))
    at_us, candidate = torch.arange(50) * 10**9, torch.arange(50)
    statistics.train()(numeric, at_us, candidate)
    statistics.eval()
    found = statistics(numeric, at_us, candidate)
    own = numeric[:, statistics.places]
    assert {tuple(row) for row in found.tolist()} <= {tuple(row) for row in own.tolist()}
    assert len({tuple(row) for row in found.tolist()}) > 20
    assert (found != own).any(dim=1).float().mean() > 0.9
    assert torch.equal(statistics(numeric[7:8], at_us[7:8], candidate[7:8]), found[7:8])
    later = ItemStatistics(shuffled=True)
    later.load_state_dict(statistics.state_dict())
    assert torch.equal(later.eval()(numeric, at_us, candidate), found)


def test_the_mean_gate_is_reported_by_the_interactions_of_the_candidate() -> None:
    counts = [0, 0, 3, 9, 10, 99, 100, 5000] * 6
    data = set_with(counts)
    scaling = Scaling.fit(data.features, 0.5)
    config = ranker_config(("id", "content"), SPEC, scaling)
    torch.manual_seed(0)
    model = make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen_in(data, VOCABULARY)))
    history = model.history
    assert isinstance(history, SharedGatedHistory)
    with torch.no_grad():
        for parameter in history.gate_net.parameters():
            parameter.zero_()
        place = DIMS[0] + DIMS[0] + list(statistic_places()).index(feature_names().index("item_log_exposures_all"))
        history.gate_net[0].weight[0, place], history.gate_net[0].bias[0] = 1.0, 3.0
        history.gate_net[2].weight[0, 0], history.gate_net[2].bias[0] = 1.0, -3.0
    measured = measure_liveness(model, Batches(data, scaling, VOCABULARY), counts=np.array(counts))
    (gate,) = (part for part in measured if part.name == "shared_gated.gate")
    assert [(each.least, each.below, each.rows) for each in gate.by_count] == [
        (0, 1, 12), (1, 10, 12), (10, 100, 12), (100, None, 12),
    ]  # fmt: skip
    means = [each.mean for each in gate.by_count]
    assert means == sorted(means) and means[-1] - means[0] > 0.2
    assert all(not part.by_count for part in measure_liveness(model, Batches(data, scaling, VOCABULARY)))


def test_controls_cannot_serve() -> None:
    for model in ({"shuffled_counts": True, "history": "shared_gated"}, {"prior_random": True, "prior_strength": 3.0}):
        assert not ArmSpec(representations=("id", "content"), model=model).can_serve
        with pytest.raises(ValueError, match="cannot serve; set them in the model of an arm"):
            RankerSpec(model=model)
    assert ArmSpec(representations=("id", "content"), model={"history": "shared_gated"}).can_serve
