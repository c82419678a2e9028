"""What holds for every representation under every history: the contract that a new one is checked by."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import CONTENT_DIM, random_set, ranker_config
from ranking.data.batches import Batches, Vocabulary, seen_in
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling
from ranking.models.histories import BOTH_SPACES, HISTORIES
from ranking.models.representations import BEHAVIOUR, REPRESENTATIONS
from ranking.models.spec import ModelSpec
from ranking.training.loop import predict
from ranking.training.ranker import Ranker, fit_representations, make_model

law = settings(max_examples=8, deadline=None, database=None)
DATA = random_set(60)
VOCABULARY = Vocabulary.fit(DATA.rows.item_ids[:40])
SCALING = Scaling.fit(DATA.features, 0.5)
BASE = ModelSpec(dim=4, heads=2, hidden=(8,), dropout=0.3, id_dropout=0.2, table_rows=30, spm_pieces=12, neighbours=3)


def combinations() -> list[tuple[tuple[str, ...], ModelSpec]]:
    """Every representation under every history that it can have, each with an option or two of its own."""
    found = []
    for name, history in itertools.product(REPRESENTATIONS, HISTORIES):
        partner = () if history not in BOTH_SPACES else (("content",) if name in BEHAVIOUR else ("id",))
        found.append(((name, *partner), BASE.model_copy(update={"history": history})))
    for match in ("mean", "attention"):
        found.append((("id", "sid"), BASE.model_copy(update={"sid_match": match, "cross_layers": 2})))
    for parts in ("rq", "opq"):
        found.append(
            (("mba", "rq_opq_gate"), BASE.model_copy(update={"gate_parts": parts, "history": "bidirectional"}))
        )
    found.append((("sid",), BASE.model_copy(update={"sid_pool": "concat"})))
    found.append((("id", "content"), BASE.model_copy(update={"prior_strength": 5.0, "prior_neighbours": 4})))
    found.append((("id", "content"), BASE.model_copy(update={"lm_prior_weight": 0.5, "lm_prior_warm": 2})))
    found.append((("group_mean",), BASE.model_copy(update={"prior_strength": 5.0, "prior_neighbours": 4})))
    found.append((("graph_smoothed",), BASE.model_copy(update={"graph_contrast_weight": 0.1, "prior_neighbours": 4})))
    found.append((("id", "content"), BASE.model_copy(update={"history": "shared_gated", "shuffled_counts": True})))
    found.append((("rq_opq_gate",), BASE.model_copy(update={"gate_fuse": "mean"})))
    found.append((("routed_sid", "content"), BASE.model_copy(update={"shuffled_counts": True})))
    tokens = {"history": "anchors", "sid_pool": "tokens"}
    found.append((("id", "sid"), BASE.model_copy(update=tokens)))
    found.append((("sid",), BASE.model_copy(update={**tokens, "attention": "cosine"})))
    found.append((("id", "code_queries"), BASE.model_copy(update={"query_layers": 1, "query_view_columns": 3})))
    return found


CASES = combinations()
NAMES = [f"{'+'.join(parts)}-{spec.history}-{number}" for number, (parts, spec) in enumerate(CASES)]


def ranker_of(parts: tuple[str, ...], spec: ModelSpec) -> Ranker:
    """A ranker with weights large enough to be seen in a score, its fitted state from the first rows."""
    config = ranker_config(parts, spec, SCALING, residual_levels=2)
    seen = seen_in(DATA.take(np.arange(40)), VOCABULARY, lambda codes: np.sin(1.0 + codes[:, 2:]).astype(np.float32))
    torch.manual_seed(0)
    model = make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen))
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    return Ranker(model.eval(), VOCABULARY, config)


RANKERS = [ranker_of(*case) for case in CASES]


@pytest.mark.parametrize("ranker", RANKERS, ids=NAMES)
@law
@given(chosen=st.lists(st.integers(0, len(DATA) - 1), min_size=1, max_size=12), size=st.integers(1, 13))
def test_a_score_depends_on_its_own_row_alone(ranker: Ranker, chosen: list[int], size: int) -> None:
    rows = np.array(chosen)
    alone = ranker.score(DATA)[rows]
    assert ranker.score(DATA.take(rows)) == pytest.approx(alone, abs=1e-6)
    tensors = Batches(DATA.take(rows), SCALING, VOCABULARY)
    with torch.inference_mode():
        told = torch.cat([torch.sigmoid(ranker.model(batch)) for batch in tensors.batches(size)])
    assert told.numpy() == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("ranker", RANKERS, ids=NAMES)
def test_neither_more_padding_nor_what_stands_in_it_changes_a_score(ranker: Ranker) -> None:
    there = DATA.history_items != 0
    wider = dataclasses.replace(
        DATA,
        history_items=np.pad(DATA.history_items, ((0, 0), (0, 3))),
        history_us=np.pad(np.where(there, DATA.history_us, 77), ((0, 0), (0, 3)), constant_values=99),
    )
    assert ranker.score(wider) == pytest.approx(ranker.score(DATA), abs=1e-6)
    dirty = dataclasses.replace(
        DATA.items, content=np.concatenate([np.full((1, CONTENT_DIM), 9, np.float32), DATA.items.content[1:]])
    )
    assert ranker.score(dataclasses.replace(DATA, items=dirty)) == pytest.approx(ranker.score(DATA), abs=1e-6)


@pytest.mark.parametrize("ranker", RANKERS, ids=NAMES)
def test_an_empty_history_gives_zeros_whoever_asks(ranker: Ranker) -> None:
    empty = dataclasses.replace(DATA, history=np.zeros(len(DATA), dtype=np.int32))
    batch = Batches(empty, SCALING, VOCABULARY).batch(torch.arange(len(DATA)))
    pooled: list[torch.Tensor] = []
    hooks = [pool.register_forward_hook(lambda *given: pooled.append(given[2])) for pool in ranker.model.pools]
    ranker.model(batch)
    for hook in hooks:
        hook.remove()
    assert len(pooled) == len(ranker.model.pools)
    for pool, told in zip(ranker.model.pools, pooled, strict=True):
        assert told.shape == (len(DATA), pool.dim)
        assert (told == 0).all()


@pytest.mark.parametrize("ranker", RANKERS, ids=NAMES)
def test_a_saved_ranker_scores_bit_by_bit_as_before(tmp_path: Path, ranker: Ranker) -> None:
    ranker.save(tmp_path / "ranker", {"name": "ranker"}, {})
    loaded = Ranker.load(tmp_path / "ranker")
    assert np.array_equal(loaded.score(DATA), ranker.score(DATA))
    kept, found = ranker.model.state_dict(), loaded.model.state_dict()
    assert list(kept) == list(found)
    assert all(torch.equal(kept[name], found[name]) for name in kept)


@pytest.mark.parametrize("ranker", RANKERS, ids=NAMES)
def test_items_that_training_never_saw_and_items_without_codes_get_finite_scores(ranker: Ranker) -> None:
    new = DATA.items.ids.copy()
    new[1:] = [f"new{number}" for number in range(1, len(new))]
    bare = np.full_like(DATA.items.codes, -1)
    for items in (
        dataclasses.replace(DATA.items, ids=new),
        dataclasses.replace(DATA.items, codes=bare),
        dataclasses.replace(DATA.items, ids=new, codes=bare, content=np.zeros_like(DATA.items.content)),
    ):
        assert np.isfinite(ranker.score(dataclasses.replace(DATA, items=items))).all()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_gradients_are_finite_and_reach_every_parameter(case: tuple[tuple[str, ...], ModelSpec]) -> None:
    model = ranker_of(*case).model.train()
    batch = Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(len(DATA)))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
    sum(model.auxiliary(batch).values(), start=loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("ranker", RANKERS, ids=NAMES)
def test_matches_computed_before_change_no_score(ranker: Ranker) -> None:
    tensors = Batches(DATA, SCALING, VOCABULARY)
    plain = predict(ranker.model, tensors)
    with torch.no_grad():
        tensors.keep_matches(torch.cat([ranker.model.matches(batch) for batch in tensors.batches(7)]))
    assert predict(ranker.model, tensors) == pytest.approx(plain, abs=1e-6)


def test_every_representation_is_under_test() -> None:
    assert {name for parts, _ in CASES for name in parts} == set(REPRESENTATIONS)


def test_a_dataset_on_no_rows_gives_no_scores() -> None:
    none: Dataset = DATA.take(np.zeros(0, dtype=np.int64))
    assert RANKERS[0].score(none).shape == (0,)
