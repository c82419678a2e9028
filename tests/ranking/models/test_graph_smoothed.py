"""Id rows smoothed over neighbour lists: against a loop, without items of the future, and the contrast of its views."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.training_builders import TRAINED_ON, random_set, ranker_config
from ranking.data.batch import Batch, KnownNeighbours
from ranking.data.batches import Batches, Vocabulary, known_neighbours, seen_in
from ranking.data.numeric_features import Scaling
from ranking.data.vocabulary import UNKNOWN
from ranking.models.ctr_model import CtrModel
from ranking.models.laws import check_representation
from ranking.models.losses import view_contrast
from ranking.models.parts import forced_off
from ranking.models.representations.graph_smoothed import GraphSmoothedRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.loop import predict
from ranking.training.ranker import Ranker, fit_representations, make_model
from semantic_ids.neighbour_lists import NeighbourList, NeighbourLists
from sidkit.core.errors import ConfigError, FitError

SPEC = ModelSpec(dim=4, hidden=(8,), id_dropout=0.0, prior_neighbours=3)
LISTED = SPEC.model_copy(update={"neighbour_lists": ("text", "co_clicks")})
DATA = random_set(120, items=30)
TRAINING = DATA.take(np.flatnonzero(DATA.candidate <= 20)[:70])
VOCABULARY = Vocabulary.fit(TRAINING.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)
KNOWN = sorted({f"{item}" for item in DATA.items.ids[1:16]})
"""Items that the codebook knew; the others came after its fit."""


def some_lists(seed: int = 0, count: int = 5) -> NeighbourLists:
    rng = np.random.default_rng(seed)
    lists = {}
    for name in ("text", "co_clicks"):
        near = np.stack([rng.permutation(np.delete(np.arange(len(KNOWN)), at))[:count] for at in range(len(KNOWN))])
        weight = -np.sort(-rng.random(near.shape).astype(np.float32) - 0.01, axis=1)
        if name == "co_clicks":
            near[::3], weight[::3] = -1, 0
        lists[name] = NeighbourList(near, weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-9))
    return NeighbourLists.made(KNOWN, lists)


LISTS = some_lists()


def known(spec: ModelSpec) -> KnownNeighbours | None:
    return known_neighbours(LISTS, spec.neighbour_lists, VOCABULARY)


def model_of(spec: ModelSpec, representation: str = "graph_smoothed") -> CtrModel:
    config = ranker_config((representation, "content"), spec, SCALING)
    seen = seen_in(TRAINING, VOCABULARY, neighbours=known(spec))
    torch.manual_seed(0)
    model = make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen))
    nn.init.normal_(model.parts[0].table.weight)
    return model


def batch_of() -> Batch:
    return Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(len(DATA)))


def graph_of(spec: ModelSpec) -> GraphSmoothedRepresentation:
    part = model_of(spec).eval().parts[0]
    assert isinstance(part, GraphSmoothedRepresentation)
    return part


def row_of(item: str) -> int:
    return int(VOCABULARY.numbers(np.array([item], dtype=object))[0])


def lists_by_hand(item: str) -> list[dict[int, float]] | None:
    """Id row -> weight for each list of a known item, of the training window's items alone; None for an item without lists."""
    if item not in KNOWN:
        return None
    found = []
    for name in ("text", "co_clicks"):
        each, at = LISTS.of(name), KNOWN.index(item)
        pairs = [
            (row_of(KNOWN[near]), float(weight))
            for near, weight in zip(each.near[at], each.weight[at], strict=True)
            if near >= 0 and row_of(KNOWN[near]) != UNKNOWN
        ][: SPEC.prior_neighbours]
        total = sum(weight for _, weight in pairs)
        found.append({row: weight / total for row, weight in pairs})
    return found


