"""Context of a request: values that the caller knows, such as the device, for own views and on-demand views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ranking.data.coded import as_text
from ranking.data.schema import ExtraFeature, FeatureSchema
from sidkit.core.clock import moment_us
from sidkit.core.errors import ServingError, TimeError
from sidkit.core.feature_settings import CONTEXT
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.on_demand import ServiceViews, required

_TYPES = {"number": pa.float64(), "categories": pa.list_(pa.string()), "vector": pa.list_(pa.float32())}
Context = Mapping[str, Any]
"""Name -> one value for all items, or a list (or array) with one value per item."""
Read = Callable[[Mapping[str, Sequence[Any]], int | None], dict[str, ViewRows]]


def read_context_views(
    read: Read, views: ServiceViews, user_id: str, item_ids: Sequence[str], at_us: int, context: Context
) -> dict[str, ViewRows]:
    """Read the views of a request that need more than the user's id or the item's id.

    Parameters
    ----------
    read : callable
        Reads the features of ``ctr_<codebook>_context``; see :meth:`ranking.serving.features.ServiceReader.read`.
    views : ServiceViews
        What that service needs.
    user_id, item_ids, at_us
        The request.
    context : mapping
        Further join keys and request inputs.

    Raises
    ------
    ServingError
        When a value is missing, is no list of the items' length, or has the wrong type.
    """
    if "item_id" not in views.inputs and not any(is_list(context.get(name)) for name in views.inputs):
        # The same for all items: read once.
        one: dict[str, Sequence[Any]] = {name: [context[name]] for name in views.inputs if name in context}
        rows = read(_complete(views, {**one, "user_id": [user_id]}), at_us)
        return {name: ViewRows(name, np.repeat(view.index, len(item_ids)), view.table) for name, view in rows.items()}
    keys = {**per_item(context, len(item_ids)), "user_id": [user_id] * len(item_ids), "item_id": list(item_ids)}
    return read(_complete(views, keys), at_us)


def _complete(views: ServiceViews, keys: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    for name in views.inputs:
        required(keys, name, views.names)
    return keys


def context_columns(schema: FeatureSchema, context: Context, items: int) -> dict[str, pa.Array] | None:
    """The context columns that a ranker reads, typed by their kinds; None if it reads none.

    Raises
    ------
    ServingError
        When a column is missing or has the wrong type or length; null is a missing value.
    """
    features = [each for each in schema.features if each.view == CONTEXT]
    missing = [each.column for each in features if each.column not in context]
    if missing:
        raise ServingError(
            f"expected the context {', '.join(missing)}, which the ranker reads, got {', '.join(context) or 'none'}; pass it "
            "(null if it is unknown)"
        )
    values = per_item({each.column: context[each.column] for each in features}, items)
    columns = {each.column: _column(each, values[each.column]) for each in features}
    return columns or None


def _column(feature: ExtraFeature, values: list[Any]) -> pa.Array:
    try:
        if feature.kind == "category":
            column = pa.array(values)
            return pa.nulls(len(values), pa.string()) if column.null_count == len(values) else as_text(column)
        if feature.kind == "date":
            return pa.array([None if each is None else moment_us(each) for each in values], pa.int64())
        return pa.array(values, _TYPES[feature.kind])
    except (pa.ArrowException, TypeError, ValueError, TimeError) as error:
        raise ServingError(
            f"expected the context {feature.column} of kind {feature.kind}, got {values[0]!r} ({error}); correct the value"
        ) from error


def per_item(context: Context, items: int) -> dict[str, list[Any]]:
    """Repeat each single value of a context for all items.

    Raises
    ------
    ServingError
        When a list has another length.
    """
    columns = {}
    for name, value in context.items():
        columns[name] = list(value) if is_list(value) else [value] * items
        if len(columns[name]) != items:
            raise ServingError(
                f"expected one value of the context {name}, or a list of {items}, one per item, got "
                f"{len(columns[name])} values; correct its length"
            )
    return columns


def is_list(value: Any) -> bool:
    """Whether a value of a context has one entry per item."""
    return isinstance(value, list | tuple | np.ndarray) or hasattr(value, "to_pylist")
