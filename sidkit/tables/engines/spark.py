"""Table builds on Spark: a connection that takes DuckDB's SQL, and writes one Parquet file per table.

The session has the settings ``offline_store.spark_conf`` of ``feature_store.yaml``, which Feast's Spark offline store uses too,
and always the time zone UTC. Executors read the log and write parts of the tables under ``data/tmp``: a cluster needs the
repository on a file system that they share. DuckDB joins the parts, in their order, to the file of the table.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, into, literal, working_on
from sidkit.core.errors import EngineError
from sidkit.core.extras import require
from sidkit.core.files import remove
from sidkit.core.repo import FEAST_FILE, Repo
from sidkit.tables.engines.dialect import Statement, translated
from sidkit.tables.engines.spark_errors import note_settings, spark_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # the default has no annotation of UTC
    "spark.sql.parser.quotedRegexColumnNames": "false",  # Feast's store sets it: names in backticks are patterns then
}
"""SQL settings of every session, whatever ``spark_conf`` says."""
_SET = re.compile(r"SET VARIABLE (\w+) = \$value")


def spark_conf(repo: Repo) -> dict[str, str]:
    """Read ``offline_store.spark_conf`` of ``feature_store.yaml``; environment variables are expanded, as Feast does."""
    text = os.path.expandvars((repo.path / FEAST_FILE).read_text(encoding="utf-8"))
    stated = (yaml.safe_load(text).get("offline_store") or {}).get("spark_conf") or {}
    return {str(key): str(value) for key, value in stated.items()}


def session_of(conf: Mapping[str, str], place: str) -> SparkSession:
    """The session of this process, which is started with these settings if there is none; it is in UTC.

    Parameters
    ----------
    conf : mapping
        Spark's settings.
    place : str
        Where they are stated, for messages.

    Raises
    ------
    MissingExtraError
        When pyspark is not installed.
    EngineError
        When Spark does not start, mostly for want of Java.
    """
    require("pyspark", purpose="an engine on Spark", extra="spark")
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    if conf.get("spark.master", "local").startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need sidkit
    builder = SparkSession.builder.appName("sidkit")
    for key, value in {**conf, **ALWAYS}.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, OSError) as error:
        raise EngineError(
            f"expected Spark to start, got: {str(error).splitlines()[0]} Install Java 17 or later, set JAVA_HOME, and check "
            f"offline_store.spark_conf in {place}"
        ) from error
    note_settings(conf)
    session.sparkContext.setLogLevel("ERROR")
    return session


def spark_session(repo: Repo) -> SparkSession:
    """The session of this process with a repository's settings; see :func:`session_of`."""
    return session_of(spark_conf(repo), str(repo.path / FEAST_FILE))


@contextmanager
def spark_connection(repo: Repo) -> Iterator[SparkConnection]:
    """Open a connection whose relations disappear at its end; the session stays for the next one.

    Raises
    ------
    MissingExtraError, EngineError
        See :func:`session_of`; an EngineError also when Spark refuses a statement.
    """
    session = spark_session(repo).newSession()
    for key, value in ALWAYS.items():
        session.conf.set(key, value)
    opened = SparkConnection(session, repo.data / "tmp" / "spark", repo.settings.engine)
    try:
        with spark_errors():
            yield opened
    finally:
        opened.close()


class SparkConnection:
    """Runs DuckDB's SQL on Spark.

    Parameters
    ----------
    session : SparkSession
        A session of its own: its temporary views are dropped.
    work : Path
        Folder for the parts of files that are written.
    engine : EngineSettings
        Limits of the DuckDB connection that joins the parts.
    """

    def __init__(self, session: SparkSession, work: Path, engine: EngineSettings) -> None:
        self._session, self._work, self._engine = session, work, engine
        self._variables: dict[str, Any] = {}
        self._tables: dict[str, DataFrame] = {}
        self._views: set[str] = set()
        self._numbers = itertools.count()

    def execute(self, query: str, parameters: Any = None) -> SparkResult:
        """Run statements; see :class:`sidkit.core.sql_connection.SqlConnection`."""
        if known := _SET.fullmatch(query):
            self._variables[known[1]] = parameters["value"]
            return SparkResult(None)
        result = SparkResult(None)
        for statement in translated(query, self._variables, parameters, self._read):
            result = self._run(statement)
        return result

    def close(self) -> None:
        """Drop the relations and the written parts."""
        for view in self._views:
            self._session.catalog.dropTempView(view)
        for frame in self._tables.values():
            frame.unpersist()
        remove(self._work)

    def _run(self, statement: Statement) -> SparkResult:
        if statement.kind == "drop":
            self._session.catalog.dropTempView(statement.name)
            self._forget(statement.name)
            return SparkResult(None)
        frame = self._session.sql(statement.text)
        if statement.kind == "query":
            return SparkResult(frame)
        if statement.kind == "copy":
            self._write(frame, Path(statement.name))
            return SparkResult(None)
        if statement.kind == "table":
            from pyspark import StorageLevel

            frame = frame.persist(StorageLevel.MEMORY_AND_DISK)
            former = self._tables.get(statement.name)
            self._tables[statement.name] = frame
            self._show(statement.name, frame)
            if former is not None:
                frame.count()  # it may read the former one
                former.unpersist()
            return SparkResult(None)
        self._show(statement.name, frame)
        return SparkResult(None)

    def _forget(self, name: str) -> None:
        self._views.discard(name)
        if (frame := self._tables.pop(name, None)) is not None:
            frame.unpersist()

    def _show(self, name: str, frame: DataFrame) -> None:
        frame.createOrReplaceTempView(name)
        self._views.add(name)

    def _read(self, files: Sequence[str], options: frozenset[str]) -> str:
        reader = self._session.read
        if "union_by_name" in options:
            reader = reader.option("mergeSchema", "true")
        frame = reader.parquet(*files)
        if "file_row_number" in options:
            frame = frame.selectExpr("*", "_metadata.row_index AS file_row_number")
        name = f"_files_{next(self._numbers)}"
        self._show(name, frame)
        return name

    def _write(self, frame: DataFrame, path: Path) -> None:
        """Write sorted parts, and join them in their order."""
        parts = self._work / f"parts-{next(self._numbers)}"
        frame.write.option("compression", "zstd").parquet(str(parts))
        listed = ", ".join(literal(part) for part in sorted(parts.glob("part-*.parquet")))
        with connection(self._engine, self._work / "duckdb") as opened, working_on("joining the parts of a table"):
            opened.execute("SET preserve_insertion_order = true")
            opened.execute(f"COPY (SELECT * FROM read_parquet([{listed}])) {into(path)}")
        remove(parts)


class SparkResult:
    """The rows of a query, computed when they are asked for."""

    def __init__(self, frame: DataFrame | None) -> None:
        self._frame = frame
        self._rows: Iterator[Any] | None = None

    @property
    def description(self) -> list[tuple[str]]:
        """The names of the columns."""
        return [] if self._frame is None else [(name,) for name in self._frame.columns]

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self._remaining(), None)

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return list(self._remaining())

    def to_arrow_table(self) -> pa.Table:
        """All rows as a table."""
        return pa.table({}) if self._frame is None else self._frame.toArrow()

    def _remaining(self) -> Iterator[Any]:
        if self._rows is None:
            self._rows = iter([] if self._frame is None else [tuple(row) for row in self._frame.collect()])
        return self._rows
