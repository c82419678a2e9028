"""Items that are newer than a ranker get rows of its id table; scores of known items do not change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from helpers.training_builders import CONTENT_DIM, random_set, ranker_config
from ranking.data.batches import vocabulary_of
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling
from ranking.data.vocabulary import Vocabulary
from ranking.models.spec import ModelSpec
from ranking.training.ranker import Ranker, make_model
from ranking.training.reindex import Reindexed, extend, id_table, reindex
from sidkit.core.errors import FitError


def ranker_of(data: Dataset, vocabulary: Vocabulary, parts: tuple[str, ...] = ("id", "content")) -> Ranker:
    torch.manual_seed(0)
    config = ranker_config(parts, ModelSpec(dim=4, hidden=(8,)), Scaling.fit(data.features, 0.3))
    return Ranker(make_model(config, vocabulary).eval(), vocabulary, config)


def known_of(count: int, seed: int = 0) -> tuple[Ranker, np.ndarray]:
    """A ranker with so many known items, and their content."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"k{number:03d}" for number in range(count)], dtype=object)
    return ranker_of(random_set(), Vocabulary.fit(ids)), rng.normal(size=(count, CONTENT_DIM)).astype(np.float32)


NEW = np.array(["n1", "n2", "n3"], dtype=object)


def test_rows_that_follow_from_content_are_found_for_new_items() -> None:
    ranker, content = known_of(200)
    rng = np.random.default_rng(1)
    mapped, new = rng.normal(size=(CONTENT_DIM, 4)), rng.normal(size=(3, CONTENT_DIM)).astype(np.float32)
    with torch.no_grad():
        id_table(ranker).weight[2:] = torch.from_numpy((content @ mapped + 0.5).astype(np.float32))
    found = reindex(ranker, content, NEW, new)
    assert found.error < 0.05 and found.ids.tolist() == NEW.tolist()
    np.testing.assert_allclose(found.rows, new @ mapped + 0.5, atol=0.15)
    # An item without content gets none, and neither does one whose rows would be shuffled.
    bare = new.copy()
    bare[1] = 0
    assert reindex(ranker, content, NEW, bare).ids.tolist() == ["n1", "n3"]
    control = reindex(ranker, content[rng.permutation(200)], NEW, new)
    assert control.error > 0.5


def test_rows_that_content_does_not_explain_are_left_unknown() -> None:
    ranker, content = known_of(200)
    rng = np.random.default_rng(2)
    with torch.no_grad():
        table = id_table(ranker).weight
        table[2:] = table[1] + torch.from_numpy(rng.normal(size=(200, 4)).astype(np.float32))
    found = reindex(ranker, content, NEW, rng.normal(size=(3, CONTENT_DIM)).astype(np.float32))
    assert len(found.ids) == 0 and found.error == 1.0
    few, little = known_of(10)
    assert len(reindex(few, little, NEW, little[:3]).ids) == 0


def test_an_extended_ranker_scores_known_items_as_before_and_new_ones_by_their_rows() -> None:
    data = random_set(items=15)
    whole = vocabulary_of(data)
    known = Vocabulary(whole.names.slice(0, len(whole.names) - 4))
    ranker = ranker_of(data, known)
    new_ids = whole.names.slice(len(whole.names) - 4).to_numpy(zero_copy_only=False).astype(object)
    rows = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    before = ranker.score(data)
    extend(ranker, Reindexed(new_ids, rows, 0.5).table())
    assert ranker.vocabulary.size == whole.size == len(id_table(ranker).weight)
    np.testing.assert_array_equal(id_table(ranker).weight[-4:].detach().numpy(), rows)
    after = ranker.score(data)
    new_items = np.flatnonzero(np.isin(data.items.ids, new_ids))
    touched = np.isin(data.candidate, new_items) | np.isin(data.history_items[data.history], new_items).any(axis=1)
    np.testing.assert_array_equal(after[~touched], before[~touched])
    assert (after[np.isin(data.candidate, new_items)] != before[np.isin(data.candidate, new_items)]).all()
    same = ranker.score(data)
    extend(ranker, pa.table({"item_id": pa.array([], pa.string()), "row": pa.array([], pa.list_(pa.float32()))}))
    np.testing.assert_array_equal(ranker.score(data), same)


@pytest.mark.parametrize("parts", [("content",), ("id", "content")])
def test_only_a_ranker_with_plain_ids_is_reindexed(parts: tuple[str, ...]) -> None:
    data = random_set()
    ranker = ranker_of(data, vocabulary_of(data), parts)
    if "id" in parts:
        assert id_table(ranker).weight.shape[0] == ranker.vocabulary.size
        ranker.model.parts[0].strength = 1.0  # type: ignore[assignment]
    with pytest.raises(
        FitError, match="expected a neural ranker with the representation id, and without a neighbour prior"
    ):
        id_table(ranker)
    with pytest.raises(
        FitError, match='adapt it without new rows, or train one with representations = \\["id", "content"\\]'
    ):
        id_table(dataclasses)
