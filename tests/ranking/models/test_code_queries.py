"""CCFRec's representation: codes are a set that attends over views, and masked codes are predicted without clicks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from helpers.training_builders import random_set
from ranking.data.batch import Batch, ItemBatch
from ranking.data.batches import Batches, Vocabulary
from ranking.data.numeric_features import Scaling
from ranking.models.losses import masked_code_prediction, symmetric_info_nce
from ranking.models.parts import forced_off, listening, parts_in
from ranking.models.representations.base import ItemShape
from ranking.models.representations.code_queries import CodeQueriesRepresentation
from ranking.models.set_attention import SetAttention
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec, losses_of, without_loss

law = settings(max_examples=15, deadline=None, database=None)
SIZES, VIEWS, COLUMNS = (5, 3, 4), 3, 2
SPEC = ModelSpec(dim=8, heads=2, query_view_columns=COLUMNS, query_dropout=0.0)


def shape_of(sizes: tuple[int, ...] = SIZES, width: int = VIEWS * COLUMNS) -> ItemShape:
    return ItemShape(vocabulary=20, sizes=sizes, content_dim=width, residual_levels=0)


def made(spec: ModelSpec = SPEC, shape: ItemShape | None = None, seed: int = 0) -> CodeQueriesRepresentation:
    torch.manual_seed(seed)
    part = CodeQueriesRepresentation(shape or shape_of(), spec)
    torch.nn.init.normal_(part.codes.table.weight)
    return part.eval()


def items_of(seed: int, count: int = 12) -> ItemBatch:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (count,), generator=generator) for size in SIZES], dim=1)
    return ItemBatch(torch.arange(count), codes, torch.randn(count, VIEWS * COLUMNS, generator=generator))


def batch_of(items: ItemBatch, seed: int = 0, rows: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    count = len(items.index)
    mask = torch.arange(4) < torch.randint(1, 5, (rows, 1), generator=generator)
    zeros = torch.zeros(rows, 4, dtype=torch.int64)
    return Batch(
        numeric=torch.zeros(rows, 1),
        items=items,
        candidate=torch.randint(0, count, (rows,), generator=generator),
        history=torch.randint(0, count, (rows, 4), generator=generator) * mask,
        mask=mask,
        gap_bucket=zeros,
        label=torch.zeros(rows),
        at_us=torch.arange(rows),
    )


@law
@given(st.integers(0, 10**6), st.permutations(range(len(SIZES))))
def test_codes_are_a_set_permuted_with_their_tables_they_give_the_same_vector(seed: int, order: list[int]) -> None:
    part, items = made(seed=seed), items_of(seed)
    other = made(shape=shape_of(tuple(SIZES[at] for at in order)), seed=seed)
    state = part.state_dict()
    blocks = torch.split(state["codes.table.weight"], [1, *SIZES])
    state["codes.table.weight"] = torch.cat([blocks[0], *(blocks[1 + at] for at in order)])
    other.load_state_dict(state)
    permuted = ItemBatch(items.index, items.codes[:, order], items.content)
    torch.testing.assert_close(other(permuted), part(items), atol=1e-5, rtol=1e-5)


@law
@given(st.integers(0, 10**6))
def test_a_layer_is_attention_among_codes_then_over_views_then_feed_forward(seed: int) -> None:
    part, items = made(SPEC.model_copy(update={"query_layers": 1}), seed=seed), items_of(seed, 4)
    (layer,) = part.layers
    views = torch.stack(
        [view(items.content[:, at * COLUMNS : (at + 1) * COLUMNS]) for at, view in enumerate(part.views)], 1
    )
    for number in range(4):
        tokens = part.codes(items.codes[number : number + 1])[0].double()
        tokens = tokens + pooled(layer.among, norm(layer.norms[0], tokens), norm(layer.norms[0], tokens))
        tokens = tokens + pooled(layer.across, norm(layer.norms[1], tokens), views[number].double())
        first, _, last = layer.feed_forward
        hidden = functional.gelu(norm(layer.norms[2], tokens) @ first.weight.T.double() + first.bias.double())
        tokens = tokens + hidden @ last.weight.T.double() + last.bias.double()
        torch.testing.assert_close(part(items)[number].double(), tokens.mean(dim=0), atol=1e-4, rtol=1e-4)


def norm(layer: torch.nn.LayerNorm, tokens: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], layer.weight.double(), layer.bias.double(), layer.eps)


def pooled(attention: SetAttention, tokens: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Multi-head attention of one item, head by head."""
    query, key, value, out = (getattr(attention, name).weight.double() for name in ("query", "key", "value", "out"))
    heads = []
    for head in range(attention.heads):
        at = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        score = (tokens @ query[at].T) @ (vectors @ key[at].T).T / np.sqrt(attention.head_dim)
        heads.append(torch.softmax(score, dim=1) @ (vectors @ value[at].T))
    return torch.cat(heads, dim=1) @ out.T


