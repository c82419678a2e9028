"""Staging: a table of the source as one Parquet file in the contract's types, with a rejection reason per row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.contract.column_names import check_columns
from sidkit.contract.rows import PART, can_be_carried, normalise
from sidkit.contract.schemas import WITH_ATTRIBUTES, Table
from sidkit.contract.source import Source
from sidkit.core.errors import ContractError, TableSchemaError
from sidkit.core.files import written_beside
from sidkit.core.forgotten import Forgotten


@dataclass
class LeftOut:
    """Leaves the rows of forgotten users out of a table, and counts them.

    Parameters
    ----------
    forgotten : Forgotten or None
        Whose rows; None leaves nothing out.
    """

    forgotten: Forgotten | None
    rows: int = 0

    def of(self, chunk: pa.Table) -> pa.Table:
        """The rows of other users."""
        if self.forgotten is None or "user_id" not in chunk.column_names:
            return chunk
        kept = chunk.filter(pc.invert(self.forgotten.among(chunk.column("user_id"))))
        self.rows += len(chunk) - len(kept)
        return kept


def stage(
    source: Source,
    table: Table,
    chunk_rows: int,
    path: Path,
    further: Collection[str] = (),
    left_out: LeftOut | None = None,
) -> Path:
    """Read a table in chunks, apply :func:`sidkit.contract.rows.normalise` and write the result to ``path``.

    Additional attributes of items and users are included, except those of a type that DuckDB may not read. An additional
    attribute whose type differs between parts gets a common type. Of other tables, the columns in ``further`` are included.
    Rows that ``left_out`` is for are not written, whether they are valid or not.

    Raises
    ------
    ContractError
        When the table is empty.
    TableSchemaError
        When a column is missing or has the wrong type, or its types in several parts have no common type.
    """
    columns = source.columns(table.name)
    check_columns(list(columns), table)
    wanted = [
        name
        for name, kind in columns.items()
        if table.column(name) is not None or ((table in WITH_ATTRIBUTES or name in further) and can_be_carried(kind))
    ]
    chunks = _chunks(source, table, wanted, chunk_rows, left_out or LeftOut(None))
    first = next(chunks, None)
    if first is None:
        raise ContractError(table.name, "expected at least one row, got an empty table")
    with written_beside(path) as temporary:
        schema, writer = first[0].schema, pq.ParquetWriter(temporary, first[0].schema, compression="zstd")
        try:
            writer.write_table(first[0])
            for chunk, part in chunks:
                try:
                    wider = pa.unify_schemas([schema, chunk.schema], promote_options="permissive")
                    if not wider.equals(schema):
                        writer.close()
                        schema, writer = wider, _rewritten(temporary, wider)
                    writer.write_table(chunk.cast(schema))
                except pa.ArrowException as error:
                    raise TableSchemaError(
                        table.name,
                        f"expected one type per column in all parts, got others in {part or 'a later part of the table'} "
                        f"({error}); write the parts with the same types",
                    ) from error
        finally:
            writer.close()
    return path


def _rewritten(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    old = path.with_name(f"{path.name}-narrow")
    path.replace(old)
    writer = pq.ParquetWriter(path, schema, compression="zstd")
    try:
        with pq.ParquetFile(old) as staged:
            for batch in staged.iter_batches():
                writer.write_table(pa.table(batch).cast(schema))
    except BaseException:
        writer.close()
        raise
    finally:
        old.unlink()
    return writer


def _chunks(
    source: Source, table: Table, columns: list[str], chunk_rows: int, left_out: LeftOut
) -> Iterator[tuple[pa.Table, str]]:
    for batch in source.batches(table.name, columns, chunk_rows):
        if batch.num_rows:
            yield left_out.of(normalise(batch, table)), (batch.schema.metadata or {}).get(PART, b"").decode()
