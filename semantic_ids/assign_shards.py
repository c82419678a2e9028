"""Codes of items in shards: each worker encodes the rows of some items, and publish or refresh puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.assigned_codes import codes_to_extend
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook, load_committed
from semantic_ids.coded_rows import coded_rows
from semantic_ids.records import CodebookRecord
from sidkit.core.engine import connection, literal
from sidkit.core.errors import LifeCycleError
from sidkit.core.integrity import checked, hash_of
from sidkit.core.repo import Repo
from sidkit.core.row_groups import rows_of
from sidkit.core.shards import Shard, ShardedWork, Shards, check_shards
from sidkit.tables import read_build

CODES = "codes.parquet"
"""A shard's file: ``item_id``, ``event_timestamp``, ``codes`` and ``residual_norm``."""


def unassigned(
    opened: duckdb.DuckDBPyConnection,
    content: Path,
    modalities: Sequence[str],
    known: Path | None,
    shard: Shard | None = None,
) -> Iterator[pa.Table]:
    """The rows of a table of content whose codes a table of codes does not have, in small tables in the order of the file.

    Vectors do not pass through DuckDB, which would read those of all rows, and hold them.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Finds the rows.
    content : Path
        A table like ``item_content``.
    modalities : sequence of str
        The vector columns to read.
    known : Path or None
        A table like ``item_sid_<codebook>``; None: it has no rows.
    shard : Shard, optional
        Only the items of this shard.

    Yields
    ------
    pyarrow.Table
        ``item_id``, ``event_timestamp`` and the vectors.
    """
    wanted = "true"
    if known is not None:
        wanted = (
            f"(item_id, event_timestamp) NOT IN (SELECT (item_id, event_timestamp) FROM read_parquet({literal(known)}))"
        )
    if shard is not None:
        wanted = f"{shard.sql('item_id')} AND {wanted}"
    rows = opened.execute(
        "SELECT item_id, event_timestamp, file_row_number "
        f"FROM read_parquet({literal(content)}, file_row_number = true) WHERE {wanted} ORDER BY file_row_number"
    ).to_arrow_table()
    keys = rows.select(["item_id", "event_timestamp"])
    for place, batch in rows_of(content, rows.column("file_row_number").to_numpy(), modalities):
        chunk = keys.slice(place.start, batch.num_rows)
        for name in modalities:
            chunk = chunk.append_column(name, batch.column(name))
        yield chunk


def shards_of_codes(
    repo: Repo, record: CodebookRecord, modalities: Sequence[str], known: Path | None, of: int
) -> Shards:
    """The shards in which the codes of a codebook are assigned to the present tables."""
    check_shards(of)
    inputs = {
        "codebook": record.content_hash,
        "content": hash_of(repo.tables / "item_content.parquet"),
        "known codes": hash_of(known) if known is not None else None,
        "columns": list(modalities),
    }
    command = ["codebooks", "assign", record.name, "--repo", str(repo.path)]
    return Shards(repo.data / "tmp" / "shards" / f"codes-{record.name}", of, inputs, command)


def assign_shard(repo: Repo, name: str, shard: Shard) -> int | None:
    """Assign codes to the items of one shard that have none yet; the repository's lock is not needed.

    Parameters
    ----------
    repo : Repo
        With built tables. A worker on another machine works on a copy, or on a shared file system.
    name : str
        A fitted or published codebook.
    shard : Shard
        The items to encode.

    Returns
    -------
    int or None
        Number of rows; None if the shard was finished before.

    Raises
    ------
    LifeCycleError
        When the codebook is not fitted, or retired.
    ArtifactError
        When its files, or the tables, are missing or were changed.
    """
    record = Catalog.open(repo).codebook(name)
    if record.state in {"fitting", "retired", "purged"}:
        raise LifeCycleError(name, record.state, "codes are assigned by a fitted codebook only")
    codebook = load_committed(repo.codebooks / name, record)[0]
    content = checked(repo.tables / "item_content.parquet")
    known = codes_to_extend(repo, record, read_build(repo)["generation"])
    modalities = codebook.encoder.modalities_
    rows = 0

    def write(folder: Path) -> None:
        nonlocal rows
        with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
            rows = _write_codes(unassigned(opened, content, modalities, known, shard), codebook, folder / CODES)

    made = shards_of_codes(repo, record, modalities, known, shard.of).make(shard.number, write)
    return rows if made else None


def _write_codes(chunks: Iterable[pa.Table], codebook: Codebook, path: Path) -> int:
    schema = pa.schema(
        {
            "item_id": pa.string(),
            "event_timestamp": pa.timestamp("us", "UTC"),
            "codes": pa.list_(pa.int64()),
            "residual_norm": pa.float32(),
        }
    )
    rows = 0
    with pq.ParquetWriter(path, schema) as out:
        for chunk in chunks:
            coded = coded_rows(chunk, codebook)
            out.write_table(coded.cast(schema))
            rows += len(coded)
    return rows


def put_together(
    repo: Repo, record: CodebookRecord, modalities: Sequence[str], known: Path | None, work: ShardedWork
) -> tuple[Shards, list[Path]]:
    """The finished shards, and their files in the form of :func:`semantic_ids.spark_codes.assign_on_spark`.

    Raises
    ------
    ArtifactMissingError, ProcessesError, ArtifactCorruptError
        When a shard is missing, was made from other inputs, or is damaged, or its worker failed.
    """
    shards = shards_of_codes(repo, record, modalities, known, work.shards)
    return shards, [folder / CODES for folder in work.folders(shards)]
