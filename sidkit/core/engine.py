"""DuckDB connections with the repo's limits, and SQL files run on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from sidkit.core.config import EngineSettings
from sidkit.core.errors import MemoryLimitError


@contextmanager
def connection(engine: EngineSettings, spill: Path | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection in memory that spills under ``spill`` and knows no time zone but UTC.

    Where that folder cannot be made, as in a repo that is only read, or is None, nothing is spilled.

    Raises
    ------
    MemoryLimitError
        When what is done with the connection reaches the memory limit; :func:`working_on` says what that was.
    """
    spills = ""
    if spill is not None:
        with suppress(OSError):
            spill.mkdir(parents=True, exist_ok=True)
            spills = str(spill) if os.access(spill, os.W_OK) else ""
    opened: duckdb.DuckDBPyConnection | None = None
    try:
        opened = duckdb.connect(
            config={
                "threads": engine.threads,
                "memory_limit": engine.memory_limit,
                "temp_directory": spills,
                # Otherwise DuckDB plans an as-of join over a small or unestimated input as a nested loop.
                "asof_loop_join_threshold": 0,
                "preserve_insertion_order": False,
            }
        )
        opened.execute("SET TimeZone = 'UTC'")
        yield opened
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        what = next(iter(getattr(error, "__notes__", ())), "this step")
        raise MemoryLimitError(what, engine.memory_limit, str(error).splitlines()[0]) from error
    finally:
        if opened is not None:
            opened.close()


def _is_out_of_memory(error: Exception) -> bool:
    # An Arrow reader of a query's result passes DuckDB's error on as one of its own.
    return isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in str(error)


@contextmanager
def working_on(what: str) -> Iterator[None]:
    """Name what is computed inside the block, for :class:`sidkit.core.errors.MemoryLimitError`."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error):
            error.add_note(what)
        raise


def set_variables(opened: duckdb.DuckDBPyConnection, values: Mapping[str, int | float | bool | str]) -> None:
    """Set the variables that an SQL file reads with ``getvariable('name')``."""
    for name, value in values.items():
        opened.execute(f"SET VARIABLE {name} = $value", {"value": value})


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """An SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def memory_bytes(limit: str) -> int:
    """A limit such as ``1500MB`` or ``2 GiB`` in bytes."""
    number = limit.rstrip("BiKMGT ")
    unit = limit[len(number) :].strip()
    return int(float(number) * (1024 if "i" in unit else 1000) ** " KMGT".index(unit[0]))
