"""What a source of tables can do: the tables of the contract, and the relations (files, database tables) behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from sidkit.contract.report import ColumnUse


class Source(ABC):
    """A source of the contract's tables."""

    url: str

    @abstractmethod
    def has(self, table: str) -> bool:
        """Whether the source has this table."""

    @abstractmethod
    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """Column names and Arrow types (None if the source has no type information)."""

    @abstractmethod
    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield record batches of at most ``chunk_rows`` rows with these columns."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """Text that changes whenever the source may have changed; None if changes cannot be detected."""

    @abstractmethod
    def facts(self, table: str) -> dict[str, str]:
        """How columns are read that the source has in another form than the contract, for a report."""

    @abstractmethod
    def uses(self, table: str, stored: Sequence[str]) -> list[ColumnUse]:
        """What becomes of each column of a table, of which the columns ``stored`` are in the log."""


class Relations(ABC):
    """The files or database tables of a source, by their own names and with their own columns."""

    url: str

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is a relation of this name."""

    @abstractmethod
    def missing(self, name: str) -> str:
        """What was expected and what there is instead, for an error about a missing relation."""

    @abstractmethod
    def columns(self, name: str) -> dict[str, pa.DataType | None]:
        """Column names and Arrow types; None if the types are inferred from the values."""

    @abstractmethod
    def untyped(self, name: str) -> frozenset[str]:
        """Columns of text that may stand for values of any type, as in CSV files."""

    @abstractmethod
    def batches(
        self, name: str, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield record batches of at most ``chunk_rows`` rows; ``kinds`` are the contract's kinds of the columns it has."""

    @abstractmethod
    def marks(self, name: str) -> list[list[object]] | None:
        """JSON values that change whenever the relation may have changed; None if changes cannot be detected."""
