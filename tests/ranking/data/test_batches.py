"""Tensors of a training set: the vocabulary, the time gaps, the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import START
from helpers.training_builders import random_set
from ranking.data.batches import TIME_BUCKETS, Batches, Vocabulary, gap_bucket
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, numeric_columns

law = settings(max_examples=60, deadline=None, database=None)
MINUTE = 60_000_000
RATE = numeric_columns().index("item_rate_1d")
"""A column that a model sees as it is."""


def tensor_set(data: Dataset, vocabulary: Vocabulary | None = None) -> Batches:
    """The tensors of a set, scaled and numbered by the set itself."""
    scaling = Scaling.fit(data.features, float(data.rows.label.mean()))
    return Batches(data, scaling, vocabulary or Vocabulary.fit(data.rows.item_ids))


def objects(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


def test_the_vocabulary_keeps_zero_for_padding_and_one_for_unknown_ids() -> None:
    vocabulary = Vocabulary.fit(objects("b", "a", "c", "a"))
    assert vocabulary.numbers(objects("", "a", "b", "c", "never seen", "A")).tolist() == [0, 2, 3, 4, 1, 1]
    assert vocabulary.size == 5


@law
@given(st.lists(st.text(min_size=1, max_size=4, alphabet="abz09_é"), min_size=1, max_size=30), st.integers(1, 3))
def test_every_known_id_has_a_number_of_its_own_below_the_size(ids: list[str], least: int) -> None:
    vocabulary = Vocabulary.fit(objects(*ids), least)
    often = sorted({name for name in ids if ids.count(name) >= least})
    assert list(vocabulary.ids) == often
    assert vocabulary.numbers(objects(*often)).tolist() == list(range(2, vocabulary.size))
    rare = [name for name in ids if ids.count(name) < least]
    assert vocabulary.numbers(objects(*rare)).tolist() == [1] * len(rare)


def test_the_order_of_the_training_rows_does_not_change_the_vocabulary() -> None:
    ids = objects("d", "b", "a", "b", "c")
    assert Vocabulary.fit(ids) == Vocabulary.fit(ids[::-1])


@pytest.mark.parametrize(
    ("gap_minutes", "bucket"),
    [
        (-5.0, 0),
        (0.0, 0),
        (1.99, 0),
        (2.0, 1),
        (5.19, 1),
        (5.21, 2),
        (2 * 2.6**13 * 1.001, 14),
        (1e9, TIME_BUCKETS - 1),
    ],
)
def test_time_gaps_fall_into_the_stated_buckets(gap_minutes: float, bucket: int) -> None:
    at = torch.tensor([START])
    assert gap_bucket(at, at - int(gap_minutes * MINUTE)).tolist() == [bucket]


@law
@given(st.lists(st.integers(-(10**9), 4 * 10**15), min_size=2, max_size=20))
def test_a_longer_gap_never_has_a_smaller_bucket(gaps_us: list[int]) -> None:
    buckets = gap_bucket(torch.tensor(0), -torch.tensor(sorted(gaps_us))).tolist()
    assert buckets == sorted(buckets)
    assert buckets[0] >= 0
    assert buckets[-1] < TIME_BUCKETS


@law
@given(st.integers(1, 50), st.integers(1, 60), st.booleans())
def test_batches_hold_every_row_exactly_once(rows: int, size: int, shuffled: bool) -> None:
    data = random_set(rows)
    data.numeric[:, RATE] = np.arange(rows)
    tensors = Batches(data, Scaling(0.5, (0.0,) * data.numeric.shape[1], (0.01,) * data.numeric.shape[1]),
                        Vocabulary(()))  # fmt: skip
    generator = torch.Generator().manual_seed(3) if shuffled else None
    batches = list(tensors.batches(size, generator))
    seen = torch.cat([batch.numeric[:, RATE] for batch in batches]) * 100
    assert sorted(seen.round().int().tolist()) == list(range(rows))
    assert [len(batch.label) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    if not shuffled:
        assert seen.round().int().tolist() == list(range(rows))


def test_the_generator_decides_the_order_and_each_pass_has_another() -> None:
    tensors = tensor_set(random_set(40))

    def passes(seed: int) -> list[list[float]]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.cat([b.numeric[:, 0] for b in tensors.batches(16, generator)]).tolist() for _ in range(2)]

    assert passes(1) == passes(1)
    assert passes(1)[0] != passes(1)[1]
    assert passes(1) != passes(2)


@law
@given(st.integers(0, 10**6), st.lists(st.integers(0, 39), min_size=1, max_size=25))
def test_a_batch_holds_what_its_rows_refer_to(seed: int, chosen: list[int]) -> None:
    data = random_set(40, seed=seed)
    vocabulary = Vocabulary.fit(data.rows.item_ids[:20])
    batch = tensor_set(data, vocabulary).batch(torch.tensor(chosen))
    codes, content, index = (each.numpy() for each in (batch.items.codes, batch.items.content, batch.items.index))
    numbers = vocabulary.numbers(data.items.ids)
    for at, row in enumerate(chosen):
        places = [data.candidate[row], *data.history_items[data.history[row]]]
        for place, number in zip(places, [batch.candidate[at], *batch.history[at]], strict=True):
            assert np.array_equal(codes[number], data.items.codes[place])
            assert np.array_equal(content[number], data.items.content[place])
            assert index[number] == numbers[place]
        assert batch.mask[at].tolist() == [place != 0 for place in places[1:]]
        assert batch.label[at] == data.rows.label[row]
        gaps = (data.rows.at_us[row] - data.history_us[data.history[row]]) / MINUTE
        for gap, told, there in zip(gaps, batch.gap_bucket[at].tolist(), batch.mask[at].tolist(), strict=True):
            expected = 0 if gap < 2 else min(int(np.log(gap / 2) / np.log(2.6)) + 1, TIME_BUCKETS - 1)
            assert not there or told == expected


def test_a_batch_holds_each_item_once() -> None:
    data = random_set(50)
    batch = tensor_set(data).batch(torch.arange(50))
    used = {*data.candidate.tolist(), *data.history_items[data.history].ravel().tolist()}
    assert len(batch.items.index) == len(used)


def test_numeric_features_are_scaled_by_the_scaling_that_is_given() -> None:
    data = random_set(30)
    width = data.numeric.shape[1]
    tensors = Batches(data, Scaling(0.5, (1.0,) * width, (0.5,) * width), Vocabulary(()))
    expected = np.clip((data.features - 1) / 2, -5, 5)
    assert torch.cat([batch.numeric for batch in tensors.batches(7)]).numpy() == pytest.approx(expected, abs=1e-6)
