"""Tables that Spark builds are those of DuckDB, cell by cell; constructs that both engines could read differently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from helpers.attribute_world import attribute_repo, attribute_tables
from helpers.builders import write_tables
from helpers.spark_builders import CONF, needs_spark, on_spark
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, literal, set_variables
from sidkit.core.errors import EngineError
from sidkit.core.repo import Repo
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables import build_tables, ingest, read_build, read_log

pytestmark = needs_spark
EVENTS = 500


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, Repo]:
    """One world on both engines: a build of half the log, then one of all of it with late and new rows."""
    folder = tmp_path_factory.mktemp("engines")
    tables = attribute_tables(EVENTS)
    events = tables["interactions"]
    early = events.take([row for row in range(EVENTS) if row % 7])
    write_tables(folder / "source", {**tables, "interactions": early})
    repos = tuple(attribute_repo(folder / name, folder / "source") for name in ("duckdb", "spark"))
    repos = (repos[0], on_spark(repos[1]))
    for repo in repos:
        ingest(repo)
    log = read_log(repos[0])
    half = (log.first_us + log.last_us) // 2
    for repo in repos:
        build_tables(repo, half)
    write_tables(folder / "source", {**tables, "interactions": events})
    for repo in repos:
        ingest(repo)
        build_tables(repo, log.last_us + 86_400_000_000)
    return repos


def differing(opened: Any, ours: Path, theirs: Path) -> int:
    one, other = (f"(FROM read_parquet({literal(path)}))" for path in (ours, theirs))
    row = opened.execute(
        f"SELECT (SELECT count(*) FROM ({one} EXCEPT ALL {other})) + (SELECT count(*) FROM ({other} EXCEPT ALL {one}))"
    ).fetchone()
    return int(row[0])


def test_no_cell_of_any_table_differs(built: tuple[Repo, Repo]) -> None:
    local, spark = built
    rows = read_build(local)["rows"]
    assert read_build(spark)["rows"] == rows
    assert set(rows) >= {
        "item_content", "item_stats", "user_history", "user_stats", "item_attributes", "user_attributes",
    }  # fmt: skip
    assert any(name.endswith("_stats") for name in set(rows) - {"item_stats", "user_stats"}) and min(rows.values()) > 0
    with duckdb.connect() as opened:
        for name in rows:
            ours, theirs = (repo.tables / f"{name}.parquet" for repo in built)
            assert differing(opened, ours, theirs) == 0, name
            described = [
                opened.execute(f"DESCRIBE FROM read_parquet({literal(path)})").fetchall() for path in (ours, theirs)
            ]
            assert described[0] == described[1], name


def test_the_files_are_sorted_by_time_and_nothing_is_left_behind(built: tuple[Repo, Repo]) -> None:
    with duckdb.connect() as opened:
        for name in read_build(built[1])["rows"]:
            times = opened.execute(
                "SELECT epoch_us(event_timestamp) FROM read_parquet($path, file_row_number = true) ORDER BY file_row_number",
                {"path": str(built[1].tables / f"{name}.parquet")},
            ).fetchall()
            assert times == sorted(times), name
    assert not (built[1].data / "tmp" / "spark").exists()


def test_a_repository_may_change_its_engine_between_builds(built: tuple[Repo, Repo]) -> None:
    from sidkit.profiles.switch import switch_profile

    local, spark = built
    before = (spark.tables / "item_stats.parquet").read_bytes()
    switch_profile(spark, "local", replace_edited=True)
    report = build_tables(Repo.open(spark.path), read_build(local)["as_of_us"])
    assert report.unchanged and (spark.tables / "item_stats.parquet").read_bytes() == before
    on_spark(spark)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqlConnection, SqlConnection]]:
    from sidkit.tables.engines.spark import SparkConnection, session_of

    work = tmp_path_factory.mktemp("constructs")
    with connection(EngineSettings(), None) as opened:
        spark = SparkConnection(session_of(CONF, "the test").newSession(), work, EngineSettings())
        for each in (opened, spark):
            set_variables(each, {"n": 3, "yes": True, "us": 1_700_000_000_123_456})
        yield opened, spark
        spark.close()


def of(query: str, rows: str, columns: str = "a") -> str:
    """A query with ``FROM rows``, which are given as values."""
    return query.replace("FROM rows", f"FROM (SELECT * FROM (VALUES {rows}) AS given({columns}))")


SAME = {
    "integer division": of("SELECT a // getvariable('n') FROM rows ORDER BY a", "(7), (-7), (0), (NULL)"),
    "nulls are last in both directions": of("SELECT a FROM rows ORDER BY a DESC", "(2), (NULL), (1)"),
    "nulls are last": of("SELECT a FROM rows ORDER BY a", "(2), (NULL), (1)"),
    "counts with a filter": of(
        "SELECT count(*), count(*) FILTER (a > 1), sum(a) FILTER (a > 9) FROM rows", "(1), (2), (NULL)"
    ),
    "epoch to time and back": of(
        "SELECT epoch_us(make_timestamptz(a)) FROM rows ORDER BY a", "(1700000000123456), (-1), (0)"
    ),
    "greatest ignores nulls": of("SELECT greatest(a, b) FROM rows ORDER BY 1", "(1, NULL), (1, 2)", "a, b"),
    "lists of a window have its order": of(
        "SELECT list(a) OVER (PARTITION BY k ORDER BY b ROWS BETWEEN CURRENT ROW AND (getvariable('n') - 1) FOLLOWING) "
        "FROM rows ORDER BY b",
        "('x', 1, 9), ('x', 2, 7), ('x', 3, 8), ('x', 4, 6)",
        "k, a, b",
    ),
    "text is sorted by its bytes": of(
        "SELECT a FROM rows ORDER BY a", "('b'), ('B'), ('ä'), ('a'), ('é'), ('10'), ('9')"
    ),
    "newest value of each key": of(
        "SELECT k, arg_max(a, b) FROM rows GROUP BY k ORDER BY k", "('x', 1, 5), ('x', 2, 7), ('y', 3, 1)", "k, a, b"
    ),
    "two keys are one": of(
        "SELECT e, count(*) FROM (SELECT struct_pack(_0 := a, _1 := b) AS e FROM rows) GROUP BY e "
        "ORDER BY struct_extract(e, '_0')",
        "('1', '11'), ('11', '1'), ('1', '11')",
        "a, b",
    ),
    "distinct values of a list": "SELECT unnest(list_distinct(a)) AS a FROM (SELECT ['x', 'y', 'x'] AS a) ORDER BY a",
    "a key as JSON": of("SELECT to_json([a, b])::VARCHAR FROM rows", "('a\"', 'ü/')", "a, b"),
    "the first of each key": of(
        "SELECT k, a FROM rows QUALIFY row_number() OVER (PARTITION BY k ORDER BY a DESC) = 1 ORDER BY k",
        "('x', 1), ('x', 2), ('y', 3)",
        "k, a",
    ),
    "values are compared with nulls": of(
        "SELECT a IS NOT DISTINCT FROM b FROM rows ORDER BY a, b", "(NULL, NULL), (1, NULL), (1, 1)", "a, b"
    ),
}


@pytest.mark.parametrize("query", SAME.values(), ids=SAME)
def test_both_engines_read_it_alike(engines: tuple[SqlConnection, SqlConnection], query: str) -> None:
    answers = [[plain(row) for row in engine.execute(query).fetchall()] for engine in engines]
    assert answers[0] == answers[1]


def plain(row: Any) -> list[Any]:
    return [
        list(cell.values()) if isinstance(cell, dict) else list(cell) if isinstance(cell, list | tuple) else cell
        for cell in row
    ]


def test_the_newest_value_may_be_null_in_spark_only(engines: tuple[SqlConnection, SqlConnection]) -> None:
    # trailing_counts.sql takes counts, which are all known or all null.
    query = of("SELECT arg_max(a, b) FROM rows", "(1, 1), (NULL, 2)", "a, b")
    assert [engine.execute(query).fetchone()[0] for engine in engines] == [1, None]


def test_lists_have_no_nulls_in_spark(engines: tuple[SqlConnection, SqlConnection]) -> None:
    # user_history.sql lists keys and times, which are never null.
    query = of("SELECT list(a) FROM rows", "(1), (NULL)")
    assert [engine.execute(query).fetchone()[0] for engine in engines] == [[1, None], [1]]


def test_hashes_tell_lists_and_nulls_apart(engines: tuple[SqlConnection, SqlConnection]) -> None:
    query = of(
        "SELECT count(DISTINCT hash(a, b)) FROM rows", "([1.5], 'x'), ([1.5], 'y'), ([2.5], 'x'), (NULL, 'x')", "a, b"
    )
    assert [engine.execute(query).fetchone()[0] for engine in engines] == [4, 4]


def test_times_of_files_are_in_utc(engines: tuple[SqlConnection, SqlConnection], tmp_path: Path) -> None:
    for at, engine in enumerate(engines):
        path = tmp_path / f"{at}.parquet"
        engine.execute(
            f"COPY (SELECT make_timestamptz(getvariable('us')) AS event_timestamp) TO {literal(path)} (FORMAT parquet)"
        )
        with duckdb.connect() as opened:
            kind = opened.execute(
                f"SELECT typeof(event_timestamp), epoch_us(event_timestamp) FROM {literal(path)}"
            ).fetchone()
        assert kind == ("TIMESTAMP WITH TIME ZONE", 1_700_000_000_123_456)
        back = [
            each.execute(f"SELECT epoch_us(event_timestamp) FROM read_parquet({literal(path)})").fetchone()
            for each in engines
        ]
        assert back == [(1_700_000_000_123_456,)] * 2


def test_a_statement_that_spark_refuses_is_one_message(tmp_path: Path, built: tuple[Repo, Repo]) -> None:
    from sidkit.core.engine import working_on
    from sidkit.tables.engines import table_connection

    def build() -> None:
        with table_connection(built[1]) as opened, working_on("building the table x"):
            opened.execute("SELECT a FROM nowhere")

    with pytest.raises(EngineError, match=r"Spark stopped building the table x: .*nowhere") as caught:
        build()
    assert "\n" not in str(caught.value)
