"""Point-in-time look-ups of several feature views for the same entity rows, with the engine that suits each view.

The sorted index of a feature table, and its features if they fit in memory, are cached between chunks of entity rows, so
that a stream reads each table once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from sidkit.core.arrays import Ints
from sidkit.core.config import EngineSettings
from sidkit.core.distinct import distinct_rows, places_among
from sidkit.core.engine import memory_bytes
from sidkit.stores.keys import as_declared
from sidkit.stores.offline.binary_search import KeySearch, SearchIndex
from sidkit.stores.offline.duckdb_join import look_up
from sidkit.stores.offline.duckdb_limits import duckdb_for, translated_errors
from sidkit.stores.offline.ordered_index import OrderedIndex, bytes_per_row
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.plan import ViewPlan, ViewRows, entity_rows
from sidkit.stores.offline.take import take_rows

Keys = Mapping[str, pa.Array | pa.ChunkedArray]
Result = TypeVar("Result")

BYTES_PER_ROW = 80
"""Memory per row of a feature table while it is sorted: key, times, row number, and copies of them. A larger table in order of
time needs less (:func:`sidkit.stores.offline.ordered_index.bytes_per_row`)."""


class PointInTime:
    """Point-in-time look-ups in several views.

    Parameters
    ----------
    plans : sequence of ViewPlan
        Plans of the views.
    engine : EngineSettings
        Threads and memory limit: larger feature tables are joined by DuckDB, and larger features are read again for each
        chunk of rows. Views are looked up in parallel, one per thread, if all tables may be sorted at once.
    filter_by_created : bool
        Use only feature rows created by the entity row's time.
    held_bytes : int, optional
        Maximum bytes to sort a table in memory, and to cache its features; defaults to half of the engine's memory limit,
        and half of it shared among the views.
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
        self._searches: dict[int, _Search | None] = {}
        half = memory_bytes(engine.memory_limit) // 2
        # A sorted table takes a third of the memory needed for sorting.
        self._sorted_bytes = half if held_bytes is None else held_bytes
        self._feature_bytes = half // max(len(self.plans), 1) if held_bytes is None else held_bytes
        self._bytes = [
            plan.files.bytes_of([column for column, _ in plan.features]) if plan.files else 0 for plan in self.plans
        ]
        together = sum(plan.files.rows for plan in self.plans if plan.files) * BYTES_PER_ROW
        self._side_by_side = engine.threads > 1 and len(self.plans) > 1 and together <= self._sorted_bytes

    @property
    def keys(self) -> list[str]:
        """Columns of the entity rows that the views join on."""
        return list(dict.fromkeys(row for plan in self.plans for _, row in plan.keys))

    @property
    def key_types(self) -> dict[str, str]:
        """Column of the entity rows -> value type that its entity declares."""
        return {row: kind for plan in self.plans for (_, row), kind in zip(plan.keys, plan.key_types, strict=True)}

    def views(self, keys: Keys, at_us: pa.Array) -> list[ViewRows]:
        """Per view, an index per row into the distinct feature rows.

        Parameters
        ----------
        keys : mapping
            Column of the entity rows -> values.
        at_us : int64 array
            Microseconds UTC, null if missing.
        """
        results = self._each(lambda number: self._view(number, keys, at_us, every_seen_row_once=True))
        return [
            self._through_duckdb(plan, keys, at_us) if view is None else view
            for plan, view in zip(self.plans, results, strict=True)
        ]

    def columns(self, keys: Keys, at_us: pa.Array) -> dict[str, pa.ChunkedArray]:
        """Feature columns with one value per row, null without a match."""
        threads = self._engine.threads

        def plain(number: int) -> pa.Table | None:
            view = self._view(number, keys, at_us, every_seen_row_once=False)
            return None if view is None else view.plain(threads)

        columns: dict[str, pa.ChunkedArray] = {}
        for plan, table in zip(self.plans, self._each(plain), strict=True):
            features = self._through_duckdb(plan, keys, at_us).plain(threads) if table is None else table
            columns |= dict(zip(features.column_names, features.columns, strict=True))
        return columns

    def _each(self, work: Callable[[int], Result]) -> list[Result]:
        """Call ``work`` with each view's number, in parallel if all tables may be sorted at once."""
        if not self._side_by_side:
            return [work(number) for number in range(len(self.plans))]
        with ThreadPoolExecutor(self._engine.threads) as pool:
            widest_first = sorted(range(len(self.plans)), key=lambda number: -self._bytes[number])
            futures = {number: pool.submit(work, number) for number in widest_first}
            return [futures[number].result() for number in range(len(self.plans))]

    def _view(self, number: int, keys: Keys, at_us: pa.Array, *, every_seen_row_once: bool) -> ViewRows | None:
        """Look up one view; None if DuckDB must read it. Without the option the table may have unused rows."""
        search = self._search(number, 0 if every_seen_row_once else len(at_us))
        if search is None:
            return None
        index = search.find(keys, at_us)
        return ViewRows(self.plans[number].name, *search.features(index, every_seen_row_once=every_seen_row_once))

    def _search(self, number: int, rows: int) -> _Search | None:
        """The search of one view, to be used first for a number of rows that need all feature columns copied."""
        plan = self.plans[number]
        if plan.files is None:
            return None
        if number not in self._searches:
            fits = self._bytes[number] <= self._feature_bytes
            index: OrderedIndex | None = None
            if plan.files.rows * BYTES_PER_ROW > self._sorted_bytes:
                index = self._ordered(plan, plan.files)
                if index is None:
                    self._searches[number] = None
                    return None
            self._searches[number] = _Search(
                plan, plan.files, self._filter_by_created, fits, rows, self._engine.threads, index
            )
        return self._searches[number]

    def _ordered(self, plan: ViewPlan, files: FeatureFiles) -> OrderedIndex | None:
        """The smaller index of a table in order of time; None for other tables, or if it is too large too."""
        cut = self._filter_by_created and plan.created is not None
        if not plan.keys or cut or files.rows * bytes_per_row(len(plan.keys)) > self._sorted_bytes:
            return None
        source, names = files.parts.source, [column for column, _ in plan.keys]

        def keyed(batch: pa.Table) -> tuple[list[pa.ChunkedArray], pa.ChunkedArray]:
            keys = [
                as_declared(batch.column(name), kind, source, name)
                for name, kind in zip(names, plan.key_types, strict=True)
            ]
            return keys, files.moments_of(batch.column(plan.timestamp), plan.timestamp)

        batches = map(keyed, files.scan([*names, plan.timestamp]))
        return OrderedIndex.build(batches, files.rows, len(names), ties=plan.created is None)

    def _through_duckdb(self, plan: ViewPlan, keys: Keys, at_us: pa.Array) -> ViewRows:
        columns = zip((row for _, row in plan.keys), _declared(plan, keys), strict=True)
        rows = entity_rows(dict(columns), at_us)
        with translated_errors(f"view {plan.name}", self._engine), duckdb_for(self._engine) as opened:
            return look_up(opened, plan, rows, filter_by_created=self._filter_by_created)


