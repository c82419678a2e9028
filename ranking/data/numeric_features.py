"""Numeric features of a row, computed by the same function for training and serving.

A dataset holds raw counts, rates smoothed towards the training rate, and ages and gaps in days. What the log does not
contain (null) is 0 for every row. A model's input is the ``log1p`` of counts, ages, gaps and prices
(:func:`model_features`), then standardised (:class:`Scaling`). Numbers of a schema follow the built-in ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ranking.data.extra_numbers import number_feature_names, number_features
from ranking.data.feature_views import CONTENT, ITEM_STATS, USER_HISTORY, USER_STATS, gathered, numbers
from ranking.data.schema import BUILT_IN, FeatureSchema
from sidkit.core.arrays import Doubles, Floats, Ints, one_chunk
from sidkit.core.clock import DAY_US
from sidkit.core.feature_settings import WINDOWS
from sidkit.stores.offline.plan import ViewRows

_FEW_ROWS = 10_000
SMOOTHING = 10.0
"""Weight of the training rate in a smoothed rate, in exposures."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance (of the population) of each column, ``float64 [columns]``, over its rows that are not NaN: so many,
    ``int64 [columns]``."""

    rows: Ints
    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]

    @classmethod
    def of(cls, chunks: Iterable[npt.NDArray[np.float32]]) -> Self:
        """Of all rows ``[rows, columns]`` of some chunks, joined pair by pair as Chan, Golub and LeVeque (1983) do.

        One chunk gives NumPy's own mean and variance; cut otherwise, a result differs by the rounding of float64, some
        1e-13 of the column's largest value.
        """
        return functools.reduce(cls._joined, (cls._of_one(chunk) for chunk in chunks if len(chunk)))

    @classmethod
    def _of_one(cls, chunk: npt.NDArray[np.float32]) -> Self:
        rows = np.full(chunk.shape[1], len(chunk), dtype=np.int64)
        mean, variance = chunk.mean(axis=0, dtype=np.float64), chunk.var(axis=0, dtype=np.float64)
        for column in np.flatnonzero(np.isnan(mean)):
            known = chunk[np.isfinite(chunk[:, column]), column].astype(np.float64)
            rows[column] = len(known)
            mean[column], variance[column] = (known.mean(), known.var()) if len(known) else (0.0, 0.0)
        return cls(rows, mean, variance)

    def _joined(self, other: Self) -> Self:
        rows = self.rows + other.rows
        share, apart = other.rows / np.maximum(rows, 1), other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * apart**2
        return type(self)(rows, self.mean + share * apart, variance)


@dataclass(frozen=True)
class Scaling:
    """Centre and scale of the numeric features, from the training rows; and the training rate of positives.

    ``edges`` are those of each feature's bins, in scaled units (none: no bins); see :mod:`ranking.models.numeric_bins`.
    """

    rate: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    edges: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def fit(cls, features: Floats, rate: float) -> Self:
        """Fit on ``float32 [rows, features]``; a constant feature is scaled to 0."""
        return cls.fit_chunks([features], rate)

    @classmethod
    def fit_chunks(cls, chunks: Iterable[Floats], rate: float) -> Self:
        """The same from rows that come some at a time; how they are cut moves a mean or a deviation by its rounding."""
        moments = Moments.of(chunks)
        deviation = np.sqrt(moments.variance)
        scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
        return cls(rate, tuple(moments.mean.tolist()), tuple(scale.tolist()))

    def apply(self, features: Floats) -> Floats:
        """Standardised features, cut off at 5 deviations; a missing one (NaN) is at its mean."""
        scaled = (features - np.asarray(self.mean, np.float32)) * np.asarray(self.scale, np.float32)
        clipped: Floats = np.nan_to_num(np.clip(scaled, -5, 5), copy=False)
        return clipped


def age_days(at_us: Ints, since_us: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Days from a time to the row's time, at least 0; NaN if the time is unknown."""
    days: npt.NDArray[np.float64] = np.maximum(at_us - since_us, 0.0) / DAY_US
    return days


