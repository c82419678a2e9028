"""Joint re-ranking: the order of candidates, padding, other requests and copies of a candidate change no score."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import START
from helpers.training_builders import SIZES, random_set, ranker_config
from ranking.data.batches import vocabulary_of
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.numeric_features import Scaling
from ranking.data.requests import request_numbers
from ranking.models.rerank_spec import RerankSpec
from ranking.models.rerankers import RERANKER_NAMES, RERANKERS
from ranking.models.rerankers.base import RequestBatch, Reranker, request_cross_entropy
from ranking.models.rerankers.joint import JointReranker
from ranking.models.spec import ModelSpec
from ranking.training.ranker import Ranker, make_model
from ranking.training.rerank_inputs import RequestBatches, shape_of, union
from ranking.training.rerank_training import changed_logits, train_reranker
from sidkit.core.errors import ConfigError

law = settings(max_examples=25, deadline=None, database=None)
SPEC = RerankSpec(dim=8, heads=2, layers=2, epochs=3, batch_rows=64)
CLOSE = 1e-6


def ranker_of(data: Dataset, seed: int = 0) -> Ranker:
    torch.manual_seed(seed)
    scaling, vocabulary = Scaling.fit(data.features, 0.3), vocabulary_of(data)
    spec = ModelSpec(dim=4, hidden=(8,))
    config = ranker_config(("id", "content"), spec, scaling)
    return Ranker(make_model(config, vocabulary).eval(), vocabulary, config)


def requests(seed: int, sizes: list[int]) -> Dataset:
    """Requests with so many candidates, as they are served: rows of one user at one time."""
    data = random_set(sum(sizes), seed=seed, items=30)
    number = np.repeat(np.arange(len(sizes)), sizes)
    rows = dataclasses.replace(
        data.rows, user_ids=np.array([f"u{each}" for each in number], dtype=object), at_us=START + 400 * number
    )
    history = (number % len(data.history_items)).astype(np.int32)
    return dataclasses.replace(data, rows=rows, history=history)


def reranker_of(name: str, ranker: Ranker, seed: int = 0) -> Reranker:
    """One whose changes are as large as logits, as after a long training."""
    torch.manual_seed(seed)
    reranker = RERANKER_NAMES.find(name)(shape_of(ranker), SPEC).eval()
    with torch.no_grad():
        for parameter in reranker.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return reranker


def scores(reranker: Reranker, ranker: Ranker, data: Dataset) -> np.ndarray:
    return changed_logits(reranker, RequestBatches(ranker, data))


@pytest.mark.parametrize("name", RERANKERS)
@law
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_permuted_candidates_have_permuted_scores(name: str, seed: int, sizes: list[int]) -> None:
    data = requests(seed % 1000, sizes)
    ranker = ranker_of(data)
    reranker = reranker_of(name, ranker)
    order = np.random.default_rng(seed).permutation(len(data))
    np.testing.assert_allclose(
        scores(reranker, ranker, data.take(order)), scores(reranker, ranker, data)[order], atol=CLOSE
    )


@pytest.mark.parametrize("name", RERANKERS)
@law
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5))
def test_padding_and_other_requests_change_no_score(name: str, seed: int, sizes: list[int]) -> None:
    data = requests(seed % 1000, sizes)
    ranker = ranker_of(data)
    reranker = reranker_of(name, ranker)
    together = scores(reranker, ranker, data)
    number = request_numbers(data.rows)
    alone = [scores(reranker, ranker, data.take(np.flatnonzero(number == each))) for each in range(len(sizes))]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=CLOSE)
    [(_, batch)] = RequestBatches(ranker, data).batches(10_000)
    wider = dataclasses.replace(batch, tokens=torch.nn.functional.pad(batch.tokens, (0, 5)))
    with torch.no_grad():
        np.testing.assert_allclose(reranker(wider), reranker(batch), atol=CLOSE)


@pytest.mark.parametrize("name", RERANKERS)
@law
@given(seed=st.integers(0, 2**31), size=st.integers(2, 12))
def test_a_copy_of_a_candidate_changes_nothing_else(name: str, seed: int, size: int) -> None:
    data = requests(seed % 1000, [size])
    ranker = ranker_of(data)
    reranker = reranker_of(name, ranker)
    copied = scores(reranker, ranker, data.take(np.append(np.arange(size), seed % size)))
    expected = scores(reranker, ranker, data)
    np.testing.assert_allclose(copied[:size], expected, atol=CLOSE)
    assert copied[size] == pytest.approx(expected[seed % size], abs=CLOSE)


def test_without_codes_the_score_is_the_base_and_what_its_own_vector_gives() -> None:
    data = requests(1, [7])
    bare = dataclasses.replace(data, items=dataclasses.replace(data.items, codes=np.full_like(data.items.codes, -1)))
    ranker = ranker_of(data)
    reranker = reranker_of("joint", ranker)
    assert isinstance(reranker, JointReranker)
    [(_, batch)] = RequestBatches(ranker, bare).batches(100)
    assert not batch.tokens.any() and (batch.own < 0).all()
    with torch.no_grad():
        expected = batch.logit + reranker.change(torch.zeros(7, SPEC.dim), batch)
    np.testing.assert_allclose(scores(reranker, ranker, bare), expected, atol=CLOSE)
    alone = np.concatenate([scores(reranker, ranker, bare.take(np.array([row]))) for row in range(7)])
    np.testing.assert_allclose(scores(reranker, ranker, bare), alone, atol=CLOSE)


def test_candidates_read_the_codes_of_the_others() -> None:
    data = requests(2, [8])
    ranker = ranker_of(data)
    reranker = reranker_of("joint", ranker)
    some = scores(reranker, ranker, data.take(np.arange(4)))
    assert np.abs(some - scores(reranker, ranker, data)[:4]).max() > 1e-3


@law
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 30), requests_=st.integers(1, 5))
def test_the_union_has_each_token_of_a_request_once(seed: int, rows: int, requests_: int) -> None:
    """The oracle collects the tokens of each request in a set."""
    rng = np.random.default_rng(seed)
    number = rng.integers(0, requests_, rows)
    number = np.unique(number, return_inverse=True)[1]
    codes = np.stack([rng.integers(-1, size, rows) for size in SIZES], axis=1).astype(np.int32)
    tokens, own = union(codes, number, SIZES)
    starts = [1, 1 + SIZES[0], 1 + SIZES[0] + SIZES[1]]
    for request in range(number.max() + 1):
        expected = {
            start + code
            for each in codes[number == request]
            for start, code in zip(starts, each.tolist(), strict=True)
            if code >= 0
        }
        found = tokens[request][tokens[request] > 0].tolist()
        assert found == sorted(expected)
    for row in range(rows):
        for level, (start, code) in enumerate(zip(starts, codes[row].tolist(), strict=True)):
            assert own[row, level] == -1 if code < 0 else tokens[number[row], own[row, level]] == start + code
    assert tokens.shape[1] <= max(1, sum(SIZES))


@law
@given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_token_has_the_highest_logit_of_the_candidates_that_have_it(seed: int, sizes: list[int]) -> None:
    data = requests(seed % 1000, sizes)
    ranker = ranker_of(data)
    reranker = reranker_of("joint", ranker)
    assert isinstance(reranker, JointReranker)
    [(_, batch)] = RequestBatches(ranker, data).batches(10_000)
    found = reranker.highest(batch)
    logit = reranker.ranked(batch)[:, -1]
    for request, tokens in enumerate(batch.tokens.tolist()):
        rows = np.flatnonzero(batch.request.numpy() == request).tolist()
        for place, token in enumerate(tokens):
            held = [logit[row].item() for row in rows if place in batch.own[row].tolist()] if token else [0.0]
            assert found[request, place].item() == max(held)


def test_it_learns_that_a_candidate_is_clicked_less_the_better_the_others_are() -> None:
    """One click per page, by the softmax of the ranker's logits: what the others score decides, not which codes they have."""
    rng = np.random.default_rng(0)
    data = requests(8, [8] * 500)
    logit = 2 * rng.standard_normal(len(data))
    drawn = (logit + rng.gumbel(size=len(data))).reshape(-1, 8)
    label = (drawn == drawn.max(axis=1, keepdims=True)).ravel().astype(np.int8)
    codes = np.arange(len(data.items.codes), dtype=np.int32)[:, None]  # every item has a token of its own
    data = dataclasses.replace(
        data,
        rows=dataclasses.replace(data.rows, label=label),
        items=dataclasses.replace(data.items, codes=codes),
        candidate=np.concatenate([1 + rng.permutation(len(codes) - 1)[:8] for _ in range(500)]).astype(np.int32),
    )
    ranker = ranker_of(requests(8, [8]))
    shape = dataclasses.replace(shape_of(ranker), sizes=(len(codes),))
    parts = []
    for rows in (np.arange(3200), np.arange(3200, 4000)):
        batches = RequestBatches(ranker, data.take(rows))
        batches.shape, batches.logit = shape, torch.from_numpy(logit[rows].astype(np.float32))
        parts.append(batches)
    spec = RerankSpec(dim=16, epochs=15, patience=15, batch_rows=256, learning_rate=5e-3)
    trained = train_reranker(lambda: JointReranker(shape, spec), *parts, spec, seed=0, device=torch.device("cpu"))
    assert max(trained.validation_auc) > trained.validation_auc[0] + 0.005


