"""DuckDB connections with the repo's limits, and SQL files run on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from sidkit.config import EngineSettings
from sidkit.errors import MemoryLimitError


@contextmanager
def connection(engine: EngineSettings, spill: Path | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection in memory that spills under ``spill`` and knows no time zone but UTC.

    Where that folder cannot be made, as in a repo that is only read, or is None, nothing is spilled.
    """
    spills = ""
    if spill is not None:
        with suppress(OSError):
            spill.mkdir(parents=True, exist_ok=True)
            spills = str(spill) if os.access(spill, os.W_OK) else ""
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
    try:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened
    except duckdb.OutOfMemoryException as error:
        what = next(iter(getattr(error, "__notes__", ())), "this step")
        raise MemoryLimitError(what, engine.memory_limit, str(error).splitlines()[0]) from error
    finally:
        opened.close()


@contextmanager
def working_on(what: str) -> Iterator[None]:
    """Name what is computed inside the block, for :class:`sidkit.errors.MemoryLimitError`."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
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
