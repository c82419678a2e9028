"""Retrieved features, view by view, in the same form offline and online.

Offline, the views come from the kit's as-of store (an index per row and the distinct feature rows), or as plain columns
from the ``get_historical_features`` of any other store. Online, they come from ``get_online_features``. All later code is
shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from sidkit.core.arrays import Doubles, Ints, one_chunk
from sidkit.stores.offline.plan import ViewRows

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

Reader = Callable[[Mapping[str, npt.NDArray[np.object_]], Ints], dict[str, ViewRows]]

CONTENT, SID, ITEM_STATS, USER_HISTORY, USER_STATS = (
    "item_content",
    "item_sid",
    "item_stats",
    "user_history",
    "user_stats",
)


def historical_reader(store: FeatureStore, service: FeatureService, join_keys: Sequence[str]) -> Reader:
    """Build a function that maps keys and times to point-in-time features.

    Parameters
    ----------
    store, service
        The feature store, and the feature service to retrieve.
    join_keys : sequence of str
        Join keys of the rows; all are strings.

    Returns
    -------
    callable
        ``(keys, at_us)`` -> view name (or its alias in the service) -> rows. Keys map join key -> ``object [rows]`` of
        strings, times are ``int64 [rows]`` microseconds UTC; columns have Feast's full names. The kit's as-of store reads
        each feature table only once for all calls.
    """
    from sidkit.stores.offline.retrieve import retrieve, streams_from

    if streams_from(store):
        moment = pa.field("event_timestamp", pa.timestamp("us", "UTC"))
        entity_rows = pa.schema([*(pa.field(key, pa.string()) for key in join_keys), moment]).empty_table()
        join = retrieve(store, entity_rows, service, full_feature_names=True).job.join

        def look_up(keys: Mapping[str, npt.NDArray[np.object_]], at_us: Ints) -> dict[str, ViewRows]:
            columns = {key: pa.array(keys[key], pa.string()) for key in join.keys}
            return {view.name: view for view in join.views(columns, pa.array(at_us))}

        return look_up

    def look_up_with_feast(keys: Mapping[str, npt.NDArray[np.object_]], at_us: Ints) -> dict[str, ViewRows]:
        # Other stores return plain columns in any order; a row number restores it.
        entities = pd.DataFrame({**keys, "event_timestamp": pd.to_datetime(at_us, unit="us", utc=True).as_unit("us")})
        entities["__row"] = np.arange(len(entities))
        job = store.get_historical_features(entities, features=service, full_feature_names=True)
        return plain_views(job.to_arrow().sort_by("__row"), service)

    return look_up_with_feast


def historical_views(
    store: FeatureStore, service: FeatureService, keys: Mapping[str, npt.NDArray[np.object_]], at_us: Ints
) -> dict[str, ViewRows]:
    """Point-in-time features of some rows; see :func:`historical_reader` for repeated calls."""
    return historical_reader(store, service, list(keys))(keys, at_us)


def plain_views(table: pa.Table, service: FeatureService) -> dict[str, ViewRows]:
    """Split a table with one row per entity row into views, casting columns to the declared feature types.

    A store may widen a type (online, lists of float32 are returned as float64) or lose it (a column of nulls).
    """
    from feast.types import from_feast_to_pyarrow_type

    views = {}
    for projection in service.feature_view_projections:
        name = projection.name_to_use()
        columns, names = [], []
        seen = np.zeros(len(table), dtype=bool)
        for feature in projection.features:
            column = table.column(f"{name}__{feature.name}").cast(from_feast_to_pyarrow_type(feature.dtype), safe=False)
            seen |= column.is_valid().to_numpy()
            columns.append(column)
            names.append(f"{name}__{feature.name}")
        views[name] = ViewRows(name, np.where(seen, np.arange(len(table)), -1), pa.table(columns, names=names))
    return views


def numbers(view: ViewRows, column: str) -> Doubles:
    """A numeric column as ``float64 [rows]``; NaN where null or where the view has no row."""
    values = one_chunk(view.table.column(f"{view.name}__{column}"))
    distinct = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return gathered(distinct, view.index, np.nan)


def gathered(distinct: npt.NDArray[Any], index: Ints, missing: Any) -> npt.NDArray[Any]:
    """``distinct[index]`` with ``missing`` where the index is -1."""
    if len(distinct) == 0:
        return np.full((len(index), *distinct.shape[1:]), missing, dtype=distinct.dtype)
    taken = distinct[np.maximum(index, 0)]
    taken[index < 0] = missing
    return taken


def string_array(values: Sequence[str] | pa.Array | pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Strings as an object array in which equal values share one Python object; None where null."""
    encoded = pa.array(values) if not isinstance(values, pa.Array | pa.ChunkedArray) else values
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    dictionary = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    if isinstance(dictionary, pa.ChunkedArray):
        dictionary = dictionary.unify_dictionaries().combine_chunks()
    names = np.array([*dictionary.dictionary.to_pylist(), None], dtype=object)
    places = dictionary.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
    taken: npt.NDArray[np.object_] = names[places]
    return taken