def test_a_request_is_one_forward_pass_over_its_distinct_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    data = requests(3, [200])
    ranker = ranker_of(data)
    reranker, passes, base = reranker_of("joint", ranker), list[RequestBatch](), list[int]()
    forward, ranked = type(reranker).forward, ranker.model.forward
    monkeypatch.setattr(type(reranker), "forward", lambda self, batch: (passes.append(batch), forward(self, batch))[1])
    monkeypatch.setattr(ranker.model, "forward", lambda batch: (base.append(len(batch.label)), ranked(batch))[1])
    scores(reranker, ranker, data)
    assert base == [200], "the ranker is read once, for logits and vectors"
    assert len(passes) == 1
    assert passes[0].tokens.shape[0] == 1 and passes[0].tokens.shape[1] <= sum(SIZES)


def test_rows_are_grouped_by_request_or_else_by_user_and_time() -> None:
    users = np.array(["a", "a", "a", "b", "b", "a"], dtype=object)
    at_us = np.array([1, 1, 2, 1, 1, 1])
    rows = LabelledRows(users, users, at_us, np.zeros(6, np.int8))
    assert request_numbers(rows).tolist() == [0, 0, 1, 2, 2, 0]
    ids = np.array(["r", "s", "r", "r", None, ""], dtype=object)
    assert request_numbers(dataclasses.replace(rows, request_ids=ids)).tolist() == [0, 1, 0, 2, 3, 4]
    assert len(request_numbers(rows.take(np.arange(0)))) == 0


