"""The loss that keeps id and codes in the gated vector: its equation, what it moves, and what it measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_auxiliary_losses import SHAPE, batch_of, seen_of

from ranking.data.batch import Batch
from ranking.experiments.comparison.arms import load_arms
from ranking.models.losses import keep_view
from ranking.models.representations.base import ItemShape
from ranking.models.representations.kept_views import KeptViewsRepresentation
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import losses_of
from sidkit.core.errors import ConfigError

law = settings(max_examples=40, deadline=None, database=None)
CODES = np.array([[0, 0, 1, 1], [1, 2, 0, 4], [3, 1, 2, 2], [-1, -1, -1, -1], [2, 0, 3, 0]])
INDEX = [2, 3, 1, 5, 6]  # the third item has an unknown id, the fourth no codes
SEEN = seen_of(CODES, np.zeros(7, dtype=np.int64), np.array([0, 0, 0, 1, 3, 4, 4]))


def part_of(**changes: object) -> KeptViewsRepresentation:
    spec = ModelSpec(dim=4, neighbours=3, id_dropout=0.0).model_copy(update=changes)
    torch.manual_seed(0)
    part = KeptViewsRepresentation.from_spec(SHAPE, spec, KeptViewsRepresentation.fit(SHAPE, spec, SEEN))
    for module in part.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    return part.eval()


def batch() -> Batch:
    return batch_of(CODES, INDEX, [0, 1, 2, 3, 4, 0], [9] * 6)


def softplus(value: float) -> float:
    return math.log1p(math.exp(-abs(value))) + max(value, 0.0)


def by_hand(view: np.ndarray, fused: np.ndarray, weight: np.ndarray) -> np.ndarray:
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (view, fused)]
    losses = []
    for at, own in enumerate(unit[0]):
        others = [softplus(own @ weight @ other) for place, other in enumerate(unit[1]) if place != at]
        losses.append(softplus(-(own @ weight @ unit[1][at])) + sum(others) / len(others))
    return np.array(losses)


@law
@given(st.integers(0, 10**6), st.integers(2, 7))
def test_the_loss_is_the_equation_in_double_precision(seed: int, items: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    view, fused = (torch.randn(items, 3, generator=generator) for _ in range(2))
    weight = torch.randn(3, 3, generator=generator)
    expected = by_hand(*(each.numpy().astype(float) for each in (view, fused, weight)))
    assert keep_view(view, fused, weight).numpy() == pytest.approx(expected, abs=1e-5)


@law
@given(st.integers(0, 10**6))
def test_without_a_measure_the_loss_is_two_log_two(seed: int) -> None:
    view, fused = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed))
    assert keep_view(view, fused, torch.zeros(3, 3)).tolist() == pytest.approx([2 * math.log(2)] * 5)


def test_a_gate_that_only_lets_the_id_through_raises_the_term_of_the_codes() -> None:
    own, shared = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(1))
    terms = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        terms.append(float(keep_view(shared, share * own + (1 - share) * shared, torch.eye(8)).mean()))
    assert terms == sorted(terms)
    assert terms[-1] > terms[2] + 0.1


def test_the_loss_of_a_batch_is_over_its_known_items_with_codes_and_their_mean_gates() -> None:
    part, rows = part_of(), batch()
    gate = part.gate(rows).detach().numpy().astype(float)
    share = np.array([(gate[0] + gate[5]) / 2, gate[1], gate[4]])[:, None]
    with torch.no_grad():
        items = rows.items.take(torch.tensor([0, 1, 4]))
        own, shared, opq = part.table.rows(items.index), part._rq(items.codes), part._opq(items.codes)
    own, shared, opq = (each.numpy().astype(float) for each in (own, shared, opq))
    fused = share * own + (1 - share) * shared + 0.5 * opq
    each = np.eye(4)
    local = (by_hand(own, fused, each) + by_hand(shared, fused, each)) / 2
    expected = 0.01 * (local / 2 + by_hand((own + shared) / 2, fused, each) / 2).mean()
    assert part.auxiliary(rows)["keep_view"].item() == pytest.approx(expected, abs=1e-6)


def test_this_loss_moves_the_gate_and_weight_zero_is_the_base_model() -> None:
    part, rows = part_of(transfer_weight=0.0, contrast_weight=0.0), batch()
    part.auxiliary(rows)["keep_view"].backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in part.gate_net.parameters())
    none = part_of(keep_view_weight=0.0)
    assert sorted(none.auxiliary(rows)) == ["contrast", "transfer"]
    torch.manual_seed(0)
    spec = ModelSpec(dim=4, neighbours=3, id_dropout=0.0)
    base = RqOpqGateRepresentation.from_spec(SHAPE, spec, RqOpqGateRepresentation.fit(SHAPE, spec, SEEN)).eval()
    base.load_state_dict({name: each for name, each in none.state_dict().items() if name in base.state_dict()})
    assert torch.equal(base.encode(rows)[1], none.encode(rows)[1])


def test_a_collapsed_gate_spreads_again_under_the_loss_alone() -> None:
    """What CMiMC is for: the gate of an item vector that is nothing but its id turns back towards the codes."""
    torch.manual_seed(3)
    part = part_of(gate_bias=4.0, keep_view_weight=1.0, transfer_weight=0.0, contrast_weight=0.0)
    rows = batch_of(CODES, INDEX, [0, 1, 4, 0, 1, 4], [9] * 6)
    before = part.gate(rows).mean().item()
    optimizer = torch.optim.Adam(part.gate_net.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        part.auxiliary(rows)["keep_view"].backward()
        optimizer.step()
    assert part.gate(rows).mean().item() < before - 0.1


def test_one_item_alone_has_no_loss_and_no_gate_is_refused() -> None:
    alone = batch_of(CODES, INDEX, [0, 0, 3], [9] * 3)
    assert part_of().auxiliary(alone)["keep_view"].item() == 0.0
    with pytest.raises(ConfigError, match='use rq_opq_gate, or set gate_parts = "rq_opq"'):
        part_of(gate_parts="opq")
    assert part_of(gate_parts="rq").auxiliary(batch())["keep_view"].item() > 0


def test_the_arm_has_the_loss_and_its_control_has_shuffled_codes() -> None:
    arms = load_arms(["smile", "smile_kept", "smile_kept_shuffled"])
    shared = arms["smile_kept"].model_spec(ModelSpec())
    assert losses_of(arms["smile_kept"], shared) == {
        "kept_views.transfer": "transfer_weight",
        "kept_views.contrast": "contrast_weight",
        "kept_views.keep_view": "keep_view_weight",
    }
    assert arms["smile_kept_shuffled"].trained_by() | {"shuffle_codes": False} == arms["smile_kept"].trained_by()
    shape = ItemShape(vocabulary=9, sizes=(4, 3), content_dim=2, residual_levels=2, numeric_dim=3)
    with pytest.raises(ConfigError, match="OPQ"):
        KeptViewsRepresentation.from_spec(shape, ModelSpec(dim=4), {})