def feature_names(schema: FeatureSchema = BUILT_IN) -> tuple[str, ...]:
    """Names of the model's features: the built-in ones in the order of :func:`numeric_columns`, then those of
    :func:`ranking.data.extra_numbers.number_feature_names`; rankers record them.
    """
    return (*_built_in_names(), *number_feature_names(schema))


@functools.cache
def _built_in_names() -> tuple[str, ...]:
    names = []
    for side in ("item", "user"):
        for window in WINDOWS:
            names += [f"{side}_log_exposures_{window}", f"{side}_log_clicks_{window}", f"{side}_rate_{window}"]
    names += [f"item_log_conversions_{window}" for window in WINDOWS]
    names += ["item_log_age_days", "item_without_content", "item_log_price"]
    return (*names, "history_length", "history_log_gap_days", "history_log_span_days", "item_in_history")


def numeric_columns(schema: FeatureSchema = BUILT_IN) -> tuple[str, ...]:
    """Names of the numeric columns of a dataset: those of :func:`numeric_features`, then the numbers of the schema."""
    return (*_built_in_columns(), *(each.name for each in schema.numbers))


@functools.cache
def _built_in_columns() -> tuple[str, ...]:
    return tuple(name.replace("_log_", "_") for name in _built_in_names())


@functools.cache
def logged_columns() -> tuple[int, ...]:
    """Indices of the columns of which a model's feature is the ``log1p``: counts, ages, gaps and prices."""
    names = zip(_built_in_names(), _built_in_columns(), strict=True)
    return tuple(at for at, (feature, column) in enumerate(names) if feature != column or column == "history_length")


def numeric_column(numeric: Floats, name: str) -> Floats:
    """One of the built-in columns by its name in :func:`numeric_columns`."""
    column: Floats = numeric[:, _built_in_columns().index(name)]
    return column


def model_features(numeric: Floats, schema: FeatureSchema = BUILT_IN) -> Floats:
    """A model's features, unscaled, of the numeric columns ``float32 [rows, columns]`` of a dataset; NaN where missing."""
    built_in = len(_built_in_columns())
    features = numeric[:, :built_in].copy()
    if len(numeric) <= _FEW_ROWS:  # of a request: one call costs less than one per column
        logged = list(logged_columns())
        features[:, logged] = np.log1p(numeric[:, logged], dtype=np.float64)
    else:
        for at in logged_columns():
            features[:, at] = np.log1p(numeric[:, at], dtype=np.float64)
    if not schema.numbers:
        return features
    return np.concatenate([features, number_features(schema, numeric[:, built_in:])], axis=1)


def undo_model_features(features: Floats) -> Floats:
    """Invert :func:`model_features`, for frames of older releases, which contain the features.

    Counts up to some hundred thousand are restored exactly, ages, gaps and prices to seven digits.
    """
    numeric = features.copy()
    for at in logged_columns():
        name, raw = numeric_columns()[at], np.expm1(features[:, at], dtype=np.float64)
        whole = name == "history_length" or any(kind in name for kind in ("_exposures_", "_clicks_", "_conversions_"))
        numeric[:, at] = np.rint(raw) if whole else raw
    return numeric


def numeric_features(
    views: Mapping[str, ViewRows], item_ids: npt.NDArray[np.object_], at_us: Ints, rate: float
) -> Floats:
    """Compute the numeric columns of rows, ``float32 [rows, len(numeric_columns())]``.

    Parameters
    ----------
    views : mapping
        The five views of the rows.
    item_ids : object [rows]
        The candidates.
    at_us : int64 [rows]
        The rows' times, microseconds UTC.
    rate : float
        The share of positives among the training rows.
    """
    columns: list[npt.NDArray[np.float64]] = []
    for side in (ITEM_STATS, USER_STATS):
        for window in WINDOWS:
            exposures, clicks = _count(views[side], f"exposures_{window}"), _count(views[side], f"clicks_{window}")
            columns += [exposures, clicks, trailing_rate(views[side], window, rate)]
    columns += [_count(views[ITEM_STATS], f"conversions_{window}") for window in WINDOWS]
    age = age_days(at_us, numbers(views[CONTENT], "created_at_us"))
    price = numbers(views[CONTENT], "price")
    columns += [
        np.nan_to_num(age),
        np.isnan(age).astype(float),
        np.maximum(np.nan_to_num(price), 0),
    ]
    columns += _history_features(views[USER_HISTORY], item_ids, at_us)
    return np.stack(columns, axis=1).astype(np.float32)


