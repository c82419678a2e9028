"""One file of a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa


class Part(ABC):
    """One file of a table, read in chunks.

    Parameters
    ----------
    path : Path
        The file.
    table : str
        Name of the table in errors.
    """

    untyped: ClassVar[bool] = False
    """Whether all columns are text that may stand for values of any type."""
    same_columns: ClassVar[bool] = True
    """Whether all files of a table must have the same columns; otherwise values of missing ones are null."""

    def __init__(self, path: Path, table: str) -> None:
        self.path = path
        self.table = table

    @property
    def files(self) -> Sequence[Path]:
        """The files whose change changes the rows."""
        return [self.path]

    def rows(self) -> int | None:
        """Number of rows, if the file says so without being read."""
        return None

    @abstractmethod
    def columns(self) -> dict[str, pa.DataType | None]:
        """Column names and types; None if the types are inferred from the values of each chunk."""

    @abstractmethod
    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most ``chunk_rows`` rows; ``kinds`` are the contract's kinds of the columns it has."""
