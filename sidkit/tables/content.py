"""Versions of items and of their vectors, which ``item_content.sql`` reads.

In DuckDB, rows of ``item_content`` refer to their vectors (:mod:`sidkit.core.wide_rows`): in the log's snapshot, or in the
table that a build extends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from sidkit.core.engine import literal, quoted
from sidkit.core.ordered_rows import OrderedRows
from sidkit.core.sql_connection import SqlConnection, columns_of
from sidkit.core.wide_rows import REFERENCE, reference
from sidkit.tables.log import Log

HASH = "_sidkit_hash"
"""Hash of the vectors of a row; null if it has none."""
_FIRST = ("item_id", "event_timestamp", "created_timestamp")
_LAST = ("category", "price", "created_at_us")


@dataclass(frozen=True)
class ContentVectors:
    """Where the vectors of rows of ``item_content`` lie.

    Parameters
    ----------
    log : Log
        With the snapshot of vectors.
    table : Path
        The table that is extended or replaced.
    modalities : sequence of str
        The vector columns.
    spill : Path
        Folder for temporary files.
    """

    log: Log
    table: Path
    modalities: Sequence[str]
    spill: Path

    def ordered(self, opened: duckdb.DuckDBPyConnection, query: str, order: str) -> OrderedRows:
        """Rows of a query that refers to vectors, with their vectors, in an order (SQL)."""
        kinds = pq.read_schema(self.log.embeddings)
        vectors = {name: kinds.field(name).type for name in self.modalities}
        columns = {**dict.fromkeys(_FIRST), **vectors, **dict.fromkeys(_LAST)}
        return OrderedRows(opened, query, order, columns, [self.log.embeddings, self.table], self.spill)


def referring(table: Path, modalities: Sequence[str]) -> str:
    """SQL for the rows of ``item_content`` with references to their own vectors, and their hashes."""
    return (
        f"SELECT {', '.join(_FIRST)}, {reference(1)} AS {REFERENCE}, {_hash_of(modalities)} AS {HASH}, "
        f"{', '.join(_LAST)} FROM read_parquet({literal(table)}, file_row_number = true)"
    )


def compared_columns(*, by_reference: bool, modalities: Sequence[str]) -> list[str]:
    """Columns whose values make two rows of ``item_content`` the same."""
    return [*([HASH] if by_reference else modalities), *_LAST]


def _hash_of(modalities: Sequence[str]) -> str:
    names = list(map(quoted, modalities))
    present = " OR ".join(f"{name} IS NOT NULL" for name in names)
    return f"CASE WHEN {present} THEN hash({', '.join(names)}) END"


def read_content(opened: SqlConnection, log: Log, modalities: list[str], *, by_reference: bool) -> None:
    """Create the views ``item_versions`` and ``embedding_versions``, each with the versions available by ``as_of``.

    ``by_reference``: the latter has references to vectors and their hashes instead of the vectors.
    """
    items, embeddings = f"read_parquet({literal(log.items)})", f"read_parquet({literal(log.embeddings)})"
    has = {
        table: columns_of(opened, f"SELECT * FROM {source}")
        for table, source in (("items", items), ("embeddings", embeddings))
    }
    version = "coalesce(updated_at, created_at)" if "updated_at" in has["items"] else "created_at"
    category = "category" if "category" in has["items"] else "NULL::VARCHAR AS category"
    price = "price" if "price" in has["items"] else "NULL::FLOAT AS price"
    opened.execute(f"""
        CREATE OR REPLACE TEMP VIEW item_versions AS
        SELECT item_id, epoch_us({version}) AS version_us, {category}, {price}, epoch_us(created_at) AS created_at_us
        FROM {items} WHERE epoch_us({version}) + getvariable('delay_us') <= getvariable('as_of_us')
    """)
    lists = ", ".join(quoted(name) for name in modalities)
    dated = "updated_at" in has["embeddings"]
    if by_reference:
        # The hash is computed below the join and the window, so that they do not carry vectors.
        embeddings = (
            f"(SELECT item_id{', updated_at' if dated else ''}, {reference(0)} AS {REFERENCE}, "
            f"{_hash_of(modalities)} AS {HASH} FROM read_parquet({literal(log.embeddings)}, file_row_number = true))"
        )
        lists = f"{REFERENCE}, {HASH}"
    updated = "greatest(coalesce(updated_at, born), born)" if dated else "born"
    newest = "updated_at DESC NULLS LAST" if dated else "item_id"
    opened.execute(f"""
        CREATE OR REPLACE TEMP VIEW embedding_versions AS
        SELECT item_id, epoch_us({updated}) AS version_us, {lists}
        FROM {embeddings} INNER JOIN (SELECT item_id, min(created_at) AS born FROM {items} GROUP BY item_id) USING (item_id)
        WHERE epoch_us({updated}) + getvariable('delay_us') <= getvariable('as_of_us')
        QUALIFY row_number() OVER (
            PARTITION BY item_id, epoch_us({updated}) ORDER BY {newest}
        ) = 1
    """)