@law
@given(seed=st.integers(0, 2**31))
def test_the_listwise_loss_is_the_cross_entropy_of_requests_with_both_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    request, label = rng.integers(0, 6, 30), rng.integers(0, 2, 30).astype(np.float32)
    logit = rng.normal(size=30).astype(np.float32) * 5
    expected = []
    for each in range(6):
        own = request == each
        if 0 < label[own].sum() < own.sum():
            target = torch.from_numpy(label[own] / label[own].sum())
            expected.append(torch.nn.functional.cross_entropy(torch.from_numpy(logit[own])[None], target[None]).item())
    found = request_cross_entropy(torch.from_numpy(logit), torch.from_numpy(label), torch.from_numpy(request), 6)
    assert found.item() == pytest.approx(np.mean(expected) if expected else 0.0, abs=1e-4)


def test_an_untrained_one_changes_nothing_and_one_that_learns_nothing_stays_so() -> None:
    data = requests(5, [6] * 30)
    ranker = ranker_of(data)
    batches = RequestBatches(ranker, data)
    untrained = JointReranker(shape_of(ranker), SPEC).eval()
    assert np.array_equal(changed_logits(untrained, batches), batches.logit.double().numpy())
    frozen = SPEC.model_copy(update={"learning_rate": 1e-12})
    trained = train_reranker(
        lambda: JointReranker(shape_of(ranker), frozen), batches, batches, frozen, seed=0, device=torch.device("cpu")
    )
    assert len(trained.validation_auc) >= 2
    if trained.best == 0:
        assert np.array_equal(changed_logits(trained.reranker, batches), batches.logit.double().numpy())


def test_it_learns_that_the_best_of_a_page_depends_on_the_page_and_repeats_bit_by_bit() -> None:
    """Clicked are candidates whose first code comes before the other one of their page: no score of single rows knows that."""
    rng = np.random.default_rng(0)
    data = requests(6, [4] * 400)
    codes = data.items.codes.copy()
    first = np.arange(len(codes)) % SIZES[0]
    codes[1:, 0] = first[1:]
    items = [np.flatnonzero(first[1:] == code) + 1 for code in range(SIZES[0])]
    candidate, label = [], []
    for _ in range(400):
        before = int(rng.integers(SIZES[0]))
        page = [*rng.choice(items[before], 2), *rng.choice(items[(before + 1) % SIZES[0]], 2)]
        order = rng.permutation(4)
        candidate += [page[each] for each in order]
        label += [int(each < 2) for each in order]
    data = dataclasses.replace(
        data,
        candidate=np.array(candidate, dtype=np.int32),
        rows=dataclasses.replace(data.rows, label=np.array(label, dtype=np.int8)),
        items=dataclasses.replace(data.items, codes=codes),
    )
    ranker = ranker_of(data)
    train, validation = data.take(np.arange(1200)), data.take(np.arange(1200, 1600))
    spec = RerankSpec(
        dim=16, heads=2, layers=1, epochs=25, patience=25, batch_rows=128, learning_rate=5e-3, dropout=0.0
    )
    found = [
        train_reranker(
            lambda: JointReranker(shape_of(ranker), spec),
            RequestBatches(ranker, train),
            RequestBatches(ranker, validation),
            spec,
            seed=1,
            device=torch.device("cpu"),
        )
        for _ in range(2)
    ]
    assert found[0].validation_auc[0] < 0.6 < 0.8 < max(found[0].validation_auc)
    assert found[0].validation_auc == found[1].validation_auc


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    ranker = ranker_of(random_set())
    with pytest.raises(ConfigError, match=r"rerank\.dim to be a multiple of rerank\.heads, got 9 and 2"):
        JointReranker(shape_of(ranker), SPEC.model_copy(update={"dim": 9}))
