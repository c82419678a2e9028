"""Engines of table builds: DuckDB in this process, or Spark, which runs the same SQL after a translation.

``[engine] tables`` of ``sidkit.toml`` names the engine. The SQL of the tables is written for DuckDB, in the part of it that
:mod:`sidkit.tables.engines.dialect` translates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sidkit.core.engine import connection
from sidkit.core.repo import Repo
from sidkit.core.sql_connection import SqlConnection


@contextmanager
def table_connection(repo: Repo) -> Iterator[SqlConnection]:
    """Open a connection of the repository's engine.

    Raises
    ------
    MissingExtraError
        When the engine is Spark and pyspark is not installed.
    EngineError
        When Spark cannot be started or refuses a statement.
    MemoryLimitError
        When a query reaches DuckDB's memory limit.
    """
    if repo.settings.engine.tables == "spark":
        from sidkit.tables.engines.spark import spark_connection

        with spark_connection(repo) as spark:
            yield spark
    else:
        with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
            yield opened


__all__ = ["table_connection"]
