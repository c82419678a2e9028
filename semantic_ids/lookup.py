"""Look-ups in the published codes: items -> codes and codes -> items, as of the tables."""

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


def codes_of(repo: Repo, item_ids: Sequence[str], name: str | None = None) -> dict[str, list[int] | None]:
    """The newest codes of some items; None for an item that has none.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook, or none serves.
    LifeCycleError
        When it is not published.
    """
    record = _published(repo, name)
    table = literal(checked(table_path(repo, record.name)))
    with _while_it_is_there(repo, record), connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        opened.register("asked", pa.table({"item_id": pa.array(item_ids, pa.string())}))
        found = dict(
            opened.execute(
                f"SELECT item_id, arg_max_null(codes, event_timestamp) FROM read_parquet({table}) "
                "SEMI JOIN asked USING (item_id) GROUP BY item_id"
            ).fetchall()
        )
    return {item: found.get(item) for item in item_ids}


def known_ids(repo: Repo, item_ids: Sequence[str]) -> set[str]:
    """Those of some ids that are in the tables: items of the catalogue, and items of the log that it lacks."""
    found: set[str] = set()
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        opened.register("asked", pa.table({"item_id": pa.array(item_ids, pa.string())}))
        for table in ("item_content", "item_stats"):
            path = repo.tables / f"{table}.parquet"
            if path.exists():
                rows = opened.execute(
                    f"SELECT DISTINCT item_id FROM read_parquet({literal(path)}) SEMI JOIN asked USING (item_id)"
                ).fetchall()
                found.update(item for (item,) in rows)
    return found


def count_unknown(repo: Repo, item_ids: pa.Array | pa.ChunkedArray) -> int:
    """How many rows are of items that :func:`known_ids` does not give."""
    counts = item_ids.value_counts().to_pylist()
    known = known_ids(repo, [entry["values"] for entry in counts])
    return sum(entry["counts"] for entry in counts if entry["values"] not in known)


def items_of(
    repo: Repo, codes: str, name: str | None = None, most: int = 50
) -> list[tuple[str, list[int], str | None]]:
    """Items whose newest codes begin with a prefix: (item, codes, title), by item id.

    Parameters
    ----------
    repo : Repo
        With a published codebook.
    codes : str
        Codes separated by commas, coarse to fine; fewer than the levels are a prefix.
    name : str, optional
        By default the serving codebook.
    most : int
        At most so many.

    Raises
    ------
    ConfigError
        When the codes cannot be read or are more than the codebook has levels.
    """
    record = _published(repo, name)
    try:
        prefix = [int(code) for code in codes.split(",")]
    except ValueError as error:
        raise ConfigError(f"{codes!r} are no codes; write numbers separated by commas, such as 17,3") from error
    if len(prefix) > record.levels:
        raise ConfigError(f"{len(prefix)} codes came; {record.name} has {record.levels} levels")
    if any(abs(code) >= 2**63 for code in prefix):
        raise ConfigError(f"{codes!r} holds a number beyond 64 bits; codes are small whole numbers, counted from 0")
    if most < 0:
        raise ConfigError(f"at most {most} items were asked for; 0 or more are needed")
    items = read_log(repo).items
    with _while_it_is_there(repo, record), connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        columns = {
            row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(items)})").fetchall()
        }
        # An item's versions come as rows with updated_at; the newest title counts.
        moment = "coalesce(updated_at, created_at)" if "updated_at" in columns else "created_at"
        title = f"arg_max_null(title, {moment})" if "title" in columns else "NULL"
        return opened.execute(
            f"""
            WITH newest AS (
                SELECT item_id, arg_max_null(codes, event_timestamp) AS codes
                FROM read_parquet({literal(checked(table_path(repo, record.name)))}) GROUP BY item_id
            ), titled AS (SELECT item_id, {title} AS title FROM read_parquet({literal(items)}) GROUP BY item_id)
            SELECT item_id, codes, title FROM newest LEFT JOIN titled USING (item_id)
            WHERE list_slice(codes, 1, {len(prefix)}) = $prefix::BIGINT[] ORDER BY item_id LIMIT {int(most)}
            """,
            {"prefix": prefix},
        ).fetchall()


def _published(repo: Repo, name: str | None) -> CodebookRecord:
    catalog = Catalog.open(repo)
    record = catalog.codebook(name) if name else catalog.serving_codebook()
    if not record.has_codes:
        raise LifeCycleError(record.name, record.state, "its codes can be looked up once it is published")
    return record


@contextmanager
def _while_it_is_there(repo: Repo, record: CodebookRecord) -> Iterator[None]:
    """Readers take no lock: say it when the codebook was purged after the catalogue was asked."""
    try:
        yield
    except duckdb.IOException as error:
        if table_path(repo, record.name).exists():
            raise
        raise LifeCycleError(record.name, "purged", "it was purged meanwhile; ask for another codebook") from error