def test_a_candidate_also_has_the_mean_of_its_code_rows() -> None:
    part, items = made(), items_of(0)
    batch = batch_of(items)
    vectors, candidates = part.encode(batch)
    torch.testing.assert_close(vectors, part(items))
    expected = (vectors + part.codes(items.codes).mean(dim=1))[batch.candidate]
    torch.testing.assert_close(candidates, expected)


@law
@given(st.integers(0, 10**6), st.integers(0, VIEWS - 1))
def test_a_missing_view_has_no_weight_and_no_other_view_takes_its_place(seed: int, missing: int) -> None:
    part, items = made(seed=seed), items_of(seed)
    content = items.content.clone()
    content[:, missing * COLUMNS : (missing + 1) * COLUMNS] = 0
    without = ItemBatch(items.index, items.codes, content)
    across = [each for each in parts_in(part, "p") if each.name.endswith(".across")]
    seen: list[torch.Tensor] = []
    with listening(across[0], lambda weights, mask: seen.append(weights)):
        vectors = part(without)
    assert (seen[0][:, :, missing] == 0).all()
    torch.testing.assert_close(seen[0].sum(dim=2), torch.ones_like(seen[0][:, :, 0]))
    assert not torch.allclose(vectors, part(items))
    with torch.no_grad():
        part.views[missing].weight.add_(1.0)
        part.views[missing].bias.add_(1.0)
    torch.testing.assert_close(part(without), vectors)


def test_without_any_view_or_codes_vectors_are_finite_and_equal() -> None:
    part, items = made(), items_of(0)
    bare = ItemBatch(items.index, torch.full_like(items.codes, -1), torch.zeros_like(items.content))
    vectors = part(bare)
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors, vectors[:1].expand_as(vectors))


def test_content_that_is_no_multiple_of_a_view_is_filled_up_and_one_view_is_projected() -> None:
    wide = made(shape=shape_of(width=5))
    assert len(wide.views) == 3
    one = made(SPEC.model_copy(update={"query_view_columns": 32}))
    assert len(one.views) == 1 and one.columns == VIEWS * COLUMNS
    assert {part.name: part.kind for part in parts_in(one, "p")} == {
        "p.codes.table": "table",
        "p.layers.0.among": "attention",
        "p.layers.1.among": "attention",
    }
    items = items_of(0)
    assert not torch.allclose(one(items), one(ItemBatch(items.index, items.codes, -items.content)))


def test_attentions_can_be_forced_to_the_mean() -> None:
    part, items = made(), items_of(1)
    before = part(items)
    named = {each.name: each for each in parts_in(part, "p") if each.kind == "attention"}
    assert set(named) == {f"p.layers.{at}.{name}" for at in (0, 1) for name in ("among", "across")}
    for each in named.values():
        with forced_off(each):
            assert not torch.allclose(part(items), before)
        torch.testing.assert_close(part(items), before)


@law
@given(st.integers(0, 10**6))
def test_with_mask_ratio_0_the_contrast_is_at_its_minimum(seed: int) -> None:
    """Both vectors of a history are then one, and no other vectors have a lower loss with the same negatives."""
    part, items = made(SPEC.model_copy(update={"mask_ratio": 0.0}), seed=seed), items_of(seed)
    batch = batch_of(items, seed)
    losses = part.train().auxiliary(batch)
    assert losses["masked_codes"] == 0
    distinct = {tuple(row[there].tolist()) for row, there in zip(batch.history, batch.mask, strict=True)}
    own = part(items)
    users = torch.stack([own[list(each)].mean(dim=0) for each in sorted(distinct)])
    expected = SPEC.masked_users_weight * symmetric_info_nce(users, users, SPEC.masked_temperature)
    torch.testing.assert_close(losses["masked_users"], expected, atol=1e-5, rtol=1e-4)
    unit = functional.normalize(users, dim=1)
    positive = torch.randn(20, *unit.shape, generator=torch.Generator().manual_seed(seed))
    logits = unit @ unit.T / SPEC.masked_temperature
    least = torch.logsumexp(logits, dim=1) - logits.diagonal()
    for other in functional.normalize(positive, dim=2):
        changed = logits.clone()
        changed.diagonal().copy_((unit * other).sum(dim=1) / SPEC.masked_temperature)
        assert (torch.logsumexp(changed, dim=1) - changed.diagonal() >= least - 1e-5).all()


