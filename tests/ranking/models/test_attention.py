"""Target attention against a few lines of numpy, and what padding must never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ranking.models import attention as attention_module
from ranking.models.attention import TargetAttention, attend

law = settings(max_examples=60, deadline=None, database=None)
BUCKETS = 16


def case_of(
    seed: int, batch: int, length: int, dim: int, lengths: list[int] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidate, history, mask and gap buckets; the first row's history is empty unless ``lengths`` are given."""
    generator = torch.Generator().manual_seed(seed)
    told = torch.randint(0, length + 1, (batch,), generator=generator)
    told[0] = 0
    mask = torch.arange(length) < (told if lengths is None else torch.tensor(lengths))[:, None]
    return (
        torch.randn((batch, dim), generator=generator),
        torch.randn((batch, length, dim), generator=generator),
        mask,
        torch.randint(0, BUCKETS, (batch, length), generator=generator),
    )


def attention_of(dim: int, heads: int, seed: int = 0) -> TargetAttention:
    torch.manual_seed(seed)
    attention = TargetAttention(dim, heads, BUCKETS)
    torch.nn.init.normal_(attention.recency.weight)
    return attention


def pooled_of(attention: TargetAttention, candidate: Tensor, history: Tensor, mask: Tensor, gaps: Tensor) -> Tensor:
    """The attention over histories of which every place is an item of its own."""
    places = torch.arange(mask.numel()).view(mask.shape)
    return attention(candidate, history.flatten(0, 1), places, mask, gaps)


def plain_weights(asked: Tensor, past: Tensor, mask: Tensor, gaps: Tensor, recency: Tensor) -> Tensor:
    """The formula as it is written, over gathered histories ``[batch, length, dim]``."""
    score = torch.bmm(asked, past.transpose(1, 2)) + recency[gaps].transpose(1, 2)
    score = score.masked_fill(~mask[:, None, :], torch.finfo(score.dtype).min)
    return torch.softmax(score, dim=2) * mask[:, None, :]


def by_hand(attention: TargetAttention, candidate: Tensor, history: Tensor, mask: Tensor, gaps: Tensor) -> np.ndarray:
    query, key, recency = (
        each.weight.detach().numpy().astype(float) for each in (attention.query, attention.key, attention.recency)
    )
    width = len(query) // attention.heads
    rows = []
    for own, past, there, gap in zip(candidate.numpy(), history.numpy(), mask.numpy(), gaps.numpy(), strict=True):
        heads = []
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            score = (past[there] @ key[part].T) @ (query[part] @ own) / np.sqrt(width) + recency[gap[there], head]
            weight = np.exp(score - score.max(initial=0))
            heads.append((weight / max(weight.sum(), 1e-300)) @ past[there])
        rows.append(np.concatenate(heads))
    return np.array(rows)


@law
@given(st.integers(0, 10**6), st.sampled_from([(4, 1), (4, 2), (6, 3), (8, 4), (5, 2), (3, 4)]), st.integers(1, 7))
def test_attention_is_a_softmax_per_head_over_what_is_there(seed: int, shape: tuple[int, int], length: int) -> None:
    dim, heads = shape
    attention = attention_of(dim, heads, seed)
    case = case_of(seed, 5, length, dim)
    pooled = pooled_of(attention, *case)
    assert pooled.shape == (5, heads * dim)
    assert pooled.detach().numpy() == pytest.approx(by_hand(attention, *case), abs=1e-5)


@law
@given(st.integers(0, 10**6), st.floats(-1e4, 1e4))
def test_padding_changes_nothing(seed: int, noise: float) -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(seed, 6, 5, 4)
    pooled = pooled_of(attention, candidate, history, mask, gaps)
    changed = torch.where(mask[:, :, None], history, torch.tensor(noise))
    assert torch.equal(pooled_of(attention, candidate, changed, mask, torch.where(mask, gaps, 3)), pooled)


@law
@given(st.integers(0, 10**6))
def test_padding_gets_no_gradient_and_what_is_there_gets_some(seed: int) -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(seed, 6, 5, 4)
    history.requires_grad_()
    pooled_of(attention, candidate, history, mask, gaps).square().sum().backward()
    assert history.grad is not None
    assert (history.grad[~mask] == 0).all()
    assert (history.grad[mask].abs().sum(dim=1) > 0).all()


@law
@given(st.integers(0, 10**6), st.floats(-1e6, 1e6))
def test_an_empty_history_gives_zeros_whatever_the_candidate_is(seed: int, scale: float) -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(seed, 4, 5, 4, [0, 0, 0, 0])
    assert (pooled_of(attention, candidate * scale, history, mask, gaps) == 0).all()


def test_empty_histories_send_no_nan_back() -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(1, 4, 5, 4, [0, 3, 0, 5])
    candidate.requires_grad_()
    history.requires_grad_()
    pooled_of(attention, candidate, history, mask, gaps).square().sum().backward()
    for name, gradient in [
        ("candidate", candidate.grad), ("history", history.grad),
        *((name, parameter.grad) for name, parameter in attention.named_parameters()),
    ]:  # fmt: skip
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
    assert candidate.grad is not None
    assert (candidate.grad[[0, 2]] == 0).all()


