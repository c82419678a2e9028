"""The collaborative encoder against its definition in plain numpy, and that no item shows whether it has pairs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from semantic_ids.encoders import CollaborativeEncoder, ContentEncoder
from semantic_ids.encoders.collaborative import shifted_ppmi, truncated_svd
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Doubles
from sidkit.core.errors import FitError

ROWS = 300
GROUPS = 6


def world(
    rows: int = ROWS, paired: float = 1.0, missing: float = 0.0, seed: int = 0
) -> tuple[ItemVectors, ItemPairs, npt.NDArray[np.int64]]:
    """Items of six groups that are clicked together; content shows the group faintly beside loud directions."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, GROUPS, rows)
    faint = rng.normal(size=(GROUPS, 5))[group] + 0.2 * rng.normal(size=(rows, 5))
    hidden = np.hstack([faint, 4 * rng.normal(size=(rows, 6))])
    text = (hidden @ np.linalg.qr(rng.normal(size=(11, 11)))[0] + 1).astype(np.float32)
    image = (hidden @ rng.normal(size=(11, 7)) + 3 * rng.normal(size=(rows, 7))).astype(np.float32)
    there = rng.random(rows) >= missing
    image[~there] = 0
    warm = np.flatnonzero(rng.random(rows) < paired)
    trigger = rng.choice(warm, 12 * rows)
    target = np.array([rng.choice(warm[group[warm] == group[one]]) for one in trigger])
    keys = np.unique((trigger * rows + target)[trigger != target])
    pairs = ItemPairs(
        keys // rows, keys % rows, rng.random(len(keys)).astype(np.float32) + 0.1, np.ones(rows, np.int64), 0
    )
    return ItemVectors({"text": text, "image": image}, {"text": np.ones(rows, bool), "image": there}), pairs, group


def by_the_book(items: ItemVectors, pairs: ItemPairs, dim: int, shift: float, ridge: float) -> Doubles:
    """The definition, dense, up to the signs of the axes."""
    rows = len(items)
    together = np.zeros((rows, rows))
    for i, j, weight in zip(pairs.trigger, pairs.target, pairs.weight, strict=True):
        together[i, j] += weight
        together[j, i] += weight
    strength = together.sum(axis=1)
    told = np.zeros((rows, rows))
    for i, j in zip(*np.nonzero(together), strict=True):
        told[i, j] = max(np.log(together[i, j] * strength.sum() / (strength[i] * strength[j]) / shift), 0)
    having = told.sum(axis=1) > 0
    values, axes = np.linalg.eigh(told[np.ix_(having, having)])
    order = np.argsort(-np.abs(values))[:dim]
    known = axes[:, order] * np.sqrt(np.abs(values[order]))
    x = ContentEncoder(256, ridge).fit(items).encode(items).astype(float)
    evidence = strength[having] / (strength[having] + np.median(strength[having]))
    design = np.hstack([x[having], np.ones((having.sum(), 1))]) * np.sqrt(evidence)[:, None]
    centred = x[having] - np.average(x[having], axis=0, weights=evidence)
    penalty = ridge * (centred**2 * evidence[:, None]).sum() / x.shape[1]
    tall = np.vstack([design, np.hstack([np.sqrt(penalty) * np.eye(x.shape[1]), np.zeros((x.shape[1], 1))])])
    wanted = np.vstack([known * np.sqrt(evidence)[:, None], np.zeros((x.shape[1], known.shape[1]))])
    slopes = np.linalg.lstsq(tall, wanted, rcond=None)[0][:-1]
    told_of_all = (x - x.mean(axis=0)) @ slopes
    return told_of_all / np.sqrt((told_of_all**2).sum(axis=1).mean())


@pytest.mark.parametrize(("shift", "ridge", "paired"), [(1.0, 0.1, 1.0), (2.0, 0.5, 0.6)])
def test_vectors_are_the_regression_of_the_factorised_ppmi(shift: float, ridge: float, paired: float) -> None:
    items, pairs, _ = world(paired=paired, missing=0.2)
    found = CollaborativeEncoder(dim=5, shift=shift, ridge=ridge).fit(items, pairs).encode(items).astype(float)
    expected = by_the_book(items, pairs, 5, shift, ridge)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)


