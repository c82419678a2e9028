"""What a step needs of an SQL engine: statements in DuckDB's SQL and their results. A DuckDB connection is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class SqlResult(Protocol):
    """The rows of a query."""

    @property
    def description(self) -> Any:
        """One sequence per column, which starts with its name."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows."""

    def to_arrow_table(self) -> pa.Table:
        """All rows as a table."""


class SqlConnection(Protocol):
    """Runs statements in DuckDB's SQL."""

    def execute(self, query: str, parameters: Any = None) -> SqlResult:
        """Run statements, and return the result of the last one.

        Parameters
        ----------
        query : str
            One or several statements.
        parameters : mapping, optional
            Values of ``$name``.
        """


def columns_of(opened: SqlConnection, query: str) -> list[str]:
    """Names of the columns of a query."""
    return [column[0] for column in opened.execute(f"SELECT * FROM ({query}) AS described LIMIT 0").description]
