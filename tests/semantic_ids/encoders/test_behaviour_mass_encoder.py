"""MMQ-v2's alignment: pairs of items with few clicks weigh little."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.encoders import BehaviourEncoder, BehaviourMassEncoder
from semantic_ids.encoders.behaviour_training import BehaviourTraining, _learn
from semantic_ids.laws import check_encoder
from semantic_ids.losses import info_nce
from semantic_ids.pairs.batches import KnownPairs
from semantic_ids.pairs.mass import mass_of, pair_masses
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.errors import FitError

law = settings(max_examples=60, deadline=None, database=None)
SMALL = {"dim": 8, "hidden": 16, "steps": 50, "batch": 64, "learning_rate": 0.02, "weight_decay": 0.0}


def test_it_keeps_the_contract() -> None:
    check_encoder(BehaviourMassEncoder, dim=4, hidden=8, steps=25)


@law
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20), st.floats(1, 10**4))
def test_mass_grows_with_clicks_from_0_to_1_and_no_further(clicks: list[int], full: float) -> None:
    counts = np.sort(clicks)
    mass = mass_of(counts, full)
    assert (np.diff(mass) >= 0).all() and (mass >= 0).all() and (mass <= 1).all()
    assert (mass[counts == 0] == 0).all() and (mass[counts >= full] == 1).all()
    below = (counts > 0) & (counts < full)
    assert mass[below] == pytest.approx(np.log(1 + counts[below]) / np.log(1 + full))
    assert (mass_of(counts, 0) == 1).all()


def test_a_pair_has_the_smaller_mass_of_its_items_and_at_least_that_of_one_click() -> None:
    pairs = ItemPairs(
        np.array([0, 1]), np.array([1, 2]), np.ones(2, np.float32), np.array([0, 9, 99, 5]), 0
    )  # fmt: skip
    mass = pair_masses(pairs, 50)
    assert mass.tolist() == pytest.approx([*mass_of([1, 9, 99, 5], 50)])
    shuffled = pair_masses(pairs, 50, shuffled=True, seed=1)
    assert sorted(shuffled[:3]) == sorted(mass[:3]) and shuffled[3] == mass[3]


@law
@given(st.integers(0, 10**6))
def test_weights_of_the_loss_are_relative_and_a_row_of_weight_0_has_no_gradient(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    trigger, target = (torch.nn.functional.normalize(torch.randn(5, 3, generator=generator), dim=1) for _ in range(2))
    trigger.requires_grad_()
    weight = torch.rand(5, generator=generator) + 0.1
    weight[2] = 0
    arguments = (torch.arange(5), torch.zeros(5), torch.zeros(5, 5, dtype=torch.bool), 0.1)
    loss = info_nce(trigger, target, *arguments, weight=weight)
    score = (trigger @ target.T).detach().numpy() / 0.1
    each = np.log(np.exp(score).sum(axis=1)) - np.diag(score)
    assert loss.item() == pytest.approx(np.average(each, weights=weight.numpy()), rel=1e-4)
    same = info_nce(trigger, target, *arguments, weight=7 * weight)
    assert same.item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    assert trigger.grad is not None and not trigger.grad[2].any() and trigger.grad[[0, 1, 3, 4]].any(dim=1).all()
    plain = info_nce(trigger, target, *arguments)
    assert info_nce(trigger, target, *arguments, weight=torch.ones(5)).item() == pytest.approx(plain.item(), rel=1e-5)


def rivals(seed: int = 0) -> tuple[np.ndarray, ItemPairs]:
    """Pairs of items with many clicks agree in the first half of the content; pairs of items with one click, in the second."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 12)).astype(np.float32)
    trigger, target = [], []
    for start, columns in ((0, slice(0, 6)), (150, slice(6, 12))):
        part = x[start : start + 150, columns]
        unit = part / np.linalg.norm(part, axis=1, keepdims=True)
        close = unit @ unit.T - 2 * np.eye(150)
        near = np.argsort(-close, axis=1)[:, :5]
        trigger.append(start + np.repeat(np.arange(150), 5))
        target.append(start + near.ravel())
    clicks = np.where(np.arange(300) < 150, 200, 1)
    pairs = np.concatenate(trigger), np.concatenate(target)
    return x, ItemPairs(*pairs, np.ones(len(pairs[0]), np.float32), clicks, 0)


def test_pairs_of_items_with_many_clicks_decide_the_projection() -> None:
    """How far a vector moves with the half of the content by which items with many clicks are paired."""
    x, pairs = rivals()
    probe = torch.from_numpy(np.random.default_rng(1).normal(size=(400, 12)).astype(np.float32))
    share = {}
    for name, arguments in {"plain": {"mass_clicks": 0.0}, "mass": {}, "shuffled": {"shuffled_mass": True}}.items():
        encoder = BehaviourMassEncoder(**{**SMALL, "log_q": 0.0, "mass_clicks": 200.0, **arguments})  # type: ignore[arg-type]
        spec = BehaviourTraining(**{field.name: getattr(encoder, field.name) for field in fields(BehaviourTraining)})
        model = _learn(spec, x, pairs, KnownPairs(pairs), 150, np.random.default_rng(0), None).model
        moved = []
        for columns in (slice(0, 6), slice(6, 12)):
            changed = probe.clone()
            changed[:, columns] = probe[:, columns].roll(1, dims=0)
            with torch.no_grad():
                moved.append(float((model(changed) - model(probe)).norm(dim=1).mean()))
        share[name] = moved[0] / sum(moved)
    assert share["mass"] > share["plain"] + 0.02
    assert share["mass"] > share["shuffled"] + 0.02


def test_without_mass_it_is_the_behaviour_encoder() -> None:
    x, pairs = rivals()
    vectors = BehaviourMassEncoder(**SMALL, mass_clicks=0).fit_transform(x, pairs)
    np.testing.assert_array_equal(vectors, BehaviourEncoder(**SMALL).fit_transform(x, pairs))
    with pytest.raises(FitError, match="mass_clicks must be a finite number of at least 0, got -1; 0 weighs all pairs"):
        BehaviourMassEncoder(**SMALL, mass_clicks=-1).fit(x, pairs)
