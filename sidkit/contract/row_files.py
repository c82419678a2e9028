"""Validation of row files that a user passes, such as `sidkit frame --rows`: same checks as the log, all or nothing.

A file with an invalid row is rejected as a whole: a result for fewer rows than requested would be a silent loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.contract.column_names import check_columns
from sidkit.contract.row_remedies import row_remedy
from sidkit.contract.rows import REASON, normalise
from sidkit.contract.schemas import Table
from sidkit.core.errors import ContractError

CHUNK_ROWS = 100_000


@dataclass
class _Broken:
    """Rejection reasons: the number of rows per reason, and the index of the first one, counted from 0."""

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def add(self, reasons: pa.ChunkedArray) -> None:
        texts = reasons.to_numpy(zero_copy_only=False)
        for at in np.flatnonzero(texts != None):  # noqa: E711 (elementwise)
            self.counts[texts[at]] += 1
            self.first.setdefault(texts[at], self.rows + int(at))
        self.rows += len(texts)

    def _remedy(self) -> str:
        reason, count = self.counts.most_common(1)[0]
        line = row_remedy(reason, count / self.rows)
        return f"For example: {line}. " if line.startswith("df") else ""

    def refuse(self, where: str, *, may_be_empty: bool = False) -> None:
        if not self.rows and not may_be_empty:
            raise ContractError("rows", f"expected at least one row, got none in {where}")
        if self.counts:
            listed = ", ".join(
                f"{reason} ({count:,}, first in row {self.first[reason]:,})"
                for reason, count in self.counts.most_common()
            )
            raise ContractError(
                "rows",
                f"{self.counts.total():,} of {self.rows:,} rows of {where} are invalid: {listed}; rows are counted from 0. "
                f"{self._remedy()}Fix or remove these rows and try again",
            )


def open_rows(path: Path, table: Table) -> pq.ParquetFile:
    """Open a Parquet file of rows and check its columns.

    Raises
    ------
    ContractError
        When the path is not a Parquet file, or a column is missing or duplicated.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ContractError("rows", f"expected a Parquet file, got {path}, which {problem}")
    try:
        opened = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ContractError(
            "rows",
            f"{path} cannot be read as Parquet ({error}); write it with DataFrame.to_parquet of pandas, for example",
        ) from error
    check_columns(opened.schema_arrow.names, table, reserved=frozenset())
    return opened


def checked_rows(source: Path | pa.Table, table: Table, *, may_be_empty: bool = False) -> pa.Table:
    """Validate rows and convert the columns of ``table`` to the contract's types, preserving the row order.

    Parameters
    ----------
    source : Path or pyarrow.Table
        A Parquet file or an in-memory table. Other columns are ignored.
    table : Table
        Schema, such as :data:`sidkit.contract.schemas.LABELLED_ROWS`.
    may_be_empty : bool
        Accept a source without rows.

    Raises
    ------
    ContractError
        When there is no row, a column is missing, duplicated or of a type that cannot be converted, or any row is
        invalid; the message gives the number of rows, the reason and the position.
    """
    if isinstance(source, pa.Table):
        check_columns(source.column_names, table, reserved=frozenset())
        return _checked(_of_table(source, table), table, "the table", may_be_empty=may_be_empty)
    with open_rows(source, table) as opened:
        return _checked(_of_file(opened, source, table), table, str(source), may_be_empty=may_be_empty)


def check_row_file(path: Path, table: Table) -> bool:
    """Validate a file in chunks as :func:`checked_rows` does; return whether it already has the contract's types."""
    broken = _Broken()
    same = True
    with open_rows(path, table) as opened:
        for batch in _of_file(opened, path, table):
            checked = normalise(batch, table)
            broken.add(checked.column(REASON))
            same = same and checked.drop_columns([REASON]).schema.types == batch.schema.types
    broken.refuse(str(path))
    return same


def normalised_batches(path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    """Yield all columns of a validated file, with those of the contract converted to its types."""
    with open_rows(path, table) as opened:
        for batch in opened.iter_batches(CHUNK_ROWS):
            whole = pa.Table.from_batches([batch])
            known = [name for name in whole.column_names if table.column(name)]
            checked = normalise(batch.select(known), table)
            for name in known:
                whole = whole.set_column(whole.column_names.index(name), name, checked.column(name))
            yield from whole.combine_chunks().to_batches()


def _of_table(source: pa.Table, table: Table) -> Iterator[pa.RecordBatch]:
    known = [name for name in source.column_names if table.column(name)]
    chosen = source.select(known)
    yield from chosen.to_batches(max_chunksize=CHUNK_ROWS) or [pa.RecordBatch.from_pylist([], chosen.schema)]


def _of_file(opened: pq.ParquetFile, path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    known = [name for name in opened.schema_arrow.names if table.column(name)]
    try:
        yield from opened.iter_batches(CHUNK_ROWS, columns=known)
        if not opened.metadata.num_rows:
            yield pa.RecordBatch.from_pylist([], pa.schema([opened.schema_arrow.field(name) for name in known]))
    except (OSError, pa.ArrowException) as error:
        raise ContractError("rows", f"{path} is damaged ({error}); write it again") from error


def _checked(batches: Iterator[pa.RecordBatch], table: Table, where: str, *, may_be_empty: bool) -> pa.Table:
    broken, parts = _Broken(), []
    for batch in batches:
        checked = normalise(batch, table)
        broken.add(checked.column(REASON))
        parts.append(checked.drop_columns([REASON]))
    broken.refuse(where, may_be_empty=may_be_empty)
    return pa.concat_tables(parts, promote_options="permissive")
