"""Numbers among the extra features of a row: raw values in a dataset, and the model's features of them.

A dataset holds numbers as they are, dates as their age in days at the row's time (negative in the future), and NaN for a
missing value. A model reads ``sign(x) log(1 + |x|)`` of all but shares, and a flag per feature that may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.data.feature_views import gathered
from ranking.data.schema import AGES, ExtraFeature, FeatureSchema
from sidkit.core.arrays import Doubles, Floats, Ints, one_chunk
from sidkit.core.clock import DAY_US
from sidkit.stores.offline.plan import ViewRows


def stored_numbers(
    schema: FeatureSchema,
    views: Mapping[str, ViewRows],
    context: Mapping[str, pa.Array] | None,
    at_us: Ints,
) -> dict[str, Doubles]:
    """The numbers and dates of views and context columns, ``float64 [rows]`` per feature; NaN is missing."""
    raw = raw_numbers(schema, views, context, len(at_us))
    return {each.name: as_read(each, raw[each.name], at_us) for each in schema.numbers if each.name in raw}


def as_read(feature: ExtraFeature, values: Doubles, at_us: Ints) -> Doubles:
    """A number as a dataset has it: a date is its age in days at the row's time."""
    return (at_us - values) / DAY_US if feature.kind == "date" else values


def raw_numbers(
    schema: FeatureSchema, views: Mapping[str, ViewRows], context: Mapping[str, pa.Array] | None, rows: int
) -> dict[str, Doubles]:
    """Like :func:`stored_numbers`, with dates in microseconds UTC."""
    columns = {}
    for feature in schema.numbers:
        if not feature.view or feature.of:
            continue
        view = views.get(feature.view)
        if view is not None:
            values = gathered(_doubles(one_chunk(view.table.column(feature.name))), view.index, np.nan)
        elif context is not None and feature.column in context:
            values = _doubles(context[feature.column])
        else:
            values = np.full(rows, np.nan)
        columns[feature.name] = values
    return columns


def _doubles(column: pa.Array) -> Doubles:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    doubles: Doubles = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(doubles), doubles, np.nan)


def history_ages(history_us: Ints, at_us: Ints) -> dict[str, Doubles]:
    """Days since the second and the third newest positive; NaN with fewer.

    Parameters
    ----------
    history_us : int64 [rows, length]
        Times of the history, newest first, 0 for padding (microseconds UTC).
    at_us : int64 [rows]
        Times of the rows.
    """
    ages = {}
    for place, name in enumerate(AGES, start=1):
        then = history_us[:, place] if history_us.shape[1] > place else np.zeros(len(at_us), dtype=np.int64)
        ages[name] = np.where(then > 0, np.maximum(at_us - then, 0) / DAY_US, np.nan)
    return ages


def stacked(schema: FeatureSchema, columns: Mapping[str, Doubles], rows: int) -> Floats:
    """The numeric columns of a schema, ``float32 [rows, columns]``."""
    matrix = np.empty((rows, len(schema.numbers)), dtype=np.float32)
    for at, feature in enumerate(schema.numbers):
        matrix[:, at] = columns[feature.name]
    return matrix


def number_feature_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Names of the columns of :func:`number_features`."""
    flags = tuple(f"{each.name}__missing" for each in schema.numbers if each.may_be_missing)
    return (*(each.name for each in schema.numbers), *flags)


def number_features(schema: FeatureSchema, numbers: Floats) -> Floats:
    """A model's features of raw numbers ``float32 [rows, columns]``, unscaled; missing numbers stay NaN."""
    if not schema.numbers:
        return numbers
    wide = numbers.astype(np.float64)
    logged = np.sign(wide) * np.log1p(np.abs(wide))
    is_share: npt.NDArray[np.bool_] = np.array([each.kind == "share" for each in schema.numbers])
    flagged = [at for at, each in enumerate(schema.numbers) if each.may_be_missing]
    values = np.where(is_share, wide, logged)
    return np.concatenate([values, np.isnan(numbers[:, flagged])], axis=1, dtype=np.float32)