def trailing_rate(view: ViewRows, window: str, towards: float | Doubles) -> Doubles:
    """The click rate of a window of a view of counts (:func:`smoothed_rate`), ``float64 [rows]``."""
    return smoothed_rate(numbers(view, f"exposures_{window}"), numbers(view, f"clicks_{window}"), towards)


def smoothed_rate(exposures: Doubles, clicks: Doubles, towards: float | Doubles) -> Doubles:
    """``(clicks + 10 towards) / (max(exposures, clicks) + 10)``; ``towards`` where the exposures are unknown (NaN)."""
    clicked = _filled(clicks)
    shown = np.maximum(_filled(exposures), clicked)
    return np.where(np.isfinite(exposures), (clicked + SMOOTHING * towards) / (shown + SMOOTHING), towards)


def _count(view: ViewRows, column: str) -> npt.NDArray[np.float64]:
    return _filled(numbers(view, column))


def _filled(counts: Doubles) -> Doubles:
    """Counts with 0 where they are unknown; they are finite otherwise, which is what ``nan_to_num`` spends its time on."""
    return np.where(np.isnan(counts), 0.0, counts)


def _history_features(view: ViewRows, item_ids: npt.NDArray[np.object_], at_us: Ints) -> list[npt.NDArray[np.float64]]:
    moments = one_chunk(view.table.column(f"{view.name}__timestamps_us"))
    items = one_chunk(view.table.column(f"{view.name}__item_ids"))
    offsets = moments.offsets.to_numpy()
    lengths = np.diff(offsets)
    flat = moments.flatten().to_numpy().astype(np.float64) if len(moments) else np.zeros(0)
    filled = lengths > 0
    newest = np.full(len(lengths), np.nan)
    oldest = np.full(len(lengths), np.nan)
    base = offsets[0] if len(offsets) else 0
    newest[filled] = flat[offsets[:-1][filled] - base]
    oldest[filled] = flat[offsets[1:][filled] - base - 1]
    length = gathered(lengths.astype(np.float64), view.index, 0.0)
    gap = np.nan_to_num(age_days(at_us, gathered(newest, view.index, np.nan)))
    span = np.nan_to_num(age_days(at_us, gathered(oldest, view.index, np.nan)))
    return [length, gap, span, _in_history(items, view.index, item_ids)]


def _in_history(items: pa.ListArray, index: Ints, item_ids: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """1 if the candidate is among the history's items, else 0."""
    if len(items) == 1:  # a request: one history for all candidates
        only = set(items.flatten().to_pylist())
        among: npt.NDArray[np.bool_] = np.fromiter(map(only.__contains__, item_ids), np.bool_, len(item_ids))
        return (among & (index >= 0)).astype(np.float64)
    flat = items.flatten().dictionary_encode()
    names = pd.Index(flat.dictionary.to_pylist(), dtype=object)
    count = max(len(names), 1)
    owner = np.repeat(np.arange(len(items), dtype=np.int64), np.diff(items.offsets.to_numpy()))
    present = np.unique(owner * count + flat.indices.to_numpy(zero_copy_only=False))
    candidate = names.get_indexer(pd.Index(item_ids, dtype=object))
    wanted = np.where((candidate >= 0) & (index >= 0), index * count + candidate, -1)
    in_history: npt.NDArray[np.float64] = np.isin(wanted, present).astype(np.float64)
    return in_history
