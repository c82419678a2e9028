"""The loss that pulls id rows to those of their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers.training_builders import random_set, ranker_config
from ranking.data.batch import Batch, Seen
from ranking.data.batches import Batches, Vocabulary, seen_in
from ranking.data.numeric_features import Scaling
from ranking.data.vocabulary import UNKNOWN
from ranking.models.ctr_model import CtrModel
from ranking.models.losses import neighbour_pull
from ranking.models.representations.base import ItemShape
from ranking.models.representations.id import IdRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.ranker import fit_representations, make_model
from sidkit.core.errors import ConfigError

BASE = ModelSpec(dim=4, hidden=(8,), id_dropout=0.2, prior_neighbours=3)
SPEC = BASE.model_copy(update={"lm_prior_weight": 0.5, "lm_prior_warm": 4})
DATA = random_set(90, items=30)
TRAINING = DATA.take(np.flatnonzero(DATA.candidate <= 20)[:50])
VOCABULARY = Vocabulary.fit(TRAINING.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)


def model_of(spec: ModelSpec) -> CtrModel:
    config = ranker_config(("id", "content"), spec, SCALING)
    torch.manual_seed(0)
    return make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen_in(TRAINING, VOCABULARY)))


def batch_of() -> Batch:
    return Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(len(DATA)))


def id_part(spec: ModelSpec) -> IdRepresentation:
    part = model_of(spec).parts[0]
    assert isinstance(part, IdRepresentation)
    nn.init.normal_(part.table.weight)
    return part


def test_weight_0_is_the_base_model_bit_for_bit_in_training_too() -> None:
    trained = []
    for spec in (BASE, SPEC.model_copy(update={"lm_prior_weight": 0.0})):
        model, batch = model_of(spec).train(), batch_of()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        torch.manual_seed(3)
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
            sum(model.auxiliary(batch).values(), start=loss).backward()
            optimizer.step()
        trained.append(model)
    base, off = trained
    assert list(base.state_dict()) == list(off.state_dict())
    assert all(torch.equal(left, right) for left, right in zip(base.parameters(), off.parameters(), strict=True))
    assert off.auxiliary(batch_of()) == {} and IdRepresentation.losses(BASE) == {}


def test_scores_do_not_depend_on_the_loss() -> None:
    base, model = model_of(BASE).eval(), model_of(SPEC).eval()
    assert torch.equal(base(batch_of()), model(batch_of()))


def test_the_loss_is_that_of_the_formula_item_by_item() -> None:
    part, batch = id_part(SPEC), batch_of()
    rows, losses = part.table.weight.detach().double().numpy(), []
    for row in batch.items.index.tolist():
        near, weight = part.fitted_near[row].tolist(), part.fitted_near_weight[row].double().numpy()
        if row > UNKNOWN and weight.sum() > 0:
            losses.append(
                sum(w * ((rows[row] - rows[other]) ** 2).sum() for w, other in zip(weight, near, strict=True))
            )
    assert len(losses) > 10
    assert IdRepresentation.losses(SPEC) == {"lm_prior": "lm_prior_weight"}
    assert float(part.auxiliary(batch)["lm_prior"].detach()) == pytest.approx(0.5 * float(np.mean(losses)), rel=1e-4)


def test_the_row_of_a_warm_neighbour_gets_no_gradient_and_that_of_a_cold_one_does() -> None:
    trained = id_part(SPEC).fitted_trained
    assert (trained[2:] >= 4).any() and (trained[2:] < 4).any()
    for warm_from in (0, 4, 10**6):
        part, batch = id_part(SPEC.model_copy(update={"lm_prior_warm": warm_from})), batch_of()
        place = next(at for at, row in enumerate(batch.items.index.tolist()) if row > UNKNOWN)
        own = int(batch.items.index[place])
        alone = Batch(**{**vars(batch), "items": batch.items.take(torch.tensor([place]))})
        gradient = torch.autograd.grad(part.auxiliary(alone)["lm_prior"], part.table.weight)[0].abs().sum(dim=1)
        others = part.fitted_near[own][part.fitted_near_weight[own] > 1e-6].tolist()
        assert gradient[own] > 0 and others
        for other in others:
            assert (gradient[other] == 0) == (bool(trained[other] >= warm_from))


def test_the_rows_of_two_items_of_equal_content_are_driven_together() -> None:
    content = np.eye(4, 3, dtype=np.float32)
    content[3] = content[0]
    index = np.arange(2, 6)
    seen = Seen(np.ones(4, np.int64), index, index, np.zeros((4, 1), np.int64), None, content)
    shape = ItemShape(6, (3,), 3)
    spec = SPEC.model_copy(update={"prior_neighbours": 1})
    part = IdRepresentation.from_spec(shape, spec, IdRepresentation.fit(shape, spec, seen))
    nn.init.normal_(part.table.weight)
    batch = Batch(
        **{
            **vars(batch_of()),
            "items": type(batch_of().items)(
                torch.tensor(index), torch.zeros(4, 1, dtype=torch.int64), torch.from_numpy(content)
            ),
        }
    )
    apart = [float((part.table.weight[2] - part.table.weight[5]).norm().detach())]
    for _ in range(30):
        gradient = torch.autograd.grad(part.auxiliary(batch)["lm_prior"], part.table.weight)[0]
        with torch.no_grad():
            part.table.weight -= 0.5 * gradient
        apart.append(float((part.table.weight[2] - part.table.weight[5]).norm().detach()))
    assert apart[-1] < 0.01 * apart[0] and all(np.diff(apart) < 1e-6)


@given(st.integers(0, 10**6))
def test_the_pull_is_a_loop_and_fixed_neighbours_do_not_move(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    own, others = torch.randn(3, 2, generator=generator), torch.randn(3, 4, 2, generator=generator, requires_grad=True)
    weight, fixed = torch.rand(3, 4, generator=generator), torch.rand(3, 4, generator=generator) < 0.5
    loss = neighbour_pull(own, others, weight, fixed)
    for item in range(3):
        expected = sum(weight[item, at] * (own[item] - others[item, at]).square().sum() for at in range(4))
        torch.testing.assert_close(loss[item], expected)
    loss.sum().backward()
    assert others.grad is not None and torch.equal(others.grad.abs().sum(dim=2) == 0, fixed)


def test_content_that_was_trained_on_clicks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not trained on clicks.*lm_prior_weight = 0"):
        IdRepresentation.from_spec(ItemShape(5, (3,), 2, content_columns=(0, 0)), SPEC)
