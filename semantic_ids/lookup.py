"""Look up published codes: items -> codes and codes -> items, as of the feature tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from semantic_ids.catalog import Catalog, table_path
from semantic_ids.records import CodebookRecord
from sidkit.core.engine import connection, literal
from sidkit.core.errors import ConfigError, LifeCycleError
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import read_log

_MOST = 2**62
"""Larger limits are no number of DuckDB."""


def codes_of(repo: Repo, item_ids: Sequence[str], name: str | None = None) -> dict[str, list[int] | None]:
    """The newest codes of some items; None for an item without codes.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook, or none is serving.
    LifeCycleError
        When it is not published.
    """
    record = published(repo, name)
    table = literal(checked(table_path(repo, record.name)))
    with _purge_reported(repo, record), connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        opened.register("requested", pa.table({"item_id": pa.array(item_ids, pa.string())}))
        codes = dict(
            opened.execute(
                f"SELECT item_id, arg_max_null(codes, event_timestamp) FROM read_parquet({table}) "
                "SEMI JOIN requested USING (item_id) GROUP BY item_id"
            ).fetchall()
        )
    return {item: codes.get(item) for item in item_ids}


def all_codes(repo: Repo, name: str | None = None) -> pa.Table:
    """The newest codes of all items: columns ``item_id`` and ``codes`` (null without content), sorted by id.

    Raises
    ------
    UnknownVersionError, LifeCycleError
        See :func:`codes_of`.
    """
    record = published(repo, name)
    table = literal(checked(table_path(repo, record.name)))
    with _purge_reported(repo, record), connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        return opened.execute(
            f"SELECT item_id, arg_max_null(codes, event_timestamp) AS codes FROM read_parquet({table}) "
            "GROUP BY item_id ORDER BY item_id"
        ).to_arrow_table()


def known_ids(repo: Repo, item_ids: Sequence[str]) -> set[str]:
    """The subset of ids found in the tables: items with metadata, and items that only occur in the log.

    Raises
    ------
    ArtifactCorruptError
        When a table is damaged.
    """
    known: set[str] = set()
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        opened.register("requested", pa.table({"item_id": pa.array(item_ids, pa.string())}))
        for table in ("item_content", "item_stats"):
            path = repo.tables / f"{table}.parquet"
            if path.exists():
                rows = opened.execute(
                    f"SELECT DISTINCT item_id FROM read_parquet({literal(checked(path))}) SEMI JOIN requested USING (item_id)"
                ).fetchall()
                known.update(item for (item,) in rows)
    return known


def count_unknown(repo: Repo, item_ids: pa.Array | pa.ChunkedArray) -> int:
    """Number of rows whose item is not in :func:`known_ids`."""
    counts = item_ids.value_counts().to_pylist()
    known = known_ids(repo, [entry["values"] for entry in counts])
    return sum(entry["counts"] for entry in counts if entry["values"] not in known)


def items_of(
    repo: Repo, codes: str, name: str | None = None, most: int = 50
) -> list[tuple[str, list[int], str | None]]:
    """Items whose newest codes start with a prefix: (item, codes, title), sorted by item id.

    Parameters
    ----------
    repo : Repo
        With a published codebook.
    codes : str
        Codes separated by commas, coarse to fine; may be fewer than the codebook's levels.
    name : str, optional
        By default the serving codebook.
    most : int
        Maximum number of items.

    Raises
    ------
    ConfigError
        When the codes cannot be parsed or are more than the codebook's levels.
    """
    record = published(repo, name)
    try:
        prefix = [int(code) for code in codes.split(",")]
    except ValueError as error:
        raise ConfigError(f"expected codes as integers separated by commas, such as 17,3, got {codes!r}") from error
    if len(prefix) > record.levels:
        raise ConfigError(f"expected at most {record.levels} codes, the levels of {record.name}, got {len(prefix)}")
    if any(abs(code) >= 2**63 for code in prefix):
        raise ConfigError(f"{codes!r} contains a number beyond 64 bits; codes are small integers, counted from 0")
    if most < 0:
        raise ConfigError(f"the maximum number of items must be 0 or more, got {most}")
    items = read_log(repo).items
    with _purge_reported(repo, record), connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        columns = {
            row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(items)})").fetchall()
        }
        # An item may have several rows, one per updated_at; use the newest title.
        moment = "coalesce(updated_at, created_at)" if "updated_at" in columns else "created_at"
        title = f"arg_max_null(title, {moment})" if "title" in columns else "NULL"
        return opened.execute(
            f"""
            WITH newest AS (
                SELECT item_id, arg_max_null(codes, event_timestamp) AS codes
                FROM read_parquet({literal(checked(table_path(repo, record.name)))}) GROUP BY item_id
            ), titled AS (SELECT item_id, {title} AS title FROM read_parquet({literal(items)}) GROUP BY item_id)
            SELECT item_id, codes, title FROM newest LEFT JOIN titled USING (item_id)
            WHERE list_slice(codes, 1, {len(prefix)}) = $prefix::BIGINT[] ORDER BY item_id LIMIT {min(int(most), _MOST)}
            """,
            {"prefix": prefix},
        ).fetchall()


def published(repo: Repo, name: str | None) -> CodebookRecord:
    """The record of a published codebook, by default of the serving one; see :func:`codes_of` for errors."""
    catalog = Catalog.open(repo)
    record = catalog.codebook(name) if name else catalog.serving_codebook()
    if not record.has_codes:
        raise LifeCycleError(record.name, record.state, "its codes can be looked up once it is published")
    return record


@contextmanager
def _purge_reported(repo: Repo, record: CodebookRecord) -> Iterator[None]:
    """Readers take no lock, so the codebook may be purged during a read; raise a LifeCycleError in that case."""
    try:
        yield
    except duckdb.IOException as error:
        if table_path(repo, record.name).exists():
            raise
        raise LifeCycleError(record.name, "purged", "it was purged during this read; use another codebook") from error
