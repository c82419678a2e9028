"""Drift of features, codes and scores by day: the population stability index (PSI) against reference rows.

The PSI is corrected for small samples as that of codebooks is (:mod:`semantic_ids.quality.drift`). Numbers are counted in ten
bins with equally many reference rows, categories and codes by value; missing values have a bin of their own. A feature that is
the same for all rows of a request, such as one of the user, is counted once per request: its rows are no independent
observations.

Counts of a log that grows, and statistics of few codes, differ from day to day without anything being wrong. So the reference
is its own control: it is cut into consecutive blocks of about a day, and a day drifts only if its PSI is also larger than that
of every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import pyarrow as pa

from ranking.data.frame_table import CODES, HISTORY_CODES, HISTORY_ITEMS, HISTORY_TIMES, VECTOR
from semantic_ids.quality.drift import stability
from sidkit.core.arrays import Bools, Doubles, Ints, one_chunk
from sidkit.core.clock import DAY_US
from sidkit.core.errors import ConfigError

STABLE, WATCH, DRIFT, UNKNOWN = "stable", "watch", "drift", "unknown"
_VERDICTS = (UNKNOWN, STABLE, WATCH, DRIFT)
_BINS = 10
_MOST_BLOCKS = 100
_CATEGORIES = 100
"""Categories with a bin of their own, the most frequent ones of the reference."""
UNMONITORED = frozenset({VECTOR, HISTORY_ITEMS, HISTORY_TIMES, HISTORY_CODES})
"""Columns without a distribution of single values; what the ranker derives from them is monitored."""


@dataclass(frozen=True)
class DriftBounds:
    """When a feature drifts.

    Attributes
    ----------
    watch, drift : float
        PSI from which the verdict of a day is ``watch``, and ``drift``, if it also exceeds that of all blocks of the reference.
    min_rows : int
        A day with fewer rows (or requests, of a feature that a request has once) has the verdict ``unknown``.
    """

    watch: float = 0.1
    drift: float = 0.25
    min_rows: int = 200

    def __post_init__(self) -> None:
        if self.watch > self.drift:
            raise ConfigError(
                f"expected a bound for watch of at most that for drift, got {self.watch:g} and {self.drift:g}; exchange them"
            )


@dataclass(frozen=True)
class MonitoredRows:
    """Rows whose distributions are compared.

    Attributes
    ----------
    table : pyarrow.Table
        Columns of :func:`ranking.data.frame_table.frame_table`, or some of them, and ``score``.
    at_us : int64 [rows]
        Times, microseconds UTC.
    request : int64 [rows]
        Number of the request of each row.
    """

    table: pa.Table
    at_us: Ints
    request: Ints

    def __len__(self) -> int:
        return len(self.at_us)

    @property
    def day(self) -> Ints:
        """Days since 1970, UTC, ``int64 [rows]``."""
        days: Ints = self.at_us // DAY_US
        return days


@dataclass(frozen=True)
class DayDrift:
    """One feature on one day.

    ``psi`` is corrected for small samples (0 where it is within the noise); ``rows`` are those that were counted; ``missing``
    is their share without a value, ``mean`` that of numbers.
    """

    day: str
    rows: int
    psi: float
    missing: float
    mean: float | None
    verdict: str


@dataclass(frozen=True)
class FeatureDrift:
    """One feature by day, beside its reference."""

    name: str
    missing: float
    """Share of the reference rows without a value."""
    mean: float | None
    """Mean of the reference, of numbers."""
    usual: float
    """The largest PSI of a block of the reference."""
    days: tuple[DayDrift, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict of its days."""
        return max((day.verdict for day in self.days), key=_VERDICTS.index, default=UNKNOWN)

    @property
    def worst(self) -> float:
        """The largest PSI of the days with enough rows."""
        return max((day.psi for day in self.days if day.verdict != UNKNOWN), default=0.0)


@dataclass(frozen=True)
class _Column:
    """One distribution: a bin per observation (0: missing), the row of each observation, and the values of numbers."""

    name: str
    bins: Ints
    rows: Ints
    values: Doubles | None = None

    def select(self, kept: Bools) -> _Column:
        """Some of the observations."""
        values = None if self.values is None else self.values[kept]
        return _Column(self.name, self.bins[kept], self.rows[kept], values)

    @property
    def missing(self) -> float:
        """Share of the observations without a value."""
        return float((self.bins == 0).mean()) if len(self.bins) else 0.0

    @property
    def mean(self) -> float | None:
        """Mean of numbers; None for others, and without any."""
        known = np.zeros(0) if self.values is None else self.values[np.isfinite(self.values)]
        return float(known.mean()) if len(known) else None


def drift_of(
    reference: MonitoredRows, recent: MonitoredRows, bounds: DriftBounds, ignored: tuple[str, ...] = ()
) -> tuple[FeatureDrift, ...]:
    """The drift of all columns that both groups have, worst first.

    Parameters
    ----------
    reference, recent : MonitoredRows
    bounds : DriftBounds
    ignored : tuple of str
        Patterns (``item_*_all``) of features to leave out.
    """
    found = []
    for name in recent.table.column_names:
        if name not in reference.table.column_names or name in UNMONITORED:
            continue
        for before, after in _columns(name, reference.table.column(name), recent.table.column(name)):
            if not any(fnmatchcase(before.name, pattern) for pattern in ignored):
                found.append(_feature(before, after, reference, recent, bounds))
    return worst_first(found)


def worst_first(features: Iterable[FeatureDrift]) -> tuple[FeatureDrift, ...]:
    """Features by verdict and by their largest PSI."""
    return tuple(sorted(features, key=lambda each: (-_VERDICTS.index(each.verdict), -each.worst)))


