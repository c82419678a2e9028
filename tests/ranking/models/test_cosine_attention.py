"""Attention by cosines against the formula written with torch's own functions, and that it starts with weights that differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch
from ranking.models import attention as attention_module
from ranking.models.attention import TargetAttention, attend
from ranking.models.histories import HISTORY_NAMES
from ranking.models.histories.base import Space
from ranking.models.histories.sid_match import SidMatchHistory
from ranking.models.spec import ModelSpec

law = settings(max_examples=40, deadline=None, database=None)
BUCKETS, ITEMS, ROWS, LENGTH = 16, 7, 6, 5
SCALE = 8.0

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def case_of(seed: int, dim: int) -> Case:
    """Candidates, items, histories, mask and gap buckets; the first history is empty, and item 0 is a vector of zeros."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn((ITEMS, dim), generator=generator) * torch.rand((ITEMS, 1), generator=generator)
    items[0] = 0
    lengths = torch.randint(0, LENGTH + 1, (ROWS,), generator=generator)
    lengths[0] = 0
    return (
        torch.randn((ROWS, dim), generator=generator),
        items,
        torch.randint(0, ITEMS, (ROWS, LENGTH), generator=generator),
        torch.arange(LENGTH) < lengths[:, None],
        torch.randint(0, BUCKETS, (ROWS, LENGTH), generator=generator),
    )


def attention_of(dim: int, heads: int, seed: int = 0, scale: float | None = SCALE) -> TargetAttention:
    torch.manual_seed(seed)
    attention = TargetAttention(dim, heads, BUCKETS, scale)
    torch.nn.init.normal_(attention.key.weight)
    torch.nn.init.normal_(attention.recency.weight)
    return attention


def plain(attention: TargetAttention, case: Case) -> tuple[Tensor, Tensor]:
    """The formula as it is written; pooled vectors ``[rows, heads, dim]`` and weights."""
    candidate, items, history, mask, gaps = case
    keys = attention.key(items)[history].unflatten(2, (attention.heads, -1))
    query = attention.query(candidate).unflatten(1, (attention.heads, -1))[:, None]
    cosine = torch.nn.functional.cosine_similarity(query, keys, dim=3, eps=1e-6)
    score = cosine * attention.scale() + attention.recency.weight[gaps]
    score = score.masked_fill(~mask[:, :, None], torch.finfo(score.dtype).min)
    weights = torch.softmax(score, dim=1).transpose(1, 2) * mask[:, None, :]
    return weights @ items[history], weights


@law
@given(st.integers(0, 10**6), st.sampled_from([(4, 1), (4, 2), (6, 3), (5, 2)]), st.integers(1, 7))
def test_values_and_gradients_are_those_of_the_plain_formula(seed: int, shape: tuple[int, int], block: int) -> None:
    attention, case = attention_of(*shape, seed), case_of(seed, shape[0])
    given_items = case[1].clone()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "_BLOCK", block)
        for by_hand in (True, False):
            items = given_items.clone().requires_grad_()
            own = (case[0], items, *case[2:])
            attention.zero_grad()
            pooled = plain(attention, own)[0].flatten(1) if by_hand else attention(*own)
            (pooled * torch.arange(pooled.shape[1])).sum().backward()
            gradients = [parameter.grad for parameter in attention.parameters()]
            found.append([pooled.detach(), items.grad, *gradients])
    for expected, one in zip(*found, strict=True):
        assert expected is not None and one is not None
        torch.testing.assert_close(one, expected, atol=2e-4, rtol=2e-4)


@law
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_lengths_of_vectors_do_not_change_the_weights(seed: int, of_candidate: float, of_items: float) -> None:
    attention, (candidate, items, *rest) = attention_of(4, 2), case_of(seed, 4)
    weights = attention.weights(candidate, items, *rest)
    scaled = attention.weights(candidate * of_candidate, items * of_items, *rest)
    torch.testing.assert_close(scaled, weights, atol=1e-4, rtol=1e-3)


def test_short_vectors_have_different_weights_from_the_start_and_by_dot_products_equal_ones() -> None:
    candidate, items, history, mask, gaps = case_of(1, 8)
    mask[:] = True
    found = {}
    for scale in (None, SCALE):
        torch.manual_seed(0)
        weights = TargetAttention(8, 2, BUCKETS, scale).weights(candidate * 0.01, items * 0.01, history, mask, gaps)
        found[scale] = float((weights.max(dim=2).values - weights.min(dim=2).values).mean())
    assert found[None] < 1e-3
    assert found[SCALE] > 0.3


def test_the_item_that_equals_the_candidate_has_the_highest_weight_before_training() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(8, 2, BUCKETS, SCALE)
    items = torch.randn((5, 8))
    history = torch.arange(5).repeat(5, 1)
    weights = attention.weights(items * 3, items, history, history >= 0, torch.zeros_like(history))
    assert (weights.argmax(dim=2) == torch.arange(5)[:, None]).all()


def test_forced_off_it_is_the_mean_and_a_scale_that_grew_too_large_is_limited() -> None:
    attention, case = attention_of(4, 2), case_of(2, 4)
    assert attention.log_scale is not None
    with torch.no_grad():
        attention.log_scale.fill_(50.0)
    weights = attention.eval().weights(*case)
    assert torch.isfinite(weights).all()
    attention.forced = 0.0
    mask = case[3]
    mean = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(attention.weights(*case), mean[:, None, :].expand(-1, 2, -1))


@pytest.mark.parametrize("name", ["target_attention", "bidirectional", "sid_match"])
def test_a_models_spec_decides_for_every_history(name: str) -> None:
    candidate, items, history, mask, gaps = case_of(3, 4)
    index = torch.zeros(ITEMS, dtype=torch.int64)
    batch = Batch(
        torch.zeros((ROWS, 1)), ItemBatch(index, torch.ones((ITEMS, 3), dtype=torch.int64), torch.zeros((ITEMS, 1))),
        torch.arange(ROWS), history, mask, gaps, torch.zeros(ROWS), torch.zeros(ROWS, dtype=torch.int64),
    )  # fmt: skip

    def pooled(length: float, **changes: object) -> Tensor:
        torch.manual_seed(0)
        spec = ModelSpec.model_validate({"sid_match": "attention", **changes})
        made = SidMatchHistory(4, 4, spec, 3) if name == "sid_match" else HISTORY_NAMES.find(name)(4, 4, spec)
        space = Space(candidate * length, items)
        found = made(space, space, batch)
        return found[:, : made.dim // 2]  # without the products with the candidate

    assert not torch.allclose(pooled(1.0), pooled(9.0), atol=1e-3)
    torch.testing.assert_close(pooled(1.0, attention="cosine"), pooled(9.0, attention="cosine"), atol=1e-5, rtol=1e-5)
    sharper = pooled(1.0, attention="cosine", attention_scale=40.0)
    assert not torch.allclose(sharper, pooled(1.0, attention="cosine", attention_scale=1.0), atol=1e-2)


def test_weights_are_those_of_the_plain_formula() -> None:
    attention, case = attention_of(6, 3), case_of(4, 6)
    torch.testing.assert_close(attention.weights(*case), plain(attention, case)[1], atol=1e-5, rtol=1e-5)
    queries, scale = attention.queries(case[0]), attention.key_scale(case[1])
    assert scale is not None and scale.shape == (ITEMS, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = attend(queries, case[1], *case[2:], attention.recency.weight, scale)
    assert rounded.dtype == torch.float32
