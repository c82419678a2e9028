"""Ids, columns and folders whose names are SQL: the same log under plain names gives the same codes, features and scores."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sidkit
from helpers.builders import FinishedJob
from helpers.small_logs import run_small_job, write_log
from ranking.data.export import write_frame
from ranking.serving.scorer import Scorer
from semantic_ids.catalog import Catalog, table_path
from semantic_ids.lookup import codes_of, items_of
from sidkit.core.engine import literal, quoted
from sidkit.tables import read_log
from sidkit.tables.builder import TABLES

OPENED = duckdb.connect()
PREFIX = "'; DROP TABLE log; -- \"$1 {} %s \\ "
FOLDER = 'o\'brien "x"; DROP TABLE log --'
ATTRIBUTES = ("it's", 'a"b', "x); DROP TABLE staged; --", "select", "nth of", "$1", "%s", "{}")


def run(folder: Path, prefix: str, attributes: tuple[str, ...]) -> FinishedJob:
    source = write_log(folder / "source", 48, users=30, prefix=prefix)
    items = pq.read_table(source / "items.parquet")
    for name in attributes:
        items = items.append_column(name, pa.array([name] * len(items)))
    pq.write_table(items, source / "items.parquet")
    return run_small_job(folder, source)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedJob, FinishedJob]:
    folder = tmp_path_factory.mktemp("names")
    for name in ("plain", FOLDER):
        (folder / name).mkdir()
    return run(folder / "plain", "", ()), run(folder / FOLDER, PREFIX, ATTRIBUTES)


def stripped(table: pa.Table) -> pa.Table:
    """The table with plain ids."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and field.name.endswith("_id"):
            plain = pa.array([value.removeprefix(PREFIX) for value in table.column(place).to_pylist()])
            table = table.set_column(place, field.name, plain)
    return table


@pytest.mark.parametrize("name", [*TABLES, "codes"])
def test_tables_are_those_of_plain_names(both: tuple[FinishedJob, FinishedJob], name: str) -> None:
    found = []
    for job in both:
        path = job.repo.tables / f"{name}.parquet"
        if name == "codes":
            path = table_path(job.repo, Catalog.open(job.repo).serving_codebook().name)
        table = pq.read_table(path)
        found.append(
            stripped(table.drop_columns([column for column in ("assigned_at_us",) if column in table.column_names]))
        )
    plain, hostile = found
    if name == "user_history":
        histories = [[value.removeprefix(PREFIX) for value in row] for row in hostile.column("item_ids").to_pylist()]
        assert histories == plain.column("item_ids").to_pylist()
        plain, hostile = (table.drop_columns(["item_ids"]) for table in (plain, hostile))
    assert len(plain) > 40
    assert plain.equals(hostile)


def test_attributes_arrive_unchanged(both: tuple[FinishedJob, FinishedJob]) -> None:
    items = pq.read_table(read_log(both[1].repo).items)
    for name in ATTRIBUTES:
        assert set(items.column(name).to_pylist()) == {name}


def test_arms_scores_and_frames_are_those_of_plain_names(both: tuple[FinishedJob, FinishedJob], tmp_path: Path) -> None:
    plain, hostile = both
    for one, other in zip(plain.output["arms"], hostile.output["arms"], strict=True):
        assert one == other
    at = plain.result.as_of_us
    scores, frames = [], []
    for job, prefix in zip(both, ("", PREFIX), strict=True):
        items = [f"{prefix}i{number}" for number in (3, 1, 41)]
        scores.append(np.asarray(Scorer(job.repo).score(f"{prefix}u7", items, at)))
        rows = pa.table({
            "user_id": [f"{prefix}u7"] * 3, "item_id": items, "event_timestamp": pa.array([at] * 3, pa.timestamp("us", "UTC")),
        })  # fmt: skip
        pq.write_table(rows, tmp_path / "rows.parquet")
        write_frame(job.repo, tmp_path / "rows.parquet", tmp_path / "frame.parquet")
        frames.append(pq.read_table(tmp_path / "frame.parquet").column("item_stats__clicks_all").to_pylist())
    np.testing.assert_array_equal(scores[0], scores[1])
    assert frames[0] == frames[1]
    assert None not in frames[0]


def test_look_ups_find_the_same_items(both: tuple[FinishedJob, FinishedJob]) -> None:
    plain, hostile = both
    asked = [f"i{number}" for number in range(0, 48, 7)]
    codes = codes_of(plain.repo, asked)
    assert codes_of(hostile.repo, [PREFIX + item for item in asked]) == {
        PREFIX + item: found for item, found in codes.items()
    }
    first = str((codes["i0"] or [0])[0])
    of_hostile = [(item.removeprefix(PREFIX), found) for item, found, _ in items_of(hostile.repo, first)]
    assert of_hostile == [(item, found) for item, found, _ in items_of(plain.repo, first)]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
@example("'; DROP TABLE t; --")
@example('"; DROP TABLE t; --')
def test_a_literal_and_a_quoted_name_mean_what_they_were_made_of(text: str) -> None:
    assert OPENED.execute(f"SELECT {literal(text)}").fetchone() == (text,)
    named = OPENED.execute(f"SELECT 1 AS {quoted(text)}").description if text else [(text,)]
    assert named is not None
    assert named[0][0] == text


def test_no_statement_puts_quotes_around_a_value_by_hand() -> None:
    """A name or a text inside an SQL f-string goes through ``quoted`` or ``literal``, which escape it."""
    root = Path(sidkit.__file__).parent.parent
    seen = 0
    for path in (file for room in ("sidkit", "semantic_ids", "ranking") for file in (root / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            texts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            if not any(
                word in text for text in texts if text for word in ("SELECT ", "COPY ", "INSERT ", "WHERE ", "DROP ")
            ):
                continue
            seen += 1
            for before, after in pairwise(texts):
                assert before is None or after is not None or not before.endswith(("'", '"')), f"{path}:{node.lineno}"
    assert seen > 50