def _feature(
    before: _Column, after: _Column, reference: MonitoredRows, recent: MonitoredRows, bounds: DriftBounds
) -> FeatureDrift:
    if _once_per_request(after, recent):
        before, after = _first_of_requests(before, reference), _first_of_requests(after, recent)
    size = 1 + max(int(each.bins.max(initial=0)) for each in (before, after))
    expected = np.bincount(before.bins, minlength=size)
    usual = _usual(before, reference, expected, bounds.min_rows)
    day_of = recent.day[after.rows]
    days = []
    for day in np.unique(recent.day).tolist():
        part = after.select(day_of == day)
        rows = len(np.unique(part.rows))
        psi = stability(expected, np.bincount(part.bins, minlength=size)).drift
        verdict = UNKNOWN
        if rows >= bounds.min_rows:
            beyond = psi > usual
            verdict = DRIFT if beyond and psi >= bounds.drift else WATCH if beyond and psi >= bounds.watch else STABLE
        days.append(DayDrift(_day(day), rows, psi, part.missing, part.mean, verdict))
    return FeatureDrift(before.name, before.missing, before.mean, usual, tuple(days))


def _usual(column: _Column, reference: MonitoredRows, expected: Ints, min_rows: int) -> float:
    """The largest PSI of consecutive blocks of the reference of about a day, each with at least ``min_rows`` observations; 0 if
    there are not two of them.
    """
    order = np.argsort(reference.at_us[column.rows], kind="stable")
    blocks = min(len(np.unique(reference.day)), _MOST_BLOCKS, len(order) // max(min_rows, 1))
    if blocks < 2:
        return 0.0
    counts = (np.bincount(column.bins[part], minlength=len(expected)) for part in np.array_split(order, blocks))
    return max(stability(expected, each).drift for each in counts)


def _day(day: int) -> str:
    return str(np.datetime64(day, "D"))


def _columns(name: str, before: pa.ChunkedArray, after: pa.ChunkedArray) -> Iterator[tuple[_Column, _Column]]:
    """The distributions of a column, of the reference and of recent rows: one, or one per level of codes."""
    if name == CODES:
        yield from _levels(before, after)
    elif pa.types.is_floating(before.type):
        yield _numbers(name, *(_doubles(each) for each in (before, after)))
    elif pa.types.is_string(before.type):
        yield _categories(name, *((each, None) for each in (one_chunk(before), one_chunk(after))))
    elif pa.types.is_list(before.type) and pa.types.is_string(before.type.value_type):
        yield _categories(name, *(_exploded(one_chunk(each)) for each in (before, after)))


def _doubles(column: pa.ChunkedArray) -> Doubles:
    values: Doubles = one_chunk(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _numbers(name: str, before: Doubles, after: Doubles) -> tuple[_Column, _Column]:
    known = before[np.isfinite(before)]
    shares = np.linspace(0, 1, _BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, shares)) if len(known) else np.zeros(0)
    first, second = (
        _Column(
            name,
            np.where(np.isfinite(values), 1 + np.searchsorted(edges, values, side="right"), 0).astype(np.int64),
            np.arange(len(values)),
            values,
        )
        for values in (before, after)
    )
    return first, second


def _categories(
    name: str, before: tuple[pa.Array, Ints | None], after: tuple[pa.Array, Ints | None]
) -> tuple[_Column, _Column]:
    """Bins of values of text: 0 missing, 1 any other value, then the most frequent ones of the reference."""
    frequent = pd.Series(before[0].to_pylist(), dtype=object).value_counts().index[:_CATEGORIES]
    names = pd.Index(frequent, dtype=object)
    columns = []
    for values, rows in (before, after):
        texts = pd.Series(values.to_pylist(), dtype=object)
        bins = np.where(texts.isna(), 0, 2 + names.get_indexer(pd.Index(texts)))
        columns.append(_Column(name, bins.astype(np.int64), np.arange(len(bins)) if rows is None else rows))
    return columns[0], columns[1]


def _exploded(lists: pa.ListArray) -> tuple[pa.Array, Ints]:
    """The values of lists, and the row of each; a row without any has the value null."""
    frame = pd.Series(lists.to_pylist(), dtype=object).explode()
    return pa.array(frame.where(frame.notna(), None).tolist(), pa.string()), frame.index.to_numpy(np.int64)


def _levels(before: pa.ChunkedArray, after: pa.ChunkedArray) -> Iterator[tuple[_Column, _Column]]:
    groups = []
    for column in (before, after):
        lists = one_chunk(column)
        valid = lists.is_valid().to_numpy(zero_copy_only=False)
        levels = int(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).max(initial=0))
        codes = np.full((len(lists), levels), -1, dtype=np.int64)
        codes[valid] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, levels) if valid.any() else 0
        groups.append(codes)
    for level in range(min(codes.shape[1] for codes in groups)):
        first, second = (
            _Column(f"{CODES}[{level + 1}]", codes[:, level] + 1, np.arange(len(codes))) for codes in groups
        )
        yield first, second


def _once_per_request(column: _Column, rows: MonitoredRows) -> bool:
    """Whether the value of a feature is the same for all rows of a request."""
    if len(np.unique(column.rows)) != len(column.rows):
        return False  # several values per row
    order = np.argsort(rows.request[column.rows], kind="stable")
    request, bins = rows.request[column.rows][order], column.bins[order]
    same = request[1:] == request[:-1]
    return bool(same.any() and (bins[1:] == bins[:-1])[same].all())


def _first_of_requests(column: _Column, rows: MonitoredRows) -> _Column:
    first = np.unique(rows.request[column.rows], return_index=True)[1]
    kept = np.zeros(len(column.rows), dtype=np.bool_)
    kept[first] = True
    return column.select(kept)
