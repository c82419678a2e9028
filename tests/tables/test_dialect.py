"""DuckDB's SQL as Spark's text: as-of joins without such a join, variables, files, and a fixed text per file."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.places import ROOT
from sidkit.tables.engines.as_of import without_as_of_joins
from sidkit.tables.engines.dialect import Statement, translated

FILES = (*sorted((ROOT / "sidkit" / "tables").glob("*.sql")), ROOT / "semantic_ids" / "item_sid.sql")
GOLDEN = Path(__file__).parent / "golden"
VARIABLES = {
    "as_of_us": 1_700_000_000_000_000, "delay_us": 60_000_000, "cadence_us": 60_000_000, "history_length": 50,
    "positives_only": False, "conversions": True, "default_restart_us": 0, "short_windows": True,
    "window_end_us": 1_699_999_980_000_000, "assigned_at_us": 1_700_000_001_000_000,
}  # fmt: skip
ROWS = st.lists(st.tuples(st.sampled_from("ab") | st.none(), st.integers(0, 6) | st.none()), max_size=12)
"""Rows of a key and a time, of which some are null."""


def text_of(statements: list[Statement]) -> str:
    return "".join(f"-- {each.kind} {each.name}".rstrip() + f"\n{each.text}\n" for each in statements)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_text_for_spark_of_every_file_is_pinned(file: Path) -> None:
    golden = GOLDEN / f"{file.stem}.spark.sql"
    text = text_of(translated(file.read_text(), VARIABLES, pretty=True))
    if os.environ.get("SIDKIT_GOLDEN"):  # after a change of a file: write the new text, and read the difference
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_pinned_text_has_its_file() -> None:
    assert {path.name.removesuffix(".spark.sql") for path in GOLDEN.iterdir()} == {file.stem for file in FILES}


@pytest.mark.parametrize("side", ["", "LEFT"])
@given(left=ROWS, right=ROWS)
def test_a_running_maximum_finds_what_an_as_of_join_finds(
    side: str, left: list[tuple[str | None, int | None]], right: list[tuple[str | None, int | None]]
) -> None:
    import sqlglot

    right = list(dict.fromkeys(right))  # unique by key and time
    query = f"SELECT l.n, r.n AS m FROM l ASOF {side} JOIN r ON l.k = r.k AND l.t >= r.s"
    with duckdb.connect(config={"threads": 1}) as opened:
        for name, time, rows in (("l", "t", left), ("r", "s", right)):
            opened.execute(f"CREATE TABLE {name} (n INTEGER, k VARCHAR, {time} BIGINT)")
            for at, row in enumerate(rows):
                opened.execute(f"INSERT INTO {name} VALUES (?, ?, ?)", [at, *row])
        expected = opened.execute(f"{query} ORDER BY ALL").fetchall()
        rewritten = without_as_of_joins(sqlglot.parse_one(query, read="duckdb")).sql("duckdb")
        assert "ASOF" not in rewritten
        assert opened.execute(f"{rewritten} ORDER BY ALL").fetchall() == expected


@pytest.mark.parametrize(
    "query",
    [
        "SELECT l.n FROM l ASOF JOIN r ON l.t >= r.s",
        "SELECT l.n FROM l ASOF JOIN r ON l.k = r.k AND l.t > r.s",
        "SELECT l.n FROM l JOIN x USING (k) ASOF JOIN r ON l.k = r.k AND l.t >= r.s",
    ],
)
def test_as_of_joins_of_other_forms_are_refused(query: str) -> None:
    with pytest.raises(ValueError, match="expected an as-of join"):
        translated(query, {})


def test_statements_are_told_apart() -> None:
    text = """
        CREATE OR REPLACE TEMP VIEW v AS SELECT 1 AS a; CREATE OR REPLACE TEMP TABLE t AS SELECT a FROM v; DROP TABLE t;
        COPY (SELECT a FROM v ORDER BY a) TO '/x.parquet' (FORMAT parquet, COMPRESSION zstd); COPY v TO '/y' (FORMAT parquet)
    """
    assert translated(text, {}) == [
        Statement("view", "SELECT 1 AS a", "v"), Statement("table", "SELECT a FROM v", "t"), Statement("drop", "", "t"),
        Statement("copy", "SELECT a FROM v ORDER BY a NULLS LAST", "/x.parquet"), Statement("copy", "SELECT * FROM v", "/y"),
    ]  # fmt: skip


def test_variables_and_parameters_become_literals() -> None:
    (statement,) = translated(
        "SELECT getvariable('n') + a, if(getvariable('yes'), 1, 2), getvariable('who') FROM t WHERE b <= $last",
        {"n": 5, "yes": True, "who": "o'brien"},
        {"last": 7},
    )
    assert statement.text == (
        "SELECT CAST(5 AS BIGINT) + a, IF(TRUE, 1, 2), 'o\\'brien' FROM t WHERE b <= CAST(7 AS BIGINT)"
    )
    with pytest.raises(ValueError, match="expected a value of missing, got none"):
        translated("SELECT getvariable('missing')", {})


def test_files_become_relations() -> None:
    asked = []

    def read(files: object, options: object) -> str:
        asked.append((files, options))
        return "rows"

    (statement,) = translated(
        "SELECT old.a FROM read_parquet(['/x 1', '/y'], file_row_number = true) AS old, read_parquet('/z')",
        {},
        None,
        read,
    )
    assert statement.text == "SELECT old.a FROM rows AS old, rows"
    assert asked == [(["/x 1", "/y"], frozenset({"file_row_number"})), (["/z"], frozenset())]
    with pytest.raises(ValueError, match="expected no files in this statement, got /z"):
        translated("SELECT * FROM read_parquet('/z')", {})


@pytest.mark.parametrize("query", ["INSERT INTO t VALUES (1)", "SELECT a FROM t UNION ALL BY NAME SELECT a FROM t"])
def test_statements_that_spark_has_not_are_refused(query: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        translated(query, {})