def test_a_history_of_one_item_gives_that_item_in_every_head() -> None:
    attention = attention_of(4, 3)
    candidate, history, mask, gaps = case_of(2, 3, 4, 4, [1, 1, 1])
    pooled = pooled_of(attention, candidate, history, mask, gaps).view(3, 3, 4)
    assert pooled.detach().numpy() == pytest.approx(history[:, :1].expand(3, 3, 4).numpy(), abs=1e-6)


@law
@given(st.integers(0, 10**6))
def test_the_order_of_a_history_does_not_matter_but_its_times_do(seed: int) -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(seed, 3, 5, 4, [5, 5, 5])
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    pooled = pooled_of(attention, candidate, history, mask, gaps)
    moved = pooled_of(attention, candidate, history[:, order], mask, gaps[:, order])
    assert moved.detach().numpy() == pytest.approx(pooled.detach().numpy(), abs=1e-5)
    assert not torch.allclose(pooled_of(attention, candidate, history, mask, (gaps + 5) % BUCKETS), pooled, atol=1e-6)


def test_time_says_nothing_before_training() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(4, 2, BUCKETS)
    candidate, history, mask, gaps = case_of(3, 3, 5, 4, [5, 4, 3])
    pooled = pooled_of(attention, candidate, history, mask, gaps)
    assert torch.equal(pooled_of(attention, candidate, history, mask, torch.zeros_like(gaps)), pooled)


def test_very_large_scores_stay_finite() -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(4, 3, 5, 4, [5, 2, 0])
    pooled = pooled_of(attention, candidate * 1e8, history * 1e4, mask, gaps)
    assert torch.isfinite(pooled).all()


@law
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_histories_pooled_in_blocks_have_the_values_and_gradients_of_the_plain_formula(seed: int, block: int) -> None:
    attention = attention_of(4, 2, seed)
    candidate, _, mask, gaps = case_of(seed, 8, 5, 4)
    generator = torch.Generator().manual_seed(seed)
    items, history = torch.randn((6, 4), generator=generator), torch.randint(0, 6, mask.shape, generator=generator)
    told = torch.randn((8, 2, 4), generator=generator)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "_BLOCK", block)
        for plain in (True, False):
            asked = attention.queries(candidate).detach().requires_grad_()
            own, recency = items.clone().requires_grad_(), attention.recency.weight.detach().clone().requires_grad_()
            if plain:
                past = own[history]
                weights = plain_weights(asked, past, mask, gaps, recency)
                pooled = weights @ past
            else:
                pooled, weights = attend(asked, own, history, mask, gaps, recency)
            pooled.backward(told)
            found.append([each.detach().numpy() for each in (pooled, weights, asked.grad, own.grad, recency.grad)])  # type: ignore[union-attr]
    for plain_one, one in zip(*found, strict=True):
        assert one == pytest.approx(plain_one, abs=1e-5)


@law
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans())
def test_shared_maps_are_pooled_as_the_mixture_of_the_pooled_halves(seed: int, block: int, scaled: bool) -> None:
    _, _, mask, gaps = case_of(seed, 8, 5, 4)
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator) for shape in [(8, 4, 4), (6, 4), (16, 4), (6, 4)]]
    share, history = torch.rand(8, generator=generator), torch.randint(0, 6, mask.shape, generator=generator)
    told = torch.randn((8, 2, 4), generator=generator)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "_BLOCK", block)
        for mixed_first in (True, False):
            inputs = [each.clone().requires_grad_() for each in (*values, share)]
            queries, items, recency, scale, part = inputs
            factor = scale if scaled else None
            if mixed_first:
                pooled, weights = attend(queries, items, history, mask, gaps, recency, factor, part)
            else:
                halves, weights = attend(queries, items, history, mask, gaps, recency, factor)
                first, second = halves.chunk(2, dim=1)
                pooled = (1 - part[:, None, None]) * first + part[:, None, None] * second
            pooled.backward(told)
            found.append([pooled, weights, *(each.grad for each in inputs if each is not scale or scaled)])
    for one, expected in zip(*found, strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)


def test_under_bfloat16_the_pooled_history_is_that_of_its_inputs_in_full() -> None:
    attention = attention_of(4, 2)
    candidate, history, mask, gaps = case_of(5, 4, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention.queries(candidate)
        pooled, _ = attend(
            rounded, history.flatten(0, 1), torch.arange(20).view(4, 5), mask, gaps, attention.recency.weight
        )
    assert rounded.dtype == torch.bfloat16
    assert pooled.dtype == torch.float32
    expected = plain_weights(rounded.float(), history, mask, gaps, attention.recency.weight) @ history
    assert pooled.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)
