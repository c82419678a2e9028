"""What kept models are asked: the mutation test, gates and attention."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import CONTENT_DIM, SIZES, random_set, seen_as
from ranking.data.batches import Batches, Vocabulary
from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.schema import BUILT_IN
from ranking.experiments.comparison.attention_examples import (
    LEAST_HISTORY,
    attention_examples,
    attention_weights,
    example_rows,
)
from ranking.experiments.comparison.explain import gate_values
from ranking.experiments.comparison.probes import _partners, gate_curves, mutation
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.ranker import Ranker

law = settings(max_examples=60, deadline=None, database=None)
DRAWN = random_set(300, items=40, users=30, length=8)
DATA = dataclasses.replace(DRAWN, numeric=seen_as(np.abs(DRAWN.features)))  # counts are never negative


def scoring(score: Callable[[Dataset], np.ndarray]) -> Ranker:
    """A ranker that scores as told."""
    config = SimpleNamespace(residual_levels=None, sizes=SIZES, vectors="content")
    return cast("Ranker", SimpleNamespace(config=config, score=score))


@pytest.mark.parametrize("deep", [0, 1, 2, 3])
def test_a_ranker_that_reads_so_many_codes_is_not_moved_by_swaps_that_share_them(deep: int) -> None:
    weight = np.array([100.0, 10.0, 1.0])[:deep]

    def score(data: Dataset) -> np.ndarray:
        codes = data.items.codes[data.candidate][:, :deep]
        return (codes @ weight if deep else np.zeros(len(data))) + data.features[:, 0]

    told = mutation(scoring(score), DATA)
    assert [each.depth for each in told] == list(range(len(told)))
    assert told[0].change == told[0].random
    for each in told:
        if each.depth >= deep:
            assert each.change == pytest.approx(0, abs=1e-9)
        else:
            assert each.change > 0
    assert all(later.rows <= earlier.rows for earlier, later in itertools.pairwise(told))


@law
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=14),
    st.lists(st.integers(0, 13), min_size=1, max_size=14), st.integers(0, 1), st.integers(0, 10**6),
)  # fmt: skip
def test_a_partner_is_another_item_with_the_same_prefix_wherever_there_is_one(
    versions: list[tuple[int, int]], asked: list[int], depth: int, seed: int
) -> None:
    ids = np.array([f"i{item}" for item, _ in versions], dtype=object)
    prefixes = np.array([[code] for _, code in versions], dtype=np.int32)[:, :depth]
    pool = np.unique(ids, return_index=True)[1].astype(np.int64)
    candidates = np.array([number % len(versions) for number in asked], dtype=np.int64)
    found = _partners(ids, prefixes, pool, candidates, np.random.default_rng(seed))
    for candidate, partner in zip(candidates, found, strict=True):
        fit = [
            other for other in pool
            if ids[other] != ids[candidate] and prefixes[other].tolist() == prefixes[candidate].tolist()
        ]  # fmt: skip
        assert partner in fit if fit else partner == -1


def test_every_partner_is_drawn_and_none_is_favoured() -> None:
    ids = np.array([f"i{number}" for number in range(5)], dtype=object)
    candidates = np.full(4000, 2, dtype=np.int64)
    found = _partners(ids, np.zeros((5, 0), np.int32), np.arange(5), candidates, np.random.default_rng(0))
    counts = np.bincount(found, minlength=5)
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4]] == pytest.approx(np.full(4, 1000), rel=0.15)


def ranker(representations: tuple[str, ...], **spec: Any) -> Ranker:
    """An untrained ranker on the items by hand."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.fit(DATA.rows.item_ids[:150])
    shape = ItemShape(vocabulary.size, SIZES, CONTENT_DIM, residual_levels=2)
    model = CtrModel(representations, shape, len(feature_names()), ModelSpec(dim=4, hidden=(8,), **spec)).eval()
    scaling = Scaling.fit(DATA.features, 0.5)
    config = SimpleNamespace(
        scaling=scaling, residual_levels=2, sizes=SIZES, schema=BUILT_IN, inputs=CodedInputs(), vectors="content"
    )
    return Ranker(model, vocabulary, cast("Any", config))


def test_gates_are_told_by_bucket_and_only_where_there_are_gates() -> None:
    gated = ranker(("rq_opq_gate",))
    values = gate_values(gated.model, Batches(DATA, gated.scaling, gated.vocabulary))
    curves = gate_curves(gated, DATA)
    assert values is not None
    assert curves is not None
    assert ((values >= 0) & (values <= 1)).all()
    coded = (DATA.items.codes[DATA.candidate] >= 0).all(axis=1)
    assert (values[~coded] == 1).all()
    unknown = ~np.isin(DATA.rows.item_ids, DATA.rows.item_ids[:150])
    assert (values[coded & unknown] <= 0.01 + 1e-6).all()
    assert sum(bucket.rows for bucket in curves.prior) == len(DATA)
    total = sum(bucket.mean * bucket.rows for bucket in curves.prior)
    assert total / len(DATA) == pytest.approx(values.mean())
    assert all(bucket.low <= bucket.high for bucket in curves.prior + curves.age)
    assert gate_curves(ranker(("id", "content")), DATA) is None
    assert gate_curves(ranker(("rq_opq_gate",), gate_parts="opq"), DATA) is None


@pytest.mark.parametrize(
    ("representations", "spec", "maps"),
    [
        (("id", "content"), {}, ["attention"]),
        (("id", "content"), {"history": "bidirectional"}, ["modality", "behaviour"]),
        (("id",), {"history": "mean"}, None),
    ],
)
def test_attention_examples_name_what_got_most_weight(
    representations: tuple[str, ...], spec: dict[str, str], maps: list[str] | None
) -> None:
    asked = ranker(representations, **spec)
    data = DATA.take(example_rows(DATA))
    weights, examples = attention_weights(asked, data), attention_examples(asked, data, {"i001": "<b>one"})
    if maps is None:
        assert weights is None
        assert examples is None
        return
    assert weights is not None
    assert examples is not None
    assert list(weights) == maps
    length = (data.history_items[data.history] > 0).sum(axis=1)
    for name, each in weights.items():
        assert each.sum(axis=1) == pytest.approx(np.ones(len(data)), abs=1e-5)
        for row, example in enumerate(examples):
            (told,) = [told for told in example.maps if told.name == name]
            shown = [item.weight for item in told.items]
            assert shown == sorted(each[row], reverse=True)[: min(8, length[row])]
            for item in told.items:
                assert item.title == ("<b>one" if item.id == "i001" else None)
                places = np.flatnonzero(data.items.ids[data.history_items[data.history[row]]] == item.id)
                assert item.weight in each[row][places]
            assert example.history == length[row]
            assert example.id == data.rows.item_ids[row]


def test_examples_are_clicks_of_different_users_with_some_history() -> None:
    rows = example_rows(DATA)
    data = DATA.take(rows)
    assert (data.rows.label == 1).all()
    assert len(set(data.rows.user_ids)) == len(rows) > 1
    assert ((data.history_items[data.history] > 0).sum(axis=1) >= LEAST_HISTORY).all()
    assert len(example_rows(DATA.take(np.flatnonzero(DATA.rows.label == 0)))) == 0