def test_the_vector_is_that_of_the_formula_item_by_item() -> None:
    part, batch = graph_of(LISTED), batch_of()
    rows = part.table.weight.detach().double()
    assert part.score is not None
    inner, outer = (part.score[at].weight.detach().double() for at in (0, 2))
    vectors = part(batch.items)
    distinct = np.unique(np.concatenate([DATA.candidate, DATA.history_items[DATA.history].ravel()]))
    checked = 0
    for place, row in enumerate(batch.items.index.tolist()):
        if row <= UNKNOWN:
            continue
        item = VOCABULARY.ids[row - 2]
        lists = lists_by_hand(item)
        if lists is None:
            continue
        views = [sum(weight * rows[near] for near, weight in each.items()) for each in lists if each]
        expected = rows[row]
        if views:
            scores = torch.stack([(outer @ torch.tanh(inner @ view)).squeeze() for view in views])
            fused = sum(share * view for share, view in zip(torch.softmax(scores, dim=0), views, strict=True))
            expected = rows[row] + fused / fused.norm()
        torch.testing.assert_close(vectors[place].double(), expected, atol=1e-5, rtol=1e-5)
        checked += 1
    assert checked > 8 and len(distinct)


def test_no_item_that_the_codebook_did_not_know_is_a_neighbour() -> None:
    part = graph_of(LISTED)
    allowed = {row_of(item) for item in KNOWN} - {UNKNOWN}
    assert set(part.fitted_near[part.fitted_near_weight > 0].tolist()) <= allowed
    assert set(part.fitted_key_rows.tolist()) <= allowed
    has_content = dict(zip(DATA.items.ids, DATA.items.content.any(axis=1), strict=True))
    later = [row_of(item) for item in VOCABULARY.ids if item not in KNOWN and has_content[item]]
    assert later and (part.fitted_near_weight[later].sum(dim=2) > 0).all(), "those have neighbours by content"
    near, weight = part.neighbours_of(batch_of().items)
    assert set(near[weight > 0].tolist()) <= allowed, "and so have items outside the training window"


def test_one_list_is_one_step_of_smoothing_and_an_item_without_neighbours_keeps_its_row() -> None:
    part, batch = graph_of(SPEC.model_copy(update={"neighbour_lists": ("co_clicks",)})), batch_of()
    index, rows = batch.items.index, part.table.weight.detach()
    near, weight = part.fitted_near[index, 0], part.fitted_near_weight[index, 0]
    one_step = torch.einsum("ik,ikd->id", weight, rows[near])
    vectors, alone = part(batch.items), weight.sum(dim=1) == 0
    known_items = index > UNKNOWN
    assert (alone & known_items).any() and part.score is None
    torch.testing.assert_close(vectors[alone & known_items], rows[index[alone & known_items]])
    used = known_items & ~alone
    torch.testing.assert_close(
        vectors[used], rows[index[used]] + one_step[used] / one_step[used].norm(dim=1, keepdim=True)
    )


def test_the_random_control_keeps_weights_and_permutes_the_items() -> None:
    right, control = graph_of(LISTED), graph_of(LISTED.model_copy(update={"prior_random": True}))
    assert torch.equal(right.fitted_near_weight, control.fitted_near_weight)
    filled = right.fitted_near_weight > 0
    before, after = right.fitted_near[filled], control.fitted_near[filled]
    assert set(after.tolist()) <= {row_of(item) for item in KNOWN} - {UNKNOWN}
    assert (before != after).float().mean() > 0.5
    renamed = dict(zip(before.tolist(), after.tolist(), strict=True))
    assert [renamed[row] for row in before.tolist()] == after.tolist(), "one permutation of the items"


def test_forced_off_leaves_the_own_row() -> None:
    model, batch = model_of(LISTED).eval(), batch_of()
    part = next(part for part in model.evaluated_parts() if part.name == "graph_smoothed.smoothing")
    rows: Tensor = model.parts[0].table.weight[batch.candidate_index]
    with forced_off(part, 0.0):
        torch.testing.assert_close(model.parts[0].encode(batch)[1], rows)


def test_the_prior_of_an_id_reads_the_same_lists() -> None:
    spec = LISTED.model_copy(update={"prior_strength": 5.0})
    part, graph, batch = model_of(spec, "id").eval().parts[0], graph_of(LISTED), batch_of()
    assert torch.equal(part.fitted_near, graph.fitted_near)
    assert torch.equal(part.fitted_near_weight, graph.fitted_near_weight)
    near, weight = part.spread(batch.items)
    has_any = weight.sum(dim=1) > 0
    assert int(has_any.sum()) > 15
    torch.testing.assert_close(weight.sum(dim=1)[has_any], torch.ones(int(has_any.sum())))
    assert near.shape == weight.shape == (len(batch.items.index), 2 * SPEC.prior_neighbours)


