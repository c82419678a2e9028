"""Conversion of feature table columns for the online store: keys, times and cells; errors name the column."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import NULL_TIMESTAMP_INT_VALUE, python_values_to_proto_values

from sidkit.core.clock import MICROS, to_us
from sidkit.core.errors import ContractError, OnlineStoreError
from sidkit.stores.keys import as_declared, is_text
from sidkit.stores.offline.entity_rows import moments
from sidkit.stores.online.arrow import cells_of, entity_keys
from sidkit.stores.online.layout import Cells, kind_of
from sidkit.stores.online.protobuf import cells_of_values, plain_integers, serialized_keys

_FIRST_SECOND = to_us(datetime.min.replace(tzinfo=UTC)) // MICROS
_LAST_SECOND = to_us(datetime.max.replace(tzinfo=UTC)) // MICROS


def keys_of(part: pa.RecordBatch, view: FeatureView, version: int) -> list[bytes]:
    """Serialize the entity keys of rows, in the types declared by the view's entities.

    Raises
    ------
    ContractError
        When a key is missing or cannot be converted to its type.
    """
    source = f"source {view.batch_source.name}"
    types = {column.name: column.dtype.to_value_type().name for column in view.entity_columns}
    keyed = {name: as_declared(part.column(name), kind, source, name) for name, kind in types.items()}
    _refuse_null_keys(keyed, source)
    serialized = entity_keys(keyed, types)
    return _keys_by_feast(part, view, version) if serialized is None else serialized


def cells_of_feature(column: pa.Array, feature: Any, source: str) -> Cells:
    """Convert a feature's column to cells of its declared type.

    Raises
    ------
    ContractError
        When a value cannot be converted.
    """
    value_type = feature.dtype.to_value_type()
    try:
        cells = cells_of(column, value_type.name)
        if cells is None:
            values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
            cells = cells_of_values(values, kind_of(value_type.name))
    except (ValueError, TypeError, OverflowError, AssertionError) as error:
        raise ContractError(
            source,
            f"expected {feature.name} as {feature.dtype}, its declared type, got {column.type}, which does not convert "
            f"({error}). Declare the stored type, or write the declared one",
        ) from error
    if cells.kind in {"UNIX_TIMESTAMP", "UNIX_TIMESTAMP_LIST"} and len(cells.flat):
        assert isinstance(cells.flat, np.ndarray)
        seconds = cells.flat[cells.flat != NULL_TIMESTAMP_INT_VALUE]
        if ((seconds < _FIRST_SECOND) | (seconds > _LAST_SECOND)).any():
            raise ContractError(
                source,
                f"expected times in the years 1 to 9999 in {feature.name}, got others, which Feast cannot return",
            )
    return cells


def _refuse_null_keys(keys: dict[str, pa.Array], source: str) -> None:
    for name, column in keys.items():
        if column.null_count:
            raise ContractError(
                source,
                f"expected {name} in every row to materialize, got {column.null_count} rows without it. "
                "Remove them from the source",
            )


def _keys_by_feast(part: pa.RecordBatch, table: FeatureView, version: int) -> list[bytes]:
    names = [column.name for column in table.entity_columns]
    values = [
        python_values_to_proto_values(
            part.column(column.name).to_numpy(zero_copy_only=False), column.dtype.to_value_type()
        )
        for column in table.entity_columns
    ]
    keyed = [EntityKey(join_keys=names, entity_values=row) for row in zip(*values, strict=True)]
    return serialized_keys(keyed, version)


def moments_of(part: pa.RecordBatch, name: str | None) -> list[int | None]:
    """Convert a column of times to microseconds UTC; all None without a column name."""
    if not name:
        return [None] * part.num_rows
    column = part.column(name)
    if pa.types.is_timestamp(column.type):
        # Nanoseconds are truncated, as Feast does.
        return plain_integers(column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()))
    if pa.types.is_date(column.type):
        return plain_integers(column.cast(pa.timestamp("us")).cast(pa.int64()))
    if is_text(column.type):
        return plain_integers(moments(pd.Series(column.to_pylist(), name=name), "materialization"))
    raise ContractError(
        "materialization",
        f"expected timestamps in {name}, got {column.type}, which has no known unit. Write timestamp[us, UTC]",
    )


def event_times_of(part: pa.RecordBatch, name: str) -> list[int]:
    """Like :func:`moments_of`, for event times.

    Raises
    ------
    OnlineStoreError
        When a time is missing.
    """
    times = moments_of(part, name)
    if None in times:
        raise OnlineStoreError(f"expected an event time in every row, got none in row {times.index(None)}")
    return times  # type: ignore[return-value]
