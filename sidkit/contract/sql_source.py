"""Tables and views of a database, given by a SQLAlchemy URL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from sidkit.contract.source import Relations
from sidkit.contract.sql_columns import sql_column
from sidkit.core.config import resolved_url
from sidkit.core.errors import ContractError
from sidkit.core.redact import redacted, scrubbed

if TYPE_CHECKING:
    import sqlalchemy as sa

_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mariadb": "mariadb",
    "pymysql": "pymysql",
    "snowflake": "snowflake-sqlalchemy",
    "bigquery": "sqlalchemy-bigquery",
    "duckdb": "duckdb-engine",
    "redshift": "sqlalchemy-redshift",
    "clickhouse": "clickhouse-sqlalchemy",
    "databricks": "databricks-sqlalchemy",
    "trino": "trino[sqlalchemy]",
}
"""Module of a driver, or dialect that SQLAlchemy lacks -> the package that brings it, where the names differ."""


class SqlRelations(Relations):
    """Tables, views and materialized views of a database.

    Vectors are array columns if the database supports them, else JSON text or bytes. Times are zone-aware columns, or
    ISO 8601 text with a zone if the database has no such type (SQLite).
    """

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa

        self.url = url
        try:
            parsed = sa.engine.make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
                # Connecting would create an empty file of this name.
                raise ContractError(
                    "source", f"{parsed.database} does not exist; use the path of an existing SQLite database"
                )
            self.engine: sa.Engine = sa.create_engine(url, hide_parameters=True)
            self._names = _names_in(sa.inspect(self.engine))
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            raise ContractError(
                "source", f"{redacted(url)} cannot be opened ({scrubbed(error, url)}){_driver_remedy(url, error)}"
            ) from None
        self._tables: dict[str, sa.Table] = {}

    def has(self, name: str) -> bool:
        """See :meth:`Relations.has`; a name may have a schema, such as ``shop.items``."""
        if name in self._names:
            return True
        import sqlalchemy as sa

        schema, _, table = name.rpartition(".")
        with _answering(resolved_url(self.url)):
            return bool(schema) and table in _names_in(sa.inspect(self.engine), schema)

    def missing(self, name: str) -> str:
        """See :meth:`Relations.missing`."""
        listed = ", ".join(sorted(self._names)) or "no tables"
        return f"expected a table or view of this name in {redacted(resolved_url(self.url))}, got {listed}"

    def columns(self, name: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Relations.columns`; types are None, since they are inferred from the values."""
        return {column.name: None for column in self._table(name).columns}

    def untyped(self, name: str) -> frozenset[str]:
        """See :meth:`Relations.untyped`."""
        return frozenset()

    def batches(
        self, name: str, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]
    ) -> Iterator[pa.RecordBatch]:
        """See :meth:`Relations.batches`; uses a server-side cursor if the driver supports it."""
        import sqlalchemy as sa

        table = self._table(name)
        chosen = [table.columns[column] for column in columns]
        with _answering(resolved_url(self.url), name), self.engine.connect() as connection:
            stream = connection.execution_options(stream_results=True, yield_per=chunk_rows).execute(sa.select(*chosen))
            for part in stream.partitions(chunk_rows):
                read = [
                    sql_column(name, column, list(values), kinds.get(column))
                    for column, values in zip(columns, zip(*part, strict=True), strict=True)
                ]
                yield pa.RecordBatch.from_arrays(
                    [array for _, array in read], schema=pa.schema([field for field, _ in read])
                )

    def marks(self, name: str) -> None:
        """None: a database does not report changes."""

    def _table(self, name: str) -> sa.Table:
        import sqlalchemy as sa

        if name not in self._tables:
            schema, _, table = ("", "", name) if name in self._names else name.rpartition(".")
            with _answering(resolved_url(self.url), name):
                self._tables[name] = sa.Table(
                    table, sa.MetaData(), schema=schema or None, autoload_with=self.engine, resolve_fks=False
                )
        return self._tables[name]


def _names_in(inspector: sa.Inspector, schema: str | None = None) -> frozenset[str]:
    """Tables, views and materialized views."""
    names = {*inspector.get_table_names(schema), *inspector.get_view_names(schema)}
    with suppress(RuntimeError):  # dialects without them do not implement the method
        names.update(inspector.get_materialized_view_names(schema))
    return frozenset(names)


def _driver_remedy(url: str, error: Exception) -> str:
    """What to install, if the driver or the dialect of a URL is missing."""
    import sqlalchemy as sa

    scheme = url.partition("://")[0]
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
    elif isinstance(error, sa.exc.NoSuchModuleError):
        module = scheme.partition("+")[0]
        if module not in _PACKAGES:
            return f"; expected a database that SQLAlchemy knows, got {scheme!r}: correct it, or install its dialect"
    else:
        return ""
    return f"; the driver is not installed, run: pip install '{_PACKAGES.get(module, module)}'"


@contextmanager
def _answering(url: str, table: str = "source") -> Iterator[None]:
    """Re-raise errors of the database driver without the secrets of the URL, which they may repeat."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        message = str(scrubbed(error, url)).split("\n", 1)[0]
        remedy = (
            "; expected text in UTF-8, correct it in the database" if "UTF-8" in message or "decode" in message else ""
        )
        raise ContractError(table, f"reading {redacted(url)} failed ({message}){remedy}") from None