def test_items_of_a_group_lie_closer_than_by_content_and_cold_items_do_too() -> None:
    items, pairs, group = world(paired=0.7)

    def same_group(vectors: npt.NDArray[np.float32], rows: npt.NDArray[np.bool_]) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        close = unit @ unit.T
        np.fill_diagonal(close, -2)
        return float((group[np.argsort(-close, axis=1)[:, :10]] == group[:, None])[rows].mean())

    cold = ~np.isin(np.arange(ROWS), np.concatenate([pairs.trigger, pairs.target]))
    assert cold.sum() > 50
    found = CollaborativeEncoder(dim=8).fit(items, pairs).encode(items)
    content = ContentEncoder(dim=8).fit(items).encode(items)
    for rows in (cold, ~cold):
        assert same_group(found, rows) > same_group(content, rows) + 0.3


def probe_auc(vectors: Doubles, label: npt.NDArray[np.bool_]) -> float:
    half = len(vectors) // 2
    design = np.hstack([vectors, np.ones((len(vectors), 1))])
    weights = np.linalg.lstsq(design[:half], label[:half].astype(float), rcond=None)[0]
    score, truth = (design @ weights)[half:], label[half:]
    return float((score[truth][:, None] > score[~truth][None, :]).mean())


@pytest.mark.parametrize("with_content", [False, True])
def test_no_direction_says_that_an_item_has_no_pairs_or_lacks_a_modality(with_content: bool) -> None:
    items, pairs, _ = world(rows=1200, paired=0.5, missing=0.4)
    vectors = CollaborativeEncoder(dim=5, with_content=with_content).fit(items, pairs).encode(items).astype(float)
    cold = ~np.isin(np.arange(1200), np.concatenate([pairs.trigger, pairs.target]))
    assert abs(probe_auc(vectors, cold) - 0.5) < 0.1
    assert abs(probe_auc(vectors, ~items.present["image"]) - 0.5) < 0.1


def test_content_beside_it_has_the_same_spread() -> None:
    items, pairs, _ = world()
    encoder = CollaborativeEncoder(dim=6, with_content=True, content_dim=10).fit(items, pairs)
    vectors = encoder.encode(items).astype(float)
    assert vectors.shape[1] == encoder.output_dim == 16
    assert encoder.content_columns == (6, 16)
    left, right = vectors[:, :6], vectors[:, 6:]
    for block in (left, right):
        assert ((block - block.mean(axis=0)) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=1e-3)
    alone = CollaborativeEncoder(dim=6).fit(items, pairs)
    assert alone.content_columns == (6, 6)
    np.testing.assert_allclose(left, alone.encode(items), atol=1e-6)
    content = ContentEncoder(dim=10).fit(items).encode(items).astype(float)
    turned = np.corrcoef(np.hstack([right, content]).T)[:10, 10:]
    np.testing.assert_allclose(np.diag(turned), 1, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([1.0, 1.5, 4.0]))
def test_the_ppmi_is_symmetric_and_never_below_zero(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    trigger = rng.integers(0, 12, 30)
    target = (trigger + rng.integers(1, 12, 30)) % 12
    weight = rng.random(30).astype(np.float32) + 0.01
    pairs = ItemPairs(trigger, target, weight, np.ones(12, np.int64), 0)
    mirrored = ItemPairs(target, trigger, weight, np.ones(12, np.int64), 0)
    found, strength = shifted_ppmi(pairs, 12, shift)
    dense = found.toarray()
    np.testing.assert_array_equal(dense, dense.T)
    assert (dense >= 0).all() and strength.sum() == pytest.approx(2 * float(weight.astype(float).sum()))
    np.testing.assert_allclose(shifted_ppmi(mirrored, 12, shift)[0].toarray(), dense, atol=1e-12)


def test_the_sparse_svd_gives_what_the_dense_one_gives() -> None:
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(700, 4)) * np.array([4, 3, 2, 1])
    dense = np.maximum(basis @ basis.T, 0) * (rng.random((700, 700)) < 0.2)
    matrix = csr_array(dense + dense.T)
    found = truncated_svd(matrix, 4, seed=1)
    left, values, _ = np.linalg.svd(matrix.toarray())
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :4] * np.sqrt(values[:4])), atol=1e-6)
    assert (found[np.abs(found).argmax(axis=0), np.arange(4)] > 0).all()
    np.testing.assert_allclose(truncated_svd(matrix, 4, seed=2), found, atol=1e-6)