def _declared(plan: ViewPlan, keys: Keys) -> list[pa.Array | pa.ChunkedArray]:
    """Keys of the entity rows in their declared types."""
    if not plan.key_types:
        return [keys[row] for _, row in plan.keys]
    return [
        as_declared(keys[row], kind, "entity_df", row) for (_, row), kind in zip(plan.keys, plan.key_types, strict=True)
    ]


class _Search:
    """One view's sorted table, and its features if they fit in memory."""

    def __init__(
        self,
        plan: ViewPlan,
        files: FeatureFiles,
        filter_by_created: bool,
        fits: bool,
        rows: int,
        threads: int,
        index: OrderedIndex | None = None,
    ) -> None:
        self._plan = plan
        self._files = files
        self._columns = list(dict.fromkeys(column for column, _ in plan.features))
        self._fits = fits
        self._threads = threads
        self._features: pa.Table | None = None
        self._used_before = False
        self._index: KeySearch
        if index is not None:
            self._index = index
            return
        # Many entity rows need rows of all row groups, so all features are read while the table is sorted.
        if fits and threads > 1 and 4 * rows >= files.rows:
            with ThreadPoolExecutor(1) as pool:
                features = pool.submit(files.read, self._columns)
                self._index = self._sorted(filter_by_created)
                self._features = features.result().combine_chunks()
        else:
            self._index = self._sorted(filter_by_created)

    def _sorted(self, filter_by_created: bool) -> SearchIndex:
        plan, files = self._plan, self._files
        narrow = files.read([*(column for column, _ in plan.keys), plan.timestamp])
        source = files.parts.source

        def created() -> pa.ChunkedArray:
            assert plan.created is not None
            return files.moments_of(files.read([plan.created]).column(plan.created), plan.created)

        return SearchIndex.build(
            [
                as_declared(narrow.column(column), kind, source, column)
                for (column, _), kind in zip(plan.keys, plan.key_types, strict=True)
            ],
            files.moments_of(narrow.column(plan.timestamp), plan.timestamp),
            created if plan.created else None,
            filter_by_created=filter_by_created,
            threads=self._threads,
        )

    def find(self, keys: Keys, at_us: pa.Array) -> Ints:
        """The number of the feature row of each row, or -1."""
        return self._index.find(_declared(self._plan, keys), at_us, self._plan.ttl_us, self._threads)

    def features(self, index: Ints, *, every_seen_row_once: bool) -> tuple[Ints, pa.Table]:
        """Return an index per row into a table of features, and the table.

        Without ``every_seen_row_once`` the table may have unused rows.
        """
        if self._features is not None and not every_seen_row_once:
            return index, self._named(self._features)
        numbers = distinct_rows(index, self._files.rows)
        few = 4 * len(numbers) < 3 * self._files.rows
        if self._features is None and self._fits and (self._used_before or not few):
            self._features = self._files.read(self._columns).combine_chunks()
        self._used_before = True
        if self._features is not None and not every_seen_row_once:
            return index, self._named(self._features)
        if self._features is None:
            table = self._files.take(self._columns, numbers)
        else:
            table = pa.table(take_rows(self._features.columns, numbers), names=self._columns)
        return places_among(numbers, index, self._files.rows), self._named(table.combine_chunks())

    def _named(self, table: pa.Table) -> pa.Table:
        return pa.table({new: table.column(old) for old, new in self._plan.features})