def contrast_by_hand(view: np.ndarray, fused: np.ndarray, temperature: float) -> np.ndarray:
    def similarity(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.exp(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)) / temperature))

    found = []
    for own, each in enumerate(view):
        below = sum(similarity(each, other) for other in fused)
        below += sum(similarity(each, other) for at, other in enumerate(view) if at != own)
        found.append(-np.log(similarity(each, fused[own]) / below))
    return np.array(found)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_contrast_is_that_of_a_loop(seed: int, items: int) -> None:
    view, fused = np.random.default_rng(seed).normal(size=(2, items, 3))
    found = view_contrast(torch.from_numpy(view), torch.from_numpy(fused), 0.5)
    np.testing.assert_allclose(found.numpy(), contrast_by_hand(view, fused, 0.5), rtol=1e-6)


def test_the_loss_is_the_mean_contrast_of_the_views_that_exist_and_0_weight_is_none() -> None:
    spec = LISTED.model_copy(update={"graph_contrast_weight": 0.3})
    part, batch = graph_of(spec), batch_of()
    assert GraphSmoothedRepresentation.losses(spec) == {"view_contrast": "graph_contrast_weight"}
    items = batch.items.take(torch.unique(batch.candidate))
    items = items.take(torch.nonzero(items.index > UNKNOWN).squeeze(1))
    views, fused, has_view = part._views(items)
    each = [
        contrast_by_hand(views[has_view[:, at], at].detach().numpy(), fused[has_view[:, at]].detach().numpy(), 0.5)
        for at in range(2)
    ]
    expected = 0.3 * float(np.concatenate(each).mean())
    assert float(part.auxiliary(batch)["view_contrast"].detach()) == pytest.approx(expected, rel=1e-4)
    assert GraphSmoothedRepresentation.losses(LISTED) == {} and graph_of(LISTED).auxiliary(batch) == {}
    nothing = dataclasses.replace(
        batch, items=dataclasses.replace(batch.items, index=torch.full_like(batch.items.index, 1))
    )
    assert float(part.auxiliary(nothing)["view_contrast"].detach()) == 0, "no known item"


def test_it_meets_the_contract_of_representations() -> None:
    check_representation(GraphSmoothedRepresentation)
    check_representation(GraphSmoothedRepresentation, ModelSpec(graph_contrast_weight=0.1))


def test_lists_are_saved_with_the_ranker_and_served_without_the_codebook(tmp_path: Path) -> None:
    config = ranker_config(("graph_smoothed", "content"), LISTED, SCALING)
    ranker = Ranker(model_of(LISTED).eval(), VOCABULARY, config)
    expected = predict(ranker.model, ranker.batches(DATA))
    ranker.save(tmp_path / "ranker", {"name": "ranker", **TRAINED_ON.as_json()}, {})
    loaded = Ranker.load(tmp_path / "ranker")
    np.testing.assert_array_equal(loaded.score(DATA), expected)
    assert loaded.config.model.neighbour_lists == LISTED.neighbour_lists
    assert torch.equal(loaded.model.parts[0].fitted_near, ranker.model.parts[0].fitted_near)


def test_lists_that_the_codebook_lacks_are_refused() -> None:
    spec = SPEC.model_copy(update={"neighbour_lists": ("text",)})
    config = ranker_config(("graph_smoothed",), spec, SCALING)
    with pytest.raises(ConfigError, match=r"neighbour_lists = \['text'\] needs a codebook.*\[codebook.neighbours\]"):
        fit_representations(config, VOCABULARY, seen_in(TRAINING, VOCABULARY))
    with pytest.raises(FitError, match="no neighbour list 'image', expected one of text, co_clicks"):
        known_neighbours(LISTS, ("image",), VOCABULARY)
    assert known_neighbours(None, ("text",), VOCABULARY) is None and known_neighbours(LISTS, (), VOCABULARY) is None
