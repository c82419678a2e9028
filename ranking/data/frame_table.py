"""The features of a dataset as an Arrow table: one row per row, with the columns that a ranker reads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_columns
from sidkit.core.arrays import Bools, Ints

CODES, VECTOR = "item_sid__codes", "item_vector"
HISTORY_ITEMS, HISTORY_TIMES, HISTORY_CODES = (
    "user_history__item_ids",
    "user_history__timestamps_us",
    "user_history__codes",
)


def frame_table(data: Dataset) -> pa.Table:
    """The features of rows as columns.

    Returns
    -------
    pyarrow.Table
        The columns of :func:`ranking.data.numeric_features.numeric_columns` (float32, null where missing); the coded features
        of the schema by their names (text, lists of text, or lists of float32); ``item_sid__codes`` (list of int32, null
        without codes); ``item_vector`` (list of float32, the vector that the ranker reads); and of the history, newest first,
        ``user_history__item_ids``, ``user_history__timestamps_us`` (microseconds UTC) and ``user_history__codes``.
    """
    columns: dict[str, pa.Array] = {
        name: pa.array(np.ascontiguousarray(column), pa.float32(), from_pandas=True)
        for name, column in zip(numeric_columns(data.schema), data.numeric.T, strict=True)
    }
    for feature, values, codes in data.coded_columns():
        columns[feature.name] = values.take(pa.array(codes))
    items, place = np.unique(data.candidate, return_inverse=True)
    at = pa.array(place)
    columns[CODES] = _codes(data.items.codes[items]).take(at)
    columns[VECTOR] = _lists(data.items.content[items].astype(np.float32)).take(at)
    return pa.table(columns | _histories(data))


def _histories(data: Dataset) -> dict[str, pa.Array]:
    used, place = np.unique(data.history, return_inverse=True)
    items, times_us = data.history_items[used], data.history_us[used]
    filled = items != 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32))
    flat, at = items[filled], pa.array(place)
    lists = {
        HISTORY_ITEMS: pa.array(data.items.ids[flat].tolist(), pa.string()),
        HISTORY_TIMES: pa.array(times_us[filled], pa.int64()),
        HISTORY_CODES: _codes(data.items.codes[flat]),
    }
    return {name: pa.ListArray.from_arrays(offsets, values).take(at) for name, values in lists.items()}


def _codes(codes: npt.NDArray[np.int32]) -> pa.Array:
    """Codes ``int32 [rows, levels]`` as lists; null where all are -1."""
    missing: Bools = np.all(codes < 0, axis=1)
    return _lists(codes, missing)


def _lists(rows: npt.NDArray[np.number], missing: Bools | None = None) -> pa.Array:
    """The rows of a matrix as lists; null where ``missing``."""
    offsets: Ints = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
    mask = None if missing is None or not len(rows) else pa.array(missing)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(rows.ravel()), mask=mask)
