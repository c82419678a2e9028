"""Point-in-time joins as as-of joins: which feature row does each entity row see?

The answer of a join is an index per row into the feature rows that were seen at all. Wide features (lists) are then read
once per distinct feature row, and copied per row only where someone asks for a plain table.

Rules, as Feast's own stores have them where they agree: a feature row is seen from its event timestamp on, inclusive;
with a TTL until event timestamp + TTL, inclusive; the newest event timestamp wins, then the newest created timestamp (a
missing one loses), then the last row of the file; null features of the winning row stay null; with the
created-timestamp cut-off only rows created by the entity row's time take part; a null key or time sees nothing.

Two engines keep these rules: :mod:`sidkit.stores.offline.binary_search` in memory, and
:mod:`sidkit.stores.offline.duckdb_join` in DuckDB for feature tables that are larger than the memory limit or of unusual form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sidkit.core.arrays import Ints
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.take import take_rows

ROW = "__row"
AT = "__at_us"


@dataclass(frozen=True)
class ViewPlan:
    """What one feature view contributes to a retrieval.

    ``source`` gives SQL that reads the view's rows, keys in their declared types, with a unique integer column ``__id`` that
    grows in file order; ``files`` are the same rows as they are stored, for the engine in memory, None where it cannot read
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
    key_types: tuple[
        str, ...
    ] = ()  # the value type of each key, by its name in Feast; without them keys stay as they are


@dataclass(frozen=True)
class ViewRows:
    """The feature rows that one view gave to a set of entity rows.

    ``index`` is ``int64 [rows]`` into ``table``, -1 where the view had nothing; ``table`` holds each feature row that
    was seen once.
    """

    name: str
    index: Ints
    table: pa.Table

    def plain(self, threads: int = 1) -> pa.Table:
        """The features as one row per entity row, null where the view had nothing; so many columns are copied at a time."""
        return pa.table(take_rows(self.table.columns, self.index, threads), names=self.table.column_names)


def entity_rows(keys: dict[str, pa.Array | pa.ChunkedArray], at_us: pa.Array) -> pa.Table:
    """The narrow table that joins run on: key columns, time in microseconds UTC, row number."""
    return pa.table({**keys, AT: at_us, ROW: pa.array(np.arange(len(at_us), dtype=np.int64))})
