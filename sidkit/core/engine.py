"""DuckDB connections with the repository's resource limits, and helpers for SQL text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import duckdb

from sidkit.core.config import EngineSettings
from sidkit.core.errors import MemoryLimitError
from sidkit.core.sql_connection import SqlConnection

GROUP_ROWS = 122_880
"""Rows of a row group of Parquet, DuckDB's own default."""
WIDE_GROUP_ROWS = 20_480
"""Rows of a row group of wide rows, such as long texts and vectors: those of a group are buffered while it is written."""


@contextmanager
def connection(
    engine: EngineSettings, spill: Path | None, *, shared: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB connection that uses UTC and spills to ``spill``.

    Nothing is spilled if ``spill`` is None or cannot be written, as in a read-only repository. ``shared``: connections of the
    process with the same arguments are to one instance, which stays open, since opening one takes longer than a small query;
    temporary tables are the connection's own.

    Raises
    ------
    MemoryLimitError
        When a query reaches the memory limit; :func:`working_on` names the step.
    """
    spills = ""
    if spill is not None:
        with suppress(OSError):
            spill.mkdir(parents=True, exist_ok=True)
            spills = str(spill) if os.access(spill, os.W_OK) else ""
    opened: duckdb.DuckDBPyConnection | None = None
    try:
        whole = _shared(engine.threads, engine.memory_limit, spills, os.getpid()) if shared else None
        opened = _instance(engine.threads, engine.memory_limit, spills) if whole is None else whole.cursor()
        opened.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")  # a bar would be printed to stdout
        yield opened
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        step = next(iter(getattr(error, "__notes__", ())), "this step")
        raise MemoryLimitError(step, engine.memory_limit, str(error).splitlines()[0]) from error
    finally:
        if opened is not None:
            opened.close()


def _instance(threads: int, memory_limit: str, spills: str) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        config={
            "threads": threads,
            "memory_limit": memory_limit,
            "temp_directory": spills,
            # Otherwise DuckDB plans an as-of join over a small or unestimated input as a nested loop.
            "asof_loop_join_threshold": 0,
            "preserve_insertion_order": False,
        }
    )


@lru_cache(maxsize=4)
def _shared(threads: int, memory_limit: str, spills: str, process: int) -> duckdb.DuckDBPyConnection:
    """The instance of a process; one that was opened before a fork is of no use in the child."""
    return _instance(threads, memory_limit, spills)


def _is_out_of_memory(error: Exception) -> bool:
    # An Arrow reader of a query result re-raises DuckDB's error as its own type.
    return isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in str(error)


@contextmanager
def working_on(step: str) -> Iterator[None]:
    """Name the step that runs inside the block, for :class:`sidkit.core.errors.MemoryLimitError` and ``EngineError``."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error) or type(error).__module__.split(".")[0] in {"pyspark", "py4j"}:
            error.add_note(step)
        raise


def set_variables(opened: SqlConnection, values: Mapping[str, int | float | bool | str]) -> None:
    """Set variables for an SQL file, which reads them with ``getvariable('name')``."""
    for name, value in values.items():
        opened.execute(f"SET VARIABLE {name} = $value", {"value": value})


def quoted(name: str) -> str:
    """Quote an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """Quote an SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def into(path: Path, compression: str = "zstd", rows: int = GROUP_ROWS) -> str:
    """The end of a ``COPY (...)`` that writes a Parquet file with so many rows per row group."""
    return f"TO {literal(path)} (FORMAT parquet, COMPRESSION {compression}, ROW_GROUP_SIZE {rows})"


def memory_bytes(limit: str) -> int:
    """Convert a limit such as ``1500MB`` or ``2 GiB`` to bytes."""
    number = limit.rstrip("BiKMGT ")
    unit = limit[len(number) :].strip()
    return int(float(number) * (1024 if "i" in unit else 1000) ** " KMGT".index(unit[0]))