def test_masking_replaces_80_percent_by_the_mask_and_10_by_a_code_of_the_level() -> None:
    part = made()
    codes = torch.stack([torch.randint(0, size, (40_000,)) for size in SIZES], dim=1)
    rows = part.codes.rows(codes)
    masked = torch.rand(rows.shape) < 0.5
    tokens = part._masked(rows, masked)
    plain = part.codes.table.rows(rows)
    kept = (tokens == plain).all(dim=2)
    is_mask = (tokens == part.codes.table.weight[0]).all(dim=2)
    assert kept[~masked].all()
    assert is_mask[masked].float().mean() == pytest.approx(0.8, abs=0.01)
    other = masked & ~kept & ~is_mask
    chance = np.mean([1 - 1 / size for size in SIZES])
    assert other.float().sum() / masked.sum() == pytest.approx(0.1 * chance, abs=0.01)
    for level, start in enumerate(part.codes.starts.tolist()):
        table = part.codes.table.weight[start : start + SIZES[level]]
        assert (tokens[other[:, level], level][:, None] == table).all(dim=2).any(dim=1).all()


@law
@given(st.integers(0, 10**6))
def test_masked_codes_are_predicted_by_cosines_over_all_codes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, table = (torch.randn(count, 4, generator=generator) for count in (6, 9))
    code = torch.randint(0, 9, (6,), generator=generator)
    cosine = np.array([[float(functional.cosine_similarity(p, t, dim=0)) for t in table] for p in predicted]) / 0.07
    share = np.exp(cosine - cosine.max(axis=1, keepdims=True))
    expected = -np.log(share[np.arange(6), code] / share.sum(axis=1)).mean()
    assert float(masked_code_prediction(predicted, table, code, 0.07)) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert float(masked_code_prediction(predicted[:0], table, code[:0], 0.07)) == 0


def test_codes_of_an_item_without_clicks_are_trained_by_masked_prediction_alone() -> None:
    part, items = made().train(), items_of(3)
    batch = batch_of(items)
    cold = int(batch.candidate[0])
    batch = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))  # nobody clicked anything
    losses = part.auxiliary(batch)
    assert losses["masked_codes"] > 0 and losses["masked_users"] == 0
    losses["masked_codes"].backward()
    gradient = part.codes.table.weight.grad
    assert gradient is not None
    assert (gradient[part.codes.rows(items.codes[cold : cold + 1])[0]].abs().sum(dim=1) > 0).all()


def test_masked_prediction_is_learned_where_codes_tell_of_each_other() -> None:
    """The second code is the first, and the third is a view: the loss falls below that of knowing the level."""
    torch.manual_seed(0)
    sizes, count = (4, 4, 4), 200
    first, third = torch.randint(0, 4, (count,)), torch.randint(0, 4, (count,))
    content = torch.cat([functional.one_hot(third, 4).float(), torch.randn(count, 2)], dim=1)
    items = ItemBatch(torch.arange(count), torch.stack([first, first, third], dim=1), content)
    part = CodeQueriesRepresentation(shape_of(sizes), SPEC).train()
    optimizer = torch.optim.Adam(part.parameters(), lr=3e-3)
    batch = batch_of(items, rows=100)
    curve = []
    for _ in range(200):
        loss = part.auxiliary(batch)["masked_codes"] / SPEC.masked_codes_weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert np.mean(curve[:5]) > 2.0 and np.mean(curve[-10:]) < np.log(4)


def test_a_comparison_trains_the_arm_without_each_of_its_losses() -> None:
    arm = ArmSpec(representations=("id", "code_queries"))
    keys = {"masked_codes": "masked_codes_weight", "masked_users": "masked_users_weight"}
    assert losses_of(arm, ModelSpec()) == {f"code_queries.{loss}": key for loss, key in keys.items()}
    batch = batch_of(items_of(0))
    for loss in keys:
        without = without_loss(arm, ModelSpec(), f"code_queries.{loss}")
        (left,) = set(keys) - {loss}
        spec = without.model_spec(SPEC)
        assert set(CodeQueriesRepresentation(shape_of(), spec).train().auxiliary(batch)) == {left}
    none = SPEC.model_copy(update=dict.fromkeys(keys.values(), 0.0))
    plain = CodeQueriesRepresentation(shape_of(), none).train()
    assert plain.auxiliary(batch) == {}


def test_losses_of_real_batches_with_padding_and_items_without_codes_are_finite() -> None:
    data = random_set(60)
    vocabulary = Vocabulary.fit(data.rows.item_ids[:40])
    batch = Batches(data, Scaling.fit(data.features, 0.5), vocabulary).batch(torch.arange(60))
    sizes = tuple(int(size) for size in batch.items.codes.amax(dim=0) + 1)
    shape = ItemShape(60, sizes, batch.items.content.shape[1])
    part = CodeQueriesRepresentation(shape, SPEC).train()
    losses = part.auxiliary(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
