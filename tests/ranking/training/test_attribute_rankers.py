"""Attributes through a dataset to both kinds of rankers: what depends on one is found, and a ranker keeps what it reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from helpers.training_builders import TRAINED_ON, random_set, ranker_config
from ranking.data.batches import Batches, Vocabulary, vocabulary_of
from ranking.data.coded import Coded
from ranking.data.coded_inputs import LEAST_ROWS, CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset, DiskDatasetWriter
from ranking.data.frame_rows import FrameRows
from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.schema import ExtraFeature, FeatureSchema
from ranking.data.storage import load_dataset, save_dataset
from ranking.evaluation.metrics import auc
from ranking.models.numeric_bins import binned, bins_of
from ranking.models.spec import ModelSpec
from ranking.training.gbdt import boost
from ranking.training.loop import train
from ranking.training.ranker import Ranker, make_model
from ranking.training.spec import TrainingSpec

SCHEMA = FeatureSchema(
    (
        ExtraFeature("item_attributes__brand", "category", "item_attributes", of_item=True),
        ExtraFeature("item_attributes__genres", "categories", "item_attributes", of_item=True),
        ExtraFeature("user_attributes__country", "category", "user_attributes"),
        ExtraFeature("own__vector", "vector", "own"),
        ExtraFeature("item_attributes__weight", "number", "item_attributes"),
        ExtraFeature("affinity__brand_share", "share", of="item_attributes__brand"),
    )
)
BRANDS = pa.array([None, *(f"b{number}" for number in range(6))])
GENRES = pa.array([None, ["a"], ["b", "a"], ["c"], []])
COUNTRIES = pa.array([None, "de", "fr", "jp", "nz"])
VECTORS = pa.array([None, [1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]], pa.list_(pa.float32()))


def attributed(rows: int, cause: str, seed: int = 0) -> Dataset:
    """Rows whose label depends on one feature alone."""
    rng = np.random.default_rng(seed)
    data = random_set(rows, seed=seed, items=40)
    items = len(data.items)
    attributes = np.stack([rng.permutation(np.arange(items) % 7), np.arange(items) % 5], axis=1).astype(np.int32)
    attributes[0] = 0
    coded = np.stack([rng.integers(0, 5, rows), rng.integers(0, 4, rows)], axis=1).astype(np.int32)
    numbers = np.stack([rng.normal(size=rows), rng.random(rows)], axis=1).astype(np.float32)
    numbers[rng.random(rows) < 0.2, 0] = np.nan
    effect = {
        "brand": np.where(attributes[data.candidate, 0] % 2, 1.0, -1.0),
        "genres": np.where(np.isin(attributes[data.candidate, 1], [1, 2]), 1.0, -1.0),
        "country": np.where(coded[:, 0] == 2, 1.5, -0.8),
        "vector": np.where(coded[:, 1] == 2, 1.5, -0.8),
        "weight": np.where(np.isnan(numbers[:, 0]), 1.0, -np.abs(numbers[:, 0])),
    }[cause]
    probability = 1 / (1 + np.exp(-1.5 * effect))
    label = (rng.random(rows) < probability).astype(np.int8)
    numeric = np.concatenate([np.zeros_like(data.numeric), numbers], axis=1)
    return dataclasses.replace(
        data,
        rows=dataclasses.replace(data.rows, label=label),
        numeric=numeric,
        items=dataclasses.replace(
            data.items, attributes=Coded(attributes, (BRANDS, GENRES)), content=np.zeros_like(data.items.content)
        ),
        schema=SCHEMA,
        coded=Coded(coded, (COUNTRIES, VECTORS)),
    )


def ranker_of(data: Dataset, validation: Dataset, epochs: int = 12) -> Ranker:
    scaling = Scaling.fit_chunks(data.feature_chunks(), 0.5)
    scaling = binned(scaling, data.feature_chunks(), bins_of(data.schema, 0))
    vocabulary = vocabulary_of(data)
    config = ranker_config(
        ("content",), ModelSpec(dim=4, hidden=(16,), dropout=0.0), scaling,
        numeric=feature_names(data.schema), schema=data.schema, inputs=CodedInputs.fit(data),
    )  # fmt: skip
    parts = [Batches(part, scaling, vocabulary, config.inputs) for part in (data, validation)]
    spec = TrainingSpec(epochs=epochs, batch_rows=128, learning_rate=5e-3, patience=5)
    trained = train(lambda: make_model(config, vocabulary), *parts, spec, seed=0, threads=1)
    return Ranker(trained.model, vocabulary, config)


@pytest.mark.parametrize("cause", ["brand", "genres", "country", "vector", "weight"])
def test_both_rankers_find_the_one_feature_that_matters(cause: str) -> None:
    whole = attributed(3_000, cause)
    parts = [whole.take(np.arange(start, end)) for start, end in ((0, 1_800), (1_800, 2_200), (2_200, 3_000))]
    label = parts[2].rows.label
    neural = auc(label, ranker_of(parts[0], parts[1]).score(parts[2]))
    trees = auc(label, boost(parts[0], parts[1], (parts[2],), seed=0).predictions[0])
    without = [part.narrowed(FeatureSchema()) for part in parts]
    blind = auc(label, boost(without[0], without[1], (without[2],), seed=0).predictions[0])
    assert blind < 0.6 < 0.69 < min(neural, trees), (blind, neural, trees)


def test_a_ranker_reads_the_same_after_saving_and_ignores_further_features(tmp_path: Path) -> None:
    whole = attributed(600, "brand")
    narrow = whole.narrowed(SCHEMA.select(["item_attributes__*", "user_attributes__country"]))
    assert narrow.schema.names == tuple(name for name in SCHEMA.names if name.startswith(("item_a", "user_a")))
    ranker = ranker_of(narrow, narrow, epochs=1)
    ranker.save(tmp_path / "one", {"name": "one", **TRAINED_ON.as_json()}, {})
    loaded = Ranker.load(tmp_path / "one")
    assert np.array_equal(loaded.score(whole), ranker.score(narrow))
    assert loaded.config == ranker.config
    with pytest.raises(Exception, match="item_attributes__brand.*schema=ranker.config.schema"):
        loaded.score(whole.narrowed(FeatureSchema()))


def test_an_unseen_and_a_missing_category_have_scores_of_their_own() -> None:
    data = attributed(600, "country")
    ranker = ranker_of(data, data, epochs=2)
    assert data.coded is not None
    values = (pa.array([None, "de", "fr", "jp", "atlantis"]), VECTORS)
    other = dataclasses.replace(data, coded=dataclasses.replace(data.coded, values=values))
    changed = ranker.score(other) != ranker.score(data)
    assert np.array_equal(changed, data.coded.codes[:, 0] == 4)


def test_a_saved_dataset_and_one_on_disk_hold_the_same(tmp_path: Path) -> None:
    data = attributed(300, "brand")
    save_dataset(data, tmp_path / "frame")
    loaded = load_dataset(tmp_path / "frame")
    assert loaded.schema == SCHEMA and loaded.coded is not None and data.coded is not None
    assert loaded.items.attributes is not None and loaded.items.attributes.values == (BRANDS, GENRES)
    assert np.array_equal(loaded.numeric, data.numeric, equal_nan=True)
    writer = DiskDatasetWriter(tmp_path / "rows.parquet", 100)
    writer.add(FrameRows(data.rows, data.numeric, data.candidate, data.history, data.coded.codes, SCHEMA))
    writer.close()
    disk = DiskDataset(
        tmp_path / "rows.parquet", data.history_items, data.history_us, data.items, SCHEMA, data.coded.values
    )
    assert CodedInputs.fit(disk) == CodedInputs.fit(data)
    chosen = SCHEMA.select(["user_attributes__country", "item_attributes__weight"])
    left, right = disk.narrowed(chosen).take(np.arange(300)), data.narrowed(chosen)
    assert np.array_equal(left.numeric, right.numeric, equal_nan=True)
    assert left.coded is not None and right.coded is not None and np.array_equal(left.coded.codes, right.coded.codes)
    assert left.items.attributes is None


def test_rare_categories_share_the_unknown_row() -> None:
    data = attributed(200, "brand")
    assert data.coded is not None
    codes = np.ones((200, 2), dtype=np.int32)
    codes[: LEAST_ROWS - 1, 0] = 3
    fitted = CodedInputs.fit(dataclasses.replace(data, coded=dataclasses.replace(data.coded, codes=codes)))
    country = next(each for each in fitted.features if each.name == "user_attributes__country")
    assert country.categories == ("de",)
    assert country.of_values(COUNTRIES).tolist() == [0, 2, 1, 1, 1]


def test_a_batch_has_one_tensor_per_coded_feature_items_first() -> None:
    data = attributed(50, "brand")
    inputs = CodedInputs.fit(data)
    scaling = Scaling.fit_chunks(data.feature_chunks(), 0.5)
    batch = Batches(data, scaling, Vocabulary.fit(data.items.ids), inputs).batch(torch.arange(50))
    assert [each.name for each in inputs.features] == [each.name for each in SCHEMA.coded]
    assert [tuple(each.shape) for each in batch.coded] == [(50,), (50, 2), (50,), (50, 2)]
    assert torch.isfinite(batch.numeric).all()


def test_a_feature_that_training_rows_lack_is_no_feature_of_boosting() -> None:
    data = attributed(400, "brand")
    numeric = data.numeric.copy()
    numeric[:300, -2] = np.nan
    whole = dataclasses.replace(data, numeric=numeric)
    parts = [whole.take(np.arange(start, end)) for start, end in ((0, 300), (300, 350), (350, 400))]
    assert np.isfinite(boost(parts[0], parts[1], (parts[2],), seed=0).predictions[0]).all()
