"""Point-in-time look-ups of several feature views on the same entity rows, whichever engine suits each view.

What was learned of a feature table - its rows sorted for the search, its features where they fit in memory - is kept
from one chunk of entity rows to the next, so that a stream reads each table once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa

from sidkit.core.arrays import Ints
from sidkit.core.config import EngineSettings
from sidkit.core.engine import memory_bytes
from sidkit.stores.keys import as_declared
from sidkit.stores.offline.binary_search import SearchIndex
from sidkit.stores.offline.duckdb_join import look_up
from sidkit.stores.offline.duckdb_limits import duckdb_for, told_of
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.plan import ViewPlan, ViewRows, entity_rows
from sidkit.stores.offline.take import take_rows

Keys = Mapping[str, pa.Array | pa.ChunkedArray]
Found = TypeVar("Found")

BYTES_PER_ROW = 80
"""What a row of a feature table takes while it is sorted: key, times, row number, and copies of them."""


class PointInTime:
    """Look-ups through some plans.

    Parameters
    ----------
    plans : sequence of ViewPlan
        The views.
    engine : EngineSettings
        Threads, and the memory up to which feature tables are held; above it DuckDB joins, and features are read again
        for each chunk of rows. As many views as threads are looked up at a time where all tables may be sorted at once.
    filter_by_created : bool
        Also require that a feature row was created by the entity row's time.
    held_bytes : int, optional
        Up to how many bytes a table may take to be sorted here, and its features to be kept; by default half of the
        engine's memory limit, and half of it shared among the views.
    """

    def __init__(
        self,
        plans: Sequence[ViewPlan],
        engine: EngineSettings,
        *,
        filter_by_created: bool = False,
        held_bytes: int | None = None,
    ) -> None:
        self.plans = list(plans)
        self._engine = engine
        self._filter_by_created = filter_by_created
        self._searches: dict[int, _Search] = {}
        half = memory_bytes(engine.memory_limit) // 2
        # What is kept of a sorted table is a third of what sorting takes.
        self._sorted_bytes = half if held_bytes is None else held_bytes
        self._feature_bytes = half // max(len(self.plans), 1) if held_bytes is None else held_bytes
        self._bytes = [
            plan.files.bytes_of([column for column, _ in plan.features]) if plan.files else 0 for plan in self.plans
        ]
        together = sum(plan.files.rows for plan in self.plans if plan.files) * BYTES_PER_ROW
        self._side_by_side = engine.threads > 1 and len(self.plans) > 1 and together <= self._sorted_bytes

    @property
    def keys(self) -> list[str]:
        """The columns of the entity rows that the views join on."""
        return list(dict.fromkeys(row for plan in self.plans for _, row in plan.keys))

    @property
    def key_types(self) -> dict[str, str]:
        """Column of the entity rows -> the value type that its entity declares."""
        return {row: kind for plan in self.plans for (_, row), kind in zip(plan.keys, plan.key_types, strict=True)}

    def views(self, keys: Keys, at_us: pa.Array) -> list[ViewRows]:
        """What each view gives to some rows: an index per row and the distinct feature rows.

        Parameters
        ----------
        keys : mapping
            Column of the entity rows -> values.
        at_us : int64 array
            Microseconds UTC, null where missing.
        """
        found = self._each(lambda number: self._view(number, keys, at_us, every_seen_row_once=True))
        return [
            self._through_duckdb(plan, keys, at_us) if view is None else view
            for plan, view in zip(self.plans, found, strict=True)
        ]

    def columns(self, keys: Keys, at_us: pa.Array) -> dict[str, pa.ChunkedArray]:
        """The features of some rows, one value per row, null where a view had nothing."""
        threads = self._engine.threads

        def plain(number: int) -> pa.Table | None:
            view = self._view(number, keys, at_us, every_seen_row_once=False)
            return None if view is None else view.plain(threads)

        found: dict[str, pa.ChunkedArray] = {}
        for plan, table in zip(self.plans, self._each(plain), strict=True):
            told = self._through_duckdb(plan, keys, at_us).plain(threads) if table is None else table
            found |= dict(zip(told.column_names, told.columns, strict=True))
        return found

    def _each(self, work: Callable[[int], Found]) -> list[Found]:
        """``work`` of each view's number, side by side where all tables may be sorted at once."""
        if not self._side_by_side:
            return [work(number) for number in range(len(self.plans))]
        with ThreadPoolExecutor(self._engine.threads) as pool:
            widest_first = sorted(range(len(self.plans)), key=lambda number: -self._bytes[number])
            begun = {number: pool.submit(work, number) for number in widest_first}
            return [begun[number].result() for number in range(len(self.plans))]

    def _view(self, number: int, keys: Keys, at_us: pa.Array, *, every_seen_row_once: bool) -> ViewRows | None:
        """What one view gives, None where only DuckDB reads it; the table may hold further rows without the option."""
        search = self._search(number)
        if search is None:
            return None
        index = search.find(keys, at_us)
        return ViewRows(self.plans[number].name, *search.features(index, every_seen_row_once=every_seen_row_once))

    def _search(self, number: int) -> _Search | None:
        plan = self.plans[number]
        if plan.files is None or plan.files.rows * BYTES_PER_ROW > self._sorted_bytes:
            return None
        if number not in self._searches:
            fits = self._bytes[number] <= self._feature_bytes
            self._searches[number] = _Search(plan, plan.files, self._filter_by_created, fits)
        return self._searches[number]

    def _through_duckdb(self, plan: ViewPlan, keys: Keys, at_us: pa.Array) -> ViewRows:
        columns = zip((row for _, row in plan.keys), _declared(plan, keys), strict=True)
        rows = entity_rows(dict(columns), at_us)
        with told_of(f"view {plan.name}", self._engine), duckdb_for(self._engine) as opened:
            return look_up(opened, plan, rows, filter_by_created=self._filter_by_created)


