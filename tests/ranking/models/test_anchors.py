"""Hi-SAM's history: an item is seen through its anchor, by every token of the candidate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import random_set
from ranking.data.batch import Batch, ItemBatch
from ranking.data.batches import Batches, Vocabulary
from ranking.data.numeric_features import Scaling
from ranking.models.histories.anchors import AnchorsHistory
from ranking.models.histories.base import Space
from ranking.models.histories.target_attention import TargetAttentionHistory
from ranking.models.laws import check_history
from ranking.models.parts import forced_off, parts_in
from ranking.models.representations.base import ItemShape
from ranking.models.representations.sid import SidRepresentation
from ranking.models.spec import ModelSpec

law = settings(max_examples=15, deadline=None, database=None)
DATA = random_set(30)
BATCH = Batches(DATA, Scaling.fit(DATA.features, 0.5), Vocabulary.fit(DATA.rows.item_ids)).batch(torch.arange(30))
SPEC = ModelSpec(dim=4, heads=2, history="anchors")
DIMS = (8, 4)


def spaces(seed: int, batch: Batch = BATCH, dims: tuple[int, int] = DIMS) -> tuple[Space, Space]:
    generator = torch.Generator().manual_seed(seed)
    both = [torch.randn(len(batch.items.index), dim, generator=generator) for dim in dims]
    return Space(both[0][batch.candidate], both[0]), Space(both[1][batch.candidate], both[1])


def seeded(spec: ModelSpec = SPEC, dims: tuple[int, int] = DIMS) -> AnchorsHistory:
    torch.manual_seed(1)
    history = AnchorsHistory(*dims, spec)
    for parameter in history.parameters():
        torch.nn.init.normal_(parameter)
    return history.eval()


@pytest.mark.parametrize("spec", [SPEC, SPEC.model_copy(update={"dim": 16, "attention": "cosine"})])
def test_it_keeps_the_contract(spec: ModelSpec) -> None:
    check_history(AnchorsHistory, spec)


@law
@given(st.integers(0, 10**6))
def test_it_is_target_attention_of_each_token_over_pooled_tokens(seed: int) -> None:
    history = seeded()
    modality, behaviour = spaces(seed)
    tokens = torch.cat([modality.items, behaviour.items], dim=1).view(-1, 3, 4).double()
    key = tokens @ history.pool.key.weight.double().T
    key = (key - key.mean(dim=2, keepdim=True)) / (key.var(dim=2, correction=0, keepdim=True) + 1e-5).sqrt()
    share = torch.softmax(key @ history.pool.query.double() + history.pool.bias.double(), dim=1)
    anchors = (share[:, :, None] * tokens).sum(dim=1).float()
    candidate = torch.cat([modality.candidate, behaviour.candidate], dim=1).view(-1, 3, 4)
    at = (BATCH.history, BATCH.mask, BATCH.gap_bucket)
    found = history(modality, behaviour, BATCH)
    half = history.dim // 2
    for token in range(3):
        own = candidate[:, token]
        expected = history.attention(own, anchors, *at)
        place = slice(token * 8, (token + 1) * 8)
        torch.testing.assert_close(found[:, :half][:, place], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[:, half:][:, place], expected * own.repeat(1, 2), atol=1e-4, rtol=1e-4)


@law
@given(st.integers(0, 10**6))
def test_one_token_has_itself_as_anchor_and_is_plain_target_attention(seed: int) -> None:
    spec = SPEC.model_copy(update={"dim": 8})
    history, plain = seeded(spec, (8, 0)), TargetAttentionHistory(8, 0, spec).eval()
    plain.attention.load_state_dict(history.attention.state_dict())
    given_spaces = spaces(seed, dims=(8, 0))
    torch.testing.assert_close(history(*given_spaces, BATCH), plain(*given_spaces, BATCH), atol=1e-5, rtol=1e-4)


def test_the_history_is_seen_only_through_anchors() -> None:
    """Items whose anchors are equal cannot be told apart, though their tokens differ."""
    history = seeded()
    modality, behaviour = spaces(0)
    pool = next(part for part in parts_in(history, "h") if part.name == "h.pool")
    swapped = Space(modality.candidate, modality.items.view(-1, 2, 4).flip(1).flatten(1))
    assert not torch.allclose(history(swapped, behaviour, BATCH), history(modality, behaviour, BATCH))
    with forced_off(pool):  # the mean of the tokens, in any order
        torch.testing.assert_close(history(swapped, behaviour, BATCH), history(modality, behaviour, BATCH))


def test_the_attention_costs_the_history_and_not_that_times_the_tokens() -> None:
    """Its gathered vectors have the width of one token, whatever the number of tokens."""
    few, many = seeded(dims=(4, 4)), seeded(dims=(32, 4))
    for history, dims in ((few, (4, 4)), (many, (32, 4))):
        seen: list[torch.Size] = []
        hook = history.pool.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.shape))
        history(*spaces(0, dims=dims), BATCH)
        hook.remove()
        assert seen == [torch.Size([len(BATCH.items.index), 4])]


def test_a_space_that_is_no_multiple_of_the_token_is_projected() -> None:
    history = seeded(dims=(6, 3))
    assert history.tokens == 3
    assert history(*spaces(0, dims=(6, 3)), BATCH).shape == (30, history.dim)


def test_weights_are_those_that_pool() -> None:
    history = seeded()
    modality, behaviour = spaces(3)
    weights = history.weights(modality, behaviour, BATCH)["attention"]
    assert weights.shape == (30, 6, BATCH.history.shape[1])
    has = BATCH.mask.any(dim=1)
    torch.testing.assert_close(weights.sum(dim=2), has[:, None].float().expand(-1, 6))


def test_codes_are_tokens_of_their_own() -> None:
    shape = ItemShape(vocabulary=5, sizes=(4, 3), content_dim=2)
    part = SidRepresentation.from_spec(shape, ModelSpec(dim=4, sid_pool="tokens"))
    codes = torch.tensor([[1, 2], [-1, -1]])
    vectors = part(ItemBatch(torch.arange(2), codes, torch.zeros(2, 2)))
    assert part.dim == 8 and vectors.shape == (2, 8)
    expected = part.codes.table.weight[[1 + 1, 1 + 4 + 2]].flatten()
    torch.testing.assert_close(vectors[0], expected)
    assert np.array_equal(vectors[1, :4].detach(), vectors[1, 4:].detach()), "without codes"
