"""Frames of older releases, which hold the model's features instead of the raw columns, are read as if saved today."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from helpers.builders import reseal
from helpers.training_builders import random_set
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset, DiskDatasetWriter
from ranking.data.frame_rows import FrameRows
from ranking.data.numeric_features import feature_names, model_features, numeric_columns
from ranking.data.storage import MODEL_FEATURES, NUMERIC, load_dataset, save_dataset


def counted(rows: int) -> Dataset:
    """Rows whose numeric columns are whole numbers, as counts are."""
    data = random_set(rows)
    numeric = np.random.default_rng(1).integers(0, 5_000, data.numeric.shape).astype(np.float32)
    return dataclasses.replace(data, numeric=numeric)


def test_a_frame_of_an_older_release_is_read_as_if_it_were_saved_today(tmp_path: Path) -> None:
    data, folder = counted(60), tmp_path / "frame"
    save_dataset(data, folder)
    arrays = load_file(folder / "arrays.safetensors")
    arrays[MODEL_FEATURES] = model_features(arrays.pop(NUMERIC))
    save_file(arrays, folder / "arrays.safetensors")
    reseal(folder / "arrays.safetensors")
    older = load_dataset(folder)
    np.testing.assert_allclose(older.numeric, data.numeric, rtol=2e-6)
    np.testing.assert_allclose(older.features, data.features, atol=1e-6)
    np.testing.assert_array_equal(older.candidate, data.candidate)


def test_training_rows_of_an_older_release_are_read_as_if_they_were_saved_today(tmp_path: Path) -> None:
    data, path = counted(60), tmp_path / "train.parquet"
    writer = DiskDatasetWriter(path, 25)
    writer.add(FrameRows(data.rows, data.numeric, data.candidate, data.history))
    writer.close()
    table = pq.read_table(path)
    features = dict(zip(feature_names(), model_features(data.numeric).T, strict=True))
    older = table.drop_columns(list(numeric_columns()))
    for name, values in features.items():
        older = older.append_column(name, pa.array(np.ascontiguousarray(values)))
    pq.write_table(older, tmp_path / "older.parquet", row_group_size=25)
    saved, read = (
        DiskDataset(tmp_path / name, data.history_items, data.history_us, data.items)
        for name in ("train.parquet", "older.parquet")
    )
    assert list(saved.rows(1).numeric[:, 0]) == list(data.numeric[25:50, 0])
    for ours, theirs in zip(saved.chunks(), read.chunks(), strict=True):
        np.testing.assert_allclose(theirs.numeric, ours.numeric, rtol=2e-6)
    for ours, theirs in zip(saved.feature_chunks(), read.feature_chunks(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)
