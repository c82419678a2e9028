"""Trailing counts of a row's user with the values that its candidate has (``features.affinity``).

They are the second read of a row: their key is the user and a value of the candidate's attribute as of the row's time. The
counts of a list of values are summed; the rate is smoothed as the built-in ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ranking.data.coded import as_text
from ranking.data.feature_views import Reader, numbers
from ranking.data.numeric_features import SMOOTHING, WINDOWS
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import Doubles, Ints, one_chunk
from sidkit.core.feature_settings import ITEM_ATTRIBUTES
from sidkit.stores.offline.plan import ViewRows


def value_counts(
    schema: FeatureSchema,
    readers: Mapping[str, Reader],
    views: Mapping[str, ViewRows],
    user_ids: npt.NDArray[np.object_],
    at_us: Ints,
    rate: float,
) -> dict[str, Doubles]:
    """The counts and rates of rows per window, ``float64 [rows]`` each; 0 or ``rate`` where nothing was counted.

    Parameters
    ----------
    schema : FeatureSchema
        Its features with a view and an attribute (``of``) are computed.
    readers : mapping
        View -> reader of that view by ``user_id`` and the attribute.
    views : mapping
        The rows' other views, ``item_attributes`` among them.
    user_ids : object [rows]
        The users.
    at_us : int64 [rows]
        The rows' times, microseconds UTC.
    rate : float
        The share of positives among the training rows.
    """
    columns = {}
    for view, attribute in schema.by_value.items():
        row, value, names = _values(views[ITEM_ATTRIBUTES], attribute)
        found, back = _read(
            readers[view], view, attribute.removeprefix(f"{ITEM_ATTRIBUTES}__"), user_ids, at_us, row, value, names
        )
        for window in WINDOWS:
            exposures, clicks = (numbers(found, f"{event}_{window}")[back] for event in ("exposures", "clicks"))
            logged = np.bincount(row, np.isfinite(exposures), len(at_us)) > 0
            shown, clicked = (np.bincount(row, np.nan_to_num(each), len(at_us)) for each in (exposures, clicks))
            smoothed = (clicked + SMOOTHING * rate) / (np.maximum(shown, clicked) + SMOOTHING)
            columns[f"{view}__exposures_{window}"] = shown
            columns[f"{view}__clicks_{window}"] = clicked
            columns[f"{view}__rate_{window}"] = np.where(logged, smoothed, rate)
    return columns


def _values(view: ViewRows, column: str) -> tuple[Ints, Ints, npt.NDArray[np.object_]]:
    """The distinct values of rows: row and index of the value, ``int64 [pairs]`` each, and the values."""
    stored = one_chunk(view.table.column(column))
    if pa.types.is_list(stored.type):
        lists = stored.cast(pa.list_(pa.string()))
        lengths = np.nan_to_num(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
        owner, flat = np.repeat(np.arange(len(lists)), lengths), lists.flatten()
    else:
        owner, flat = np.arange(len(stored)), as_text(stored)
    encoded = flat.dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    pairs = np.unique(owner[codes >= 0] * len(names) + codes[codes >= 0])
    entry, value = pairs // max(len(names), 1), pairs % max(len(names), 1)
    starts = np.searchsorted(entry, np.arange(len(stored) + 1))
    rows = np.flatnonzero(view.index >= 0)
    first = starts[view.index[rows]]
    counts = starts[view.index[rows] + 1] - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), value[np.repeat(first, counts) + within], names


def _read(
    reader: Reader,
    view: str,
    key: str,
    user_ids: npt.NDArray[np.object_],
    at_us: Ints,
    row: Ints,
    value: Ints,
    names: npt.NDArray[np.object_],
) -> tuple[ViewRows, Ints]:
    """Read the distinct (user, value, time) of pairs once; also the index of each pair's answer, ``int64 [pairs]``."""
    user, users = pd.factorize(user_ids)
    moment, moments = pd.factorize(at_us)
    keys = (user[row] * max(len(names), 1) + value) * max(len(moments), 1) + moment[row]
    distinct, back = np.unique(keys, return_inverse=True)
    pair, when = distinct // max(len(moments), 1), distinct % max(len(moments), 1)
    wanted = {"user_id": users[pair // max(len(names), 1)], key: names[pair % max(len(names), 1)]}
    return reader(wanted, moments[when])[view], back.ravel()