def test_an_item_is_encoded_alone_as_in_company_and_zeros_without_content() -> None:
    items, pairs, _ = world(missing=0.3)
    encoder = CollaborativeEncoder(dim=6, with_content=True).fit(items, pairs)
    together = encoder.encode(items)
    assert together.dtype == np.float32
    for row in range(0, ROWS, 17):
        np.testing.assert_array_equal(encoder.encode(items.rows(np.array([row])))[0], together[row])
    bare = ItemVectors(items.matrices, {name: np.zeros(ROWS, bool) for name in items.present})
    assert not encoder.encode(bare).any()


def test_a_saved_encoder_gives_identical_vectors_and_a_second_fit_too() -> None:
    items, pairs, _ = world(missing=0.3)
    encoder = CollaborativeEncoder(dim=6, with_content=True, content_dim=9, shift=1.5).fit(items, pairs)
    arguments = json.loads(json.dumps(encoder.config()))
    again = CollaborativeEncoder(**arguments).load_tensors(encoder.tensors())
    np.testing.assert_array_equal(again.encode(items), encoder.encode(items))
    assert again.modalities_ == encoder.modalities_ and again.output_dim == encoder.output_dim
    second = CollaborativeEncoder(**arguments).fit(items, pairs)
    np.testing.assert_array_equal(second.encode(items), encoder.encode(items))


def test_the_order_of_pairs_changes_nothing() -> None:
    items, pairs, _ = world()
    order = np.random.default_rng(0).permutation(len(pairs))
    mixed = ItemPairs(pairs.trigger[order], pairs.target[order], pairs.weight[order], pairs.clicks, 0)
    first = CollaborativeEncoder(dim=4).fit(items, pairs).encode(items)
    np.testing.assert_allclose(CollaborativeEncoder(dim=4).fit(items, mixed).encode(items), first, atol=1e-5)


def test_no_pairs_is_refused_with_a_remedy() -> None:
    items, pairs, _ = world()
    empty = ItemPairs(pairs.trigger[:0], pairs.target[:0], pairs.weight[:0], pairs.clicks, 0)
    for none in (None, empty):
        with pytest.raises(FitError, match=r"'collaborative' learns from pairs.*mine them.*'content'"):
            CollaborativeEncoder().fit(items, none)


def test_pairs_that_are_all_chance_are_refused() -> None:
    items, _, _ = world(rows=4)
    trigger, target = np.nonzero(~np.eye(4, dtype=bool))
    pairs = ItemPairs(trigger, target, np.ones(12, np.float32), np.ones(4, np.int64), 0)
    with pytest.raises(FitError, match="4 times chance; lower shift"):
        CollaborativeEncoder(shift=4).fit(items, pairs)


@pytest.mark.parametrize(
    "change", [{"dim": 0}, {"content_dim": 0}, {"input_dim": 0}, {"shift": 0.5}, {"shift": float("nan")}]
)
def test_an_argument_out_of_range_is_refused_by_name(change: dict[str, Any]) -> None:
    items, pairs, _ = world()
    with pytest.raises(FitError, match=next(iter(change))):
        CollaborativeEncoder(**change).fit(items, pairs)


def test_content_that_cannot_be_used_is_refused() -> None:
    items, pairs, _ = world()
    with pytest.raises(FitError, match="not fitted"):
        CollaborativeEncoder().encode(items)
    encoder = CollaborativeEncoder(dim=4).fit(items, pairs)
    bad = {**items.matrices, "text": items.matrices["text"].copy()}
    bad["text"][3, 1] = np.inf
    with pytest.raises(FitError, match=r"'text'.*NaN"):
        encoder.encode(ItemVectors(bad, items.present))
    wide = {**items.matrices, "text": np.zeros((ROWS, 3), np.float32)}
    with pytest.raises(FitError, match="with 11 elements, as at fit, got 3"):
        encoder.encode(ItemVectors(wide, items.present))
