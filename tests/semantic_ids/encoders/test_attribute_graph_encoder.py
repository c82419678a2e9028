"""The attribute graph: its convolution, what it promises of new items, and what training does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.encoders.attribute_graph import AttributeGraphEncoder
from semantic_ids.encoders.attribute_graph_training import uniformity
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.laws import check_encoder
from sidkit.core.errors import FitError

law = settings(max_examples=25, deadline=None, database=None)


def items_of(count: int = 120, attributes: int = 9, seed: int = 0) -> ItemVectors:
    rng = np.random.default_rng(seed)
    views = {
        "attributes": (rng.random((count, attributes)) < 0.3).astype(np.float32),
        "text": rng.normal(size=(count, 6)).astype(np.float32),
    }
    return ItemVectors(views, {name: np.ones(count, dtype=bool) for name in views})


def small(**arguments: object) -> AttributeGraphEncoder:
    return AttributeGraphEncoder(**{"dim": 5, "input_dim": 6, "steps": 15, **arguments})  # type: ignore[arg-type]


FITTED = small().fit(items_of())


def with_attributes(items: ItemVectors, attributes: np.ndarray) -> ItemVectors:
    return ItemVectors({**items.matrices, "attributes": attributes.astype(np.float32)}, items.present)


def network(encoder: AttributeGraphEncoder, rows: np.ndarray) -> np.ndarray:
    """The three layers in double precision, with torch's own ELU."""
    value = torch.from_numpy(rows.astype(np.float64))
    layers = [torch.from_numpy(each.astype(np.float64)) for each in encoder.layers_]
    for place in range(0, len(layers), 2):
        value = value @ layers[place] + layers[place + 1]
        if place + 2 < len(layers):
            value = torch.nn.functional.elu(value)
    return value.numpy()


def test_the_vectors_are_the_convolution_of_the_whole_adjacency_matrix() -> None:
    """D^-1/2 (A + I) D^-1/2 h over items and attributes, as one matrix product."""
    items = items_of()
    edges = items.matrices["attributes"].astype(float)
    count, attributes = edges.shape
    x = FITTED.content_.encode(ItemVectors({"text": items.matrices["text"]}, {"text": items.present["text"]}))
    of_attributes = edges.T @ x / edges.sum(axis=0)[:, None]
    of_attributes *= np.sqrt((x**2).sum(axis=1).mean() / (of_attributes**2).sum(axis=1).mean())
    h = network(FITTED, np.concatenate([x, of_attributes]))
    adjacency = np.eye(count + attributes)
    adjacency[:count, count:], adjacency[count:, :count] = edges, edges.T
    scale = 1 / np.sqrt(adjacency.sum(axis=1))
    expected = (scale[:, None] * adjacency * scale[None]) @ h
    np.testing.assert_allclose(FITTED.encode(items), expected[:count], atol=1e-5)


@law
@given(st.integers(0, 10**6))
def test_equal_attributes_propagate_equally_and_none_leave_the_network_alone(seed: int) -> None:
    items = items_of(6, seed=seed)
    shared = with_attributes(items, np.repeat(items.matrices["attributes"][:1], 6, axis=0))
    x = FITTED.content_.encode(ItemVectors({"text": items.matrices["text"]}, {"text": items.present["text"]}))
    h = network(FITTED, x)
    degree = 1 + shared.matrices["attributes"].sum(axis=1, keepdims=True)
    propagated = FITTED.encode(shared) - h / degree
    np.testing.assert_allclose(propagated, np.repeat(propagated[:1], 6, axis=0), atol=1e-5)
    none = with_attributes(items, np.zeros_like(items.matrices["attributes"]))
    np.testing.assert_allclose(FITTED.encode(none), h, atol=1e-5)


def test_a_new_item_changes_no_other_and_lies_near_those_with_its_attributes() -> None:
    rng = np.random.default_rng(1)
    group = np.arange(240) % 4
    attributes = np.repeat(np.eye(4), 6, axis=1)[group] * (rng.random((240, 24)) < 0.8)  # up to six of its group
    text = rng.normal(size=(240, 6))
    present = np.ones(240, dtype=bool)
    items = ItemVectors(
        {"attributes": attributes.astype(np.float32), "text": text.astype(np.float32)},
        {"attributes": present, "text": present},
    )
    encoder = small(steps=100).fit(items.rows(slice(0, 200)))
    before, all_of_them = encoder.encode(items.rows(slice(0, 200))), encoder.encode(items)
    np.testing.assert_array_equal(all_of_them[:200], before)
    unit = all_of_them / np.linalg.norm(all_of_them, axis=1, keepdims=True)
    near = np.argsort(-(unit[200:] @ unit[:200].T), axis=1)[:, :10]
    assert (group[near] == group[200:, None]).mean() > 0.6, "a quarter by chance"


def test_attributes_that_the_fit_did_not_see_are_ignored() -> None:
    items = items_of(80)
    items.matrices["attributes"][:, 8] = 0
    encoder = small().fit(items)
    later = items.rows(slice(0, 5))
    known = with_attributes(later, later.matrices["attributes"].copy())
    later.matrices["attributes"][:, 8] = 1
    np.testing.assert_array_equal(encoder.encode(later), encoder.encode(known))


def test_training_lowers_the_loss_and_keeps_items_apart() -> None:
    encoder = small(steps=200).fit(items_of())
    assert min(encoder.curve_) < encoder.curve_[0] - 0.05
    vectors = encoder.encode(items_of())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.linalg.matrix_rank(unit, tol=0.1) >= 3, "not one direction for all"


def test_uniformity_is_the_mean_over_pairs() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [np.exp(-2 * float((vectors[a] - vectors[b]).square().sum())) for a in range(7) for b in range(a)]
    assert float(uniformity(vectors)) == pytest.approx(np.log(np.mean(pairs)), abs=1e-6)
    assert float(uniformity(vectors[:1])) == 0.0


def test_the_contract_holds_and_what_cannot_work_is_refused_with_a_remedy() -> None:
    check_encoder(AttributeGraphEncoder, attributes="text", dim=4, steps=10)
    rows = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.raises(FitError, match=r"a modality 'attributes'.*got content.*data embed SOURCE --attributes"):
        AttributeGraphEncoder().fit(rows)
    with pytest.raises(FitError, match="no item known at the cut-off has an attribute.*encoder content"):
        small().fit(with_attributes(items_of(20), np.zeros((20, 9))))
    with pytest.raises(FitError, match="steps must be at least 1"):
        small(steps=0).fit(items_of(20))
    with pytest.raises(FitError, match="items_per_step must be at least 2"):
        small(items_per_step=1).fit(items_of(20))
    with pytest.raises(FitError, match="learning_rate"):
        small(learning_rate=0.0).fit(items_of(20))
    other = items_of(4)
    with pytest.raises(FitError, match="with 9 elements, as at fit, got 7"):
        FITTED.encode(with_attributes(other, other.matrices["attributes"][:, :7]))
