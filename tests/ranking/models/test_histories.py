"""Histories and the head, each against a few lines of numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.batch import Batch, ItemBatch
from ranking.data.numeric_features import feature_names
from ranking.models.attention import TargetAttention
from ranking.models.cross import CrossLayers
from ranking.models.ctr_model import CtrModel
from ranking.models.dropout import Dropout
from ranking.models.histories import HISTORY_NAMES
from ranking.models.histories.base import History, Space
from ranking.models.histories.bidirectional import BidirectionalHistory
from ranking.models.histories.sid_match import SidMatchHistory
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from sidkit.core.errors import ConfigError

law = settings(max_examples=30, deadline=None, database=None)
DIMS = (4, 6)
SPEC = ModelSpec(heads=2)


def case_of(seed: int, rows: int = 5, length: int = 4, items: int = 7) -> tuple[Space, Space, Batch]:
    """Two spaces and a batch whose first history is empty; item 0 is padding, item 3 has no codes."""
    generator = torch.Generator().manual_seed(seed)
    modality, behaviour = (torch.randn((items, dim), generator=generator) for dim in DIMS)
    candidate = torch.randint(1, items, (rows,), generator=generator)
    lengths = torch.randint(0, length + 1, (rows,), generator=generator)
    lengths[0] = 0
    mask = torch.arange(length) < lengths[:, None]
    history = torch.randint(1, items, (rows, length), generator=generator) * mask
    codes = torch.randint(0, 2, (items, 3), generator=generator)
    codes[[0, 3]] = -1
    batch = Batch(
        torch.zeros((rows, 1)), ItemBatch(torch.zeros(items, dtype=torch.int64), codes, torch.zeros((items, 1))), candidate,
        history, mask, torch.randint(0, 16, (rows, length), generator=generator), torch.zeros(rows),
        torch.zeros(rows, dtype=torch.int64),
    )  # fmt: skip
    # A candidate's vector need not be its item's: the gate of its own row may have a say.
    own = [torch.randn((rows, dim), generator=generator) for dim in DIMS]
    return Space(own[0], modality), Space(own[1], behaviour), batch


def seeded(history: History) -> History:
    torch.manual_seed(1)
    for parameter in history.parameters():
        torch.nn.init.normal_(parameter)
    return history


def double(value: torch.Tensor) -> np.ndarray:
    return value.detach().numpy().astype(float)


def weights_by_hand(part: TargetAttention, own: np.ndarray, others: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """``[heads, items]``: softmax of scaled dot products of projections, plus the recency of the bucket."""
    query, key = double(part.query.weight) @ own, others @ double(part.key.weight).T
    found = []
    for head in range(part.heads):
        place = slice(head * part.head_dim, (head + 1) * part.head_dim)
        score = key[:, place] @ query[place] / np.sqrt(part.head_dim) + double(part.recency.weight)[buckets, head]
        grown = np.exp(score - score.max())
        found.append(grown / grown.sum())
    return np.array(found)


def with_products(pooled: list[np.ndarray], candidates: list[np.ndarray]) -> np.ndarray:
    """Each pooled ``[heads, dim]`` flat, then each times its candidate."""
    flat = [each.ravel() for each in pooled]
    return np.concatenate([*flat, *((each * own).ravel() for each, own in zip(pooled, candidates, strict=True))])


@law
@given(st.integers(0, 10**6))
def test_bidirectional_is_four_units_of_two_score_maps(seed: int) -> None:
    history = seeded(BidirectionalHistory(*DIMS, SPEC))
    assert isinstance(history, BidirectionalHistory)
    modality, behaviour, batch = case_of(seed)
    expected = np.zeros((5, history.dim))
    for row in range(5):
        there = batch.history[row][batch.mask[row]]
        if not len(there):
            continue
        buckets = batch.gap_bucket[row][batch.mask[row]].numpy()
        m, b = double(modality.items[there]), double(behaviour.items[there])
        own_m, own_b = double(modality.candidate[row]), double(behaviour.candidate[row])
        alpha = weights_by_hand(history.modality, own_m, m, buckets)
        beta = weights_by_hand(history.behaviour, own_b, b, buckets)
        expected[row] = with_products([alpha @ m, alpha @ b, beta @ m, beta @ b], [own_m, own_b, own_m, own_b])
    assert double(history(modality, behaviour, batch)) == pytest.approx(expected, abs=1e-4)


@law
@given(st.integers(0, 10**6))
def test_target_attention_sees_both_spaces_side_by_side(seed: int) -> None:
    history = seeded(HISTORY_NAMES.find("target_attention")(*DIMS, SPEC))
    modality, behaviour, batch = case_of(seed)
    expected = np.zeros((5, history.dim))
    items = np.concatenate([double(modality.items), double(behaviour.items)], axis=1)
    own = np.concatenate([double(modality.candidate), double(behaviour.candidate)], axis=1)
    for row in range(5):
        there = batch.history[row][batch.mask[row]].numpy()
        if len(there):
            buckets = batch.gap_bucket[row][batch.mask[row]].numpy()
            weights = weights_by_hand(history.attention, own[row], items[there], buckets)
            expected[row] = with_products([weights @ items[there]], [own[row]])
    assert double(history(modality, behaviour, batch)) == pytest.approx(expected, abs=1e-4)


@law
@given(st.integers(0, 10**6))
def test_mean_is_the_mean(seed: int) -> None:
    history = HISTORY_NAMES.find("mean")(*DIMS, SPEC)
    modality, behaviour, batch = case_of(seed)
    items = np.concatenate([double(modality.items), double(behaviour.items)], axis=1)
    own = np.concatenate([double(modality.candidate), double(behaviour.candidate)], axis=1)
    expected = np.zeros((5, history.dim))
    for row in range(5):
        there = batch.history[row][batch.mask[row]].numpy()
        if len(there):
            expected[row] = with_products([items[there].mean(axis=0)], [own[row]])
    assert double(history(modality, behaviour, batch)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pool", ["mean", "attention"])
@law
@given(seed=st.integers(0, 10**6))
def test_sid_match_pools_what_shares_the_first_codes(pool: str, seed: int) -> None:
    spec = ModelSpec(heads=2).model_copy(update={"sid_match": pool})
    history = seeded(SidMatchHistory(*DIMS, spec, residual_levels=3))
    modality, behaviour, batch = case_of(seed, length=8)
    items = np.concatenate([double(modality.items), double(behaviour.items)], axis=1)
    own = np.concatenate([double(modality.candidate), double(behaviour.candidate)], axis=1)
    codes = batch.items.codes.tolist()
    expected = np.zeros((5, history.dim))
    for row in range(5):
        mine, pooled = codes[batch.candidate[row]], []
        for depth in (1, 2):
            at = [
                place
                for place, number in enumerate(batch.history[row].tolist())
                if batch.mask[row, place] and codes[number][:depth] == mine[:depth] and mine[0] >= 0
            ]
            there = items[batch.history[row][at].numpy()]
            if not at:
                pooled.append(np.zeros((2 if pool == "attention" else 1, 10)))
            elif pool == "mean":
                pooled.append(there.mean(axis=0, keepdims=True))
            else:
                buckets = batch.gap_bucket[row][at].numpy()
                pooled.append(weights_by_hand(history.attentions[depth - 1], own[row], there, buckets) @ there)
        expected[row] = with_products(pooled, [own[row]] * 2)
    assert double(history(modality, behaviour, batch)) == pytest.approx(expected, abs=1e-4)


def test_sid_match_of_one_refining_level_has_one_depth() -> None:
    spec = ModelSpec().model_copy(update={"sid_match": "mean"})
    history = SidMatchHistory(*DIMS, spec, residual_levels=1)
    modality, behaviour, batch = case_of(0)
    assert history(modality, behaviour, batch).shape == (5, history.dim) == (5, 20)


def test_every_unit_sends_gradients_to_the_items_it_pools_and_to_the_candidate_that_asks() -> None:
    history = seeded(BidirectionalHistory(*DIMS, SPEC))
    modality, behaviour, batch = case_of(3)
    width = DIMS[0] * 2, DIMS[1] * 2
    units = np.cumsum([0, width[0], width[1], width[0], width[1]])
    asks = [modality.candidate, modality.candidate, behaviour.candidate, behaviour.candidate]
    gives = [modality.items, behaviour.items, modality.items, behaviour.items]
    for number in range(4):
        for each in (modality.candidate, modality.items, behaviour.candidate, behaviour.items):
            each.requires_grad_()
            each.grad = None
        told = history(modality, behaviour, batch)[:, units[number] : units[number + 1]]
        told.square().sum().backward()
        other = behaviour.candidate if asks[number] is modality.candidate else modality.candidate
        assert asks[number].grad is not None and asks[number].grad.abs().sum() > 0
        assert other.grad is None or (other.grad == 0).all()
        assert gives[number].grad is not None and gives[number].grad.abs().sum() > 0
        assert (gives[number].grad[0] == 0).all(), "padding gets none"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("id",), r"in the modality space.*add one of content"),
        (("id", "rq_opq_gate"), r"in the modality space"),
        (("content", "mba"), r"in the behaviour space.*add one of id, graph_smoothed, rq_opq_gate"),
    ],
)
def test_bidirectional_needs_both_spaces(names: tuple[str, ...], said: str) -> None:
    spec = ModelSpec().model_copy(update={"history": "bidirectional"})
    with pytest.raises(ConfigError, match=said):
        CtrModel(names, ItemShape(5, (3, 3, 3), 2, residual_levels=2), len(feature_names()), spec)


def test_a_representation_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="id is listed more than once"):
        CtrModel(("id", "id"), ItemShape(5, (3,), 2), len(feature_names()), ModelSpec())


@law
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_cross_layers_follow_the_formula(seed: int, layers: int) -> None:
    torch.manual_seed(seed)
    cross = CrossLayers(4, layers)
    features = torch.randn(3, 4)
    expected = first = double(features)
    for layer in cross.layers:
        assert isinstance(layer, torch.nn.Linear)
        expected = first * (expected @ double(layer.weight).T + double(layer.bias)) + expected
    assert double(cross(features)) == pytest.approx(expected, abs=1e-5)


def test_dropout_zeroes_the_stated_share_keeps_the_mean_and_sleeps_in_evaluation() -> None:
    torch.manual_seed(0)
    part, values = Dropout(0.3), torch.ones(200, 50)
    told = part.train()(values)
    assert (told == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert told[told > 0].unique().tolist() == pytest.approx([1 / 0.7])
    assert part.eval()(values) is values
