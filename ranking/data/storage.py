"""Save and load datasets: arrays in safetensors, ids and the values of coded features in Parquet, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.coded import Coded
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.feature_views import string_array
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import undo_model_features
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import one_chunk
from sidkit.core.files import folder_written_beside, read_json, remove, write_json
from sidkit.core.integrity import MANIFEST, read_verified, seal_folder

TRAIN = "train.parquet"
"""File with the training rows of a frame that is larger than memory; see :mod:`ranking.data.disk_frame`."""
NUMERIC = "numeric_columns"
"""Array with the numeric columns of a dataset."""
MODEL_FEATURES = "numeric"
"""The array that older releases wrote instead: with ``log1p`` of counts, ages, gaps and prices, which reading inverts."""
_ARRAYS, _ROWS, _ITEMS = "arrays.safetensors", "rows.parquet", "items.parquet"
_SCHEMA = "schema.json"
_CODED, _ATTRIBUTES = "coded", "attributes"
"""Arrays of the coded features of rows and of items; the values of feature n are in ``<array>-<n>.parquet``."""


def save_dataset(data: Dataset, folder: Path) -> None:
    """Write a dataset to a folder, replacing an existing one."""
    remove(folder)
    with folder_written_beside(folder) as temporary:
        write_arrays(data, temporary)
        seal_folder(temporary)


def write_arrays(data: Dataset, folder: Path) -> None:
    """Write the files of a dataset into a temporary folder, without its manifest."""
    from safetensors.numpy import save_file

    arrays: dict[str, npt.NDArray[np.generic]] = {
        NUMERIC: data.numeric,
        "candidate": data.candidate,
        "history": data.history,
        "history_items": data.history_items,
        "history_us": data.history_us,
        "codes": data.items.codes,
        "content": data.items.content,
        "at_us": data.rows.at_us,
        "label": data.rows.label,
    }
    if data.rows.clicked is not None:
        arrays["clicked"] = data.rows.clicked
    for name, coded in ((_CODED, data.coded), (_ATTRIBUTES, data.items.attributes)):
        if coded is not None:
            arrays[name] = coded.codes
            _write_values(folder, name, coded)
    if data.schema:
        write_json(folder / _SCHEMA, data.schema.as_json())
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)
    rows = {"user_id": pa.array(data.rows.user_ids), "item_id": pa.array(data.rows.item_ids)}
    if data.rows.request_ids is not None:
        rows["request_id"] = pa.array(data.rows.request_ids)
    if data.rows.had_before is not None:
        rows["had_before"] = pa.array(data.rows.had_before)
    pq.write_table(pa.table(rows), folder / _ROWS, compression="zstd")
    pq.write_table(pa.table({"item_id": pa.array(data.items.ids)}), folder / _ITEMS, compression="zstd")


def load_dataset(folder: Path) -> Dataset:
    """Read a dataset written by :func:`save_dataset`; of a frame with a training part on disk, the other rows.

    Raises
    ------
    ArtifactCorruptError
        When a file is missing or damaged.
    """
    from safetensors.numpy import load_file

    read_verified(folder / MANIFEST)
    arrays = load_file(folder / _ARRAYS)
    rows = pq.read_table(folder / _ROWS)
    names = set(rows.column_names)
    schema = FeatureSchema.of_json(read_json(folder / _SCHEMA)) if (folder / _SCHEMA).exists() else FeatureSchema()
    return Dataset(
        rows=LabelledRows(
            string_array(rows.column("user_id")),
            string_array(rows.column("item_id")),
            arrays["at_us"],
            arrays["label"],
            string_array(rows.column("request_id")) if "request_id" in names else None,
            rows.column("had_before").to_numpy() if "had_before" in names else None,
            clicked=arrays.get("clicked"),
        ),
        numeric=arrays[NUMERIC] if NUMERIC in arrays else undo_model_features(arrays[MODEL_FEATURES]),
        candidate=arrays["candidate"],
        history=arrays["history"],
        history_items=arrays["history_items"],
        history_us=arrays["history_us"],
        items=ItemTable(
            string_array(pq.read_table(folder / _ITEMS).column("item_id")),
            arrays["codes"],
            arrays["content"],
            _read_coded(folder, _ATTRIBUTES, arrays),
        ),
        schema=schema,
        coded=_read_coded(folder, _CODED, arrays),
    )


def _write_values(folder: Path, name: str, coded: Coded) -> None:
    for at, values in enumerate(coded.values):
        pq.write_table(pa.table({"value": values}), folder / f"{name}-{at}.parquet", compression="zstd")


def _read_coded(folder: Path, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Coded | None:
    if name not in arrays:
        return None
    files = [folder / f"{name}-{at}.parquet" for at in range(arrays[name].shape[1])]
    return Coded(arrays[name], tuple(one_chunk(pq.read_table(file).column("value")) for file in files))