def _declared(plan: ViewPlan, keys: Keys) -> list[pa.Array | pa.ChunkedArray]:
    """The keys of the entity rows in the types that their entities declare."""
    if not plan.key_types:
        return [keys[row] for _, row in plan.keys]
    return [
        as_declared(keys[row], kind, "entity_df", row) for (_, row), kind in zip(plan.keys, plan.key_types, strict=True)
    ]


class _Search:
    """One view's table, sorted, and its features when they fit."""

    def __init__(self, plan: ViewPlan, files: FeatureFiles, filter_by_created: bool, fits: bool) -> None:
        self._plan = plan
        self._files = files
        self._columns = list(dict.fromkeys(column for column, _ in plan.features))
        self._fits = fits
        self._kept: pa.Table | None = None
        self._asked_before = False
        times = [plan.timestamp, *([plan.created] if plan.created else [])]
        narrow = files.read([*(column for column, _ in plan.keys), *times])
        source = files.parts.source
        self._index = SearchIndex.build(
            [
                as_declared(narrow.column(column), kind, source, column)
                for (column, _), kind in zip(plan.keys, plan.key_types, strict=True)
            ],
            files.moments_of(narrow.column(plan.timestamp), plan.timestamp),
            files.moments_of(narrow.column(plan.created), plan.created) if plan.created else None,
            filter_by_created=filter_by_created,
        )

    def find(self, keys: Keys, at_us: pa.Array) -> Ints:
        """The number of the feature row that each row sees, -1 for none."""
        return self._index.find(_declared(self._plan, keys), at_us, self._plan.ttl_us)

    def features(self, index: Ints, *, every_seen_row_once: bool) -> tuple[Ints, pa.Table]:
        """An index per row into a table of features, and that table.

        Without ``every_seen_row_once`` the table may hold further rows.
        """
        seen = np.zeros(self._files.rows, dtype=bool)
        seen[index[index >= 0]] = True
        few = 4 * np.count_nonzero(seen) < 3 * len(seen)
        if self._kept is None and self._fits and (self._asked_before or not few):
            self._kept = self._files.read(self._columns).combine_chunks()
        self._asked_before = True
        if self._kept is not None and not every_seen_row_once:
            return index, self._named(self._kept)
        numbers = np.flatnonzero(seen)
        if self._kept is None:
            table = self._files.take(self._columns, numbers)
        else:
            table = pa.table(take_rows(self._kept.columns, numbers), names=self._columns)
        place = np.full(len(seen) + 1, -1, dtype=np.int64)
        place[numbers] = np.arange(len(numbers))
        return place[index], self._named(table.combine_chunks())

    def _named(self, table: pa.Table) -> pa.Table:
        return pa.table({new: table.column(old) for old, new in self._plan.features})
