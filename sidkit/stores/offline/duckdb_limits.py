"""DuckDB connections with the offline store's limits, and translation of DuckDB's errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection
from sidkit.core.errors import ContractError, MemoryLimitError, StorageError
from sidkit.core.temporary import spill_folder

_SETTING = "offline_store.memory_limit in feature_store.yaml"


@contextmanager
def duckdb_for(engine: EngineSettings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a new connection that spills to a temporary folder, deleted on exit."""
    with spill_folder() as spill, connection(engine, spill) as opened:
        yield opened


@contextmanager
def translated_errors(table: str, engine: EngineSettings) -> Iterator[None]:
    """Re-raise DuckDB's errors as sidkit errors that name a table.

    Raises
    ------
    ContractError
        When the memory limit is reached, or the table cannot be read.
    StorageError
        When spilling to disk fails.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, MemoryLimitError) as error:
        raise ContractError(
            table,
            f"needs more memory than {_SETTING} allows, which is {engine.memory_limit}. Raise it, for instance to "
            f"memory_limit: 8GB ({_line(error)})",
        ) from error
    except duckdb.IOException as error:
        raise StorageError(Path(tempfile.gettempdir()), _line(error)) from error
    except (duckdb.DataError, duckdb.ProgrammingError, duckdb.NotSupportedError, duckdb.OperationalError) as error:
        raise ContractError(table, _line(error)) from error


def _line(error: Exception) -> str:
    """The first line of DuckDB's message, without the error type."""
    line = str(error).strip().splitlines()[0]
    return line.split(": ", 1)[-1] if line.split(": ", 1)[0].endswith("Error") else line
