"""Plans of point-in-time joins, which are executed as as-of joins.

The result of a join is an index per row into the distinct feature rows used. Wide features (lists) are then read once per
distinct feature row, and copied per row only if a plain table is requested.

Rules, as in Feast's own stores where they agree: a feature row is valid from its event timestamp on, inclusive;
with a TTL until event timestamp + TTL, inclusive; the newest event timestamp wins, then the newest created timestamp (a
missing one loses), then the last row of the file; null features of the winning row stay null; with the
created-timestamp cut-off only rows created by the entity row's time are considered; a null key or time matches nothing.

Two engines implement these rules: :mod:`sidkit.stores.offline.binary_search` in memory, and
:mod:`sidkit.stores.offline.duckdb_join` in DuckDB for feature tables that exceed the memory limit or need DuckDB to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sidkit.core.arrays import Ints
from sidkit.core.distinct import distinct_rows, places_among
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.take import take_rows

ROW = "__row"
AT = "__at_us"


@dataclass(frozen=True)
class ViewPlan:
    """What to read from one feature view for a retrieval.

    ``source`` returns SQL that reads the view's rows, keys in their declared types, with a unique integer column ``__id``
    that increases in file order; ``files`` are the same rows as stored, for the in-memory engine, or None if it cannot read
    them.
    """

    name: str
    source: Callable[[], str]
    keys: tuple[tuple[str, str], ...]  # (column of the source, column of the entity rows)
    timestamp: str
    created: str | None
    features: tuple[tuple[str, str], ...]  # (column of the source, column of the result)
    ttl_us: int | None
    files: FeatureFiles | None = None
    # Value type of each key, by its name in Feast; if empty, keys are not converted.
    key_types: tuple[str, ...] = ()
    # Whether the files are those of the days that the rows of the request can see.
    by_day: bool = False


@dataclass(frozen=True)
class ViewRows:
    """The feature rows of one view for a set of entity rows.

    ``index`` is ``int64 [rows]`` into ``table``, -1 for rows without features; ``table`` has each feature row that is
    used once.
    """

    name: str
    index: Ints
    table: pa.Table

    def part(self, rows: slice) -> ViewRows:
        """The feature rows of some of the entity rows."""
        index = self.index[rows]
        used = distinct_rows(index, len(self.table))
        if len(used) == len(self.table):
            return ViewRows(self.name, index, self.table)
        place = places_among(used, index, len(self.table))
        return ViewRows(self.name, place, pa.table(take_rows(self.table.columns, used), names=self.table.column_names))

    def plain(self, threads: int = 1) -> pa.Table:
        """Features as one row per entity row, null without a match; ``threads`` columns are copied in parallel."""
        return pa.table(take_rows(self.table.columns, self.index, threads), names=self.table.column_names)


def entity_rows(keys: dict[str, pa.Array | pa.ChunkedArray], at_us: pa.Array) -> pa.Table:
    """Build the narrow table for joins: key columns, time in microseconds UTC, row number."""
    return pa.table({**keys, AT: at_us, ROW: pa.array(np.arange(len(at_us), dtype=np.int64))})
