"""Trailing counts of a row's user with the candidate itself, or the values that it has (``features.affinity``).

They are the second read of a row: their key is the user and a value of the candidate's attribute as of the row's time. The
counts of a list of values are summed; the rate is smoothed as the built-in ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ranking.data.coded import as_text
from ranking.data.feature_views import Reader, numbers
from ranking.data.numeric_features import smoothed_rate
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import Doubles, Ints, one_chunk
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, ITEM_ID, WINDOWS
from sidkit.stores.offline.plan import ViewRows


def value_counts(
    schema: FeatureSchema,
    readers: Mapping[str, Reader],
    views: Mapping[str, ViewRows],
    user_ids: npt.NDArray[np.object_],
    item_ids: npt.NDArray[np.object_],
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
    user_ids, item_ids : object [rows]
        The users and the candidates.
    at_us : int64 [rows]
        The rows' times, microseconds UTC.
    rate : float
        The share of positives among the training rows.
    """
    columns: dict[str, Doubles] = {}
    for view, attribute in schema.by_value.items():
        pairs = _own(item_ids) if attribute == ITEM_ID else _pairs(views[ITEM_ATTRIBUTES], attribute)
        read, back = _read(readers[view], attribute, user_ids, at_us, pairs)
        row, found = pairs.row, read[view]
        for window in WINDOWS:
            exposures, clicks = (numbers(found, f"{event}_{window}")[back] for event in ("exposures", "clicks"))
            logged = _sums(row, np.isfinite(exposures).astype(np.float64), len(at_us)) > 0
            shown, clicked = (_sums(row, np.nan_to_num(each), len(at_us)) for each in (exposures, clicks))
            columns[f"{view}__exposures_{window}"] = shown
            columns[f"{view}__clicks_{window}"] = clicked
            columns[f"{view}__rate_{window}"] = smoothed_rate(np.where(logged, shown, np.nan), clicked, rate)
    return columns


def _sums(row: Ints, weights: Doubles, rows: int) -> Doubles:
    """The sum of the weights of each row's pairs, ``float64 [rows]``."""
    sums: Doubles = np.bincount(row, weights, rows).astype(np.float64)  # without pairs, NumPy counts in integers
    return sums


@dataclass(frozen=True)
class _Pairs:
    """The distinct values of rows: ``row`` and ``value`` (an index into ``names``), ``int64 [pairs]`` each."""

    row: Ints
    value: Ints
    names: npt.NDArray[np.object_]


def _own(item_ids: npt.NDArray[np.object_]) -> _Pairs:
    item, items = pd.factorize(item_ids)
    return _Pairs(np.arange(len(item_ids)), item.astype(np.int64), items)


def _pairs(view: ViewRows, attribute: str) -> _Pairs:
    stored = one_chunk(view.table.column(f"{ITEM_ATTRIBUTES}__{attribute}"))
    if pa.types.is_list(stored.type):
        lists = stored.cast(pa.list_(pa.string()))
        lengths = np.nan_to_num(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
        owner, flat = np.repeat(np.arange(len(lists)), lengths), lists.flatten()
    else:
        owner, flat = np.arange(len(stored)), as_text(stored)
    encoded = flat.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    count = max(len(names), 1)
    entry, value = np.divmod(np.unique(owner[codes >= 0] * count + codes[codes >= 0]), count)
    starts = np.searchsorted(entry, np.arange(len(stored) + 1))
    rows = np.flatnonzero(view.index >= 0)
    first = starts[view.index[rows]]
    lengths = starts[view.index[rows] + 1] - first
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return _Pairs(np.repeat(rows, lengths), value[np.repeat(first, lengths) + within], names)


def _read(
    reader: Reader, attribute: str, user_ids: npt.NDArray[np.object_], at_us: Ints, pairs: _Pairs
) -> tuple[Mapping[str, ViewRows], Ints]:
    """Read each (user, value, time) once; also the index of each pair's row in the result, ``int64 [pairs]``."""
    user, users = pd.factorize(user_ids)
    moment, moments = pd.factorize(at_us)
    shape = (max(len(users), 1), max(len(pairs.names), 1), max(len(moments), 1))
    keys = np.ravel_multi_index((user[pairs.row], pairs.value, moment[pairs.row]), shape)
    back, distinct = pd.factorize(keys)
    of_user, of_value, of_moment = np.unravel_index(distinct, shape)
    wanted = {"user_id": users[of_user], attribute: pairs.names[of_value]}
    return reader(wanted, moments[of_moment]), back
