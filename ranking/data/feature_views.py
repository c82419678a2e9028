"""Retrieved features, view by view, in the same form offline and online.

Offline, the views come from the kit's as-of store (an index per row and the distinct feature rows), or as plain columns
from the ``get_historical_features`` of any other store. Online, they come from ``get_online_features``. All later code is
shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from sidkit.core.arrays import Doubles, Ints, one_chunk
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.on_demand import ServiceViews, Values, array_of, required

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

Reader = Callable[[Mapping[str, Values], Ints], dict[str, ViewRows]]

CONTENT, SID, ITEM_STATS, USER_HISTORY, USER_STATS = (
    "item_content",
    "item_sid",
    "item_stats",
    "user_history",
    "user_stats",
)


def historical_reader(store: FeatureStore, service: FeatureService, read_at_us: int | None = None) -> Reader:
    """Build a function that maps keys and times to point-in-time features.

    Parameters
    ----------
    store, service
        The feature store, and the feature service to retrieve; on-demand views are computed by the functions in their
        definitions.
    read_at_us : int, optional
        Read the stored features of all rows as of this time, microseconds UTC, such as the end of a materialization; default:
        as of each row's own time. Request input ``at_us`` is the row's time in either case.

    Returns
    -------
    callable
        ``(keys, at_us)`` -> view name (or its alias in the service) -> rows. Keys map join key or request input -> values, one
        per row, as a NumPy or Arrow array (``user_id`` and ``item_id`` are strings); others are ignored. Times are ``int64
        [rows]`` microseconds UTC, and also the request input ``at_us``. Columns have Feast's full names. The kit's as-of store
        reads each feature table only once for all calls. A missing key or request input raises a ``ServingError``.
    """
    from sidkit.stores.offline.retrieve import joins_on_spark, retrieve, streams_from

    views = ServiceViews.of(store, service)
    if streams_from(store) and views.local:
        fields = {key: pa.string() for key in views.keys} | views.request
        moment = pa.field("event_timestamp", pa.timestamp("us", "UTC"))
        entity_rows = pa.schema([*fields.items(), moment]).empty_table()
        job = retrieve(store, entity_rows, service, full_feature_names=True).job

        def look_up(keys: Mapping[str, Values], at_us: Ints) -> dict[str, ViewRows]:
            columns = {key: _key(required(keys, key, views.names)) for key in job.keys}
            read_us = pa.array(_read_times(at_us, read_at_us))
            found = job.join_for(read_us).views(columns, read_us)
            return views.completed({view.name: view for view in found}, keys, at_us)

        return look_up

    def look_up_with_feast(keys: Mapping[str, Values], at_us: Ints) -> dict[str, ViewRows]:
        # Other stores return plain columns in any order; a row number restores it.
        given = {key: _key(required(keys, key, views.names)).to_pandas() for key in views.keys}
        given |= {name: column.to_pandas() for name, column in views.columns(keys, at_us).items()}
        read_us = _read_times(at_us, read_at_us)
        entities = pd.DataFrame(
            {**given, "event_timestamp": pd.to_datetime(read_us, unit="us", utc=True).as_unit("us")}
        )
        entities["__row"] = np.arange(len(entities))
        job = store.get_historical_features(entities, features=service, full_feature_names=True)
        return plain_views(job.to_arrow().sort_by("__row"), service.feature_view_projections)

    if joins_on_spark(store):
        return _SparkReader(store, service, views, read_at_us, look_up_with_feast)
    return look_up_with_feast


@dataclass(frozen=True)
class _SparkReader:
    """Reads the views of a service on Spark; see :func:`historical_reader`."""

    store: FeatureStore
    service: FeatureService
    views: ServiceViews
    read_at_us: int | None
    of_none: Reader
    """Reads no rows."""
    rows_at_once: int = 2_000_000
    """Each read of Spark sorts whole tables, however few rows it is for."""

    def __call__(self, keys: Mapping[str, Values], at_us: Ints) -> dict[str, ViewRows]:
        from sidkit.stores.spark_offline import spark_views

        if len(at_us) == 0:
            return self.of_none(keys, at_us)
        wanted = self.views
        given = {key: _key(required(keys, key, wanted.names)) for key in wanted.keys} | wanted.columns(keys, at_us)
        read_us = pa.array(_read_times(at_us, self.read_at_us)).cast(pa.timestamp("us", "UTC"))
        found = spark_views(self.store, self.service, pa.table({**given, "event_timestamp": read_us}))
        stored = {}
        for view in wanted.stored:
            rows = found[view.projection.name_to_use()]
            stored[rows.name] = ViewRows(rows.name, rows.index, _declared(rows.table, view.projection, rows.name))
        return wanted.completed(stored, keys, at_us)


def _read_times(at_us: Ints, read_at_us: int | None) -> Ints:
    return at_us if read_at_us is None else np.full_like(at_us, read_at_us)


def built_in_views(
    store: FeatureStore, service_name: str, keys: Mapping[str, Values], at_us: Ints
) -> dict[str, ViewRows]:
    """Point-in-time views of some rows (``user_id``, ``item_id``) that need no context: the user's and the item's."""
    from sidkit.stores.feast_repo import feature_service

    parts = (feature_service(store, f"{service_name}_{part}") for part in ("item", "user"))
    return {name: view for part in parts for name, view in historical_reader(store, part)(keys, at_us).items()}


def _key(values: Values) -> pa.Array:
    """A join key of rows; objects are strings."""
    is_object = isinstance(values, np.ndarray) and values.dtype == object
    return array_of(values, pa.string() if is_object else None)


def plain_views(table: pa.Table, projections: Iterable[Any], *, aliased: bool = True) -> dict[str, ViewRows]:
    """Split a table with one row per entity row into views, casting columns to the declared feature types.

    A store may widen a type (online, lists of float32 are returned as float64) or lose it (a column of nulls).

    Parameters
    ----------
    table : pyarrow.Table
        Features by their full names.
    projections : iterable of FeatureViewProjection
        The views of a feature service.
    aliased : bool
        Whether full names begin with a view's alias in the service, if it has one; else they begin with its name.
    """
    views = {}
    for projection in projections:
        name = projection.name_to_use()
        rows = _declared(table, projection, name if aliased else projection.name)
        seen = np.zeros(len(table), dtype=bool)
        for column in rows.columns:
            seen |= column.is_valid().to_numpy()
        views[name] = ViewRows(name, np.where(seen, np.arange(len(table)), -1), rows)
    return views


def _declared(table: pa.Table, projection: Any, prefix: str) -> pa.Table:
    """The features of a view by their full names, in their declared types; in the table, names begin with ``prefix``."""
    from feast.types import from_feast_to_pyarrow_type

    return pa.table(
        {
            f"{projection.name_to_use()}__{feature.name}": table.column(f"{prefix}__{feature.name}").cast(
                from_feast_to_pyarrow_type(feature.dtype), safe=False
            )
            for feature in projection.features
        }
    )


def numbers(view: ViewRows, column: str) -> Doubles:
    """A numeric column as ``float64 [rows]``; NaN where null or where the view has no row."""
    return gathered(_doubles(one_chunk(view.table.column(f"{view.name}__{column}"))), view.index, np.nan)


def _doubles(values: pa.Array) -> Doubles:
    is_plain = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if is_plain and values.null_count == 0:  # a cast by Arrow takes longer than all else for the rows of a request
        plain: Doubles = values.to_numpy().astype(np.float64)
        return plain
    cast: Doubles = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return cast


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
