"""Rows that break the contract: the line of pandas that the refusal gives is executed and leads to an accepted table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, START, moments, write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, VECTORS, changed, good, read
from ranking.data.dataset import read_rows
from sidkit.contract.row_remedies import row_remedy
from sidkit.core.clock import present_us
from sidkit.core.errors import ContractError, RejectedRowsError, TableSchemaError

TIMES = good()["interactions"]["timestamp"].cast(pa.int64()).to_pylist()
AHEAD = present_us() + 400 * DAY
NAN, INF = float("nan"), float("inf")


def but(values: list[Any], *broken: Any) -> list[Any]:
    return [*broken, *values[len(broken) :]]


LABELS = [float(n % 2) for n in range(N_EVENTS)]
USERS = [f"u{n % 3}" for n in range(N_EVENTS)]
BROKEN: list[tuple[str, str, Any]] = [
    ("interactions", "label", pa.array(but(LABELS, None), pa.float64())),
    ("interactions", "label", pa.array(but(LABELS, 2.0, -1.0))),
    ("interactions", "label", pa.array([1.0, 2.0, 3.0, 4.0, 5.0, None] * 2)),
    ("interactions", "label", pa.array([0.1, 0.5, 0.9, 0.95] * 3)),
    ("interactions", "label", pa.array([-1, 1, 2] * 4)),
    ("interactions", "user_id", pa.array(but(USERS, None))),
    ("interactions", "user_id", pa.array(but(USERS, ""))),
    ("interactions", "item_id", pa.array(but([f"i{n % N_ITEMS}" for n in range(N_EVENTS)], None))),
    ("interactions", "timestamp", moments(but(TIMES, None))),
    ("interactions", "timestamp", moments(but(TIMES, 7_300_000_000_000_000))),
    ("interactions", "timestamp", moments(but(TIMES, -5))),
    ("interactions", "timestamp", moments(but(TIMES, AHEAD))),
    ("interactions", "timestamp", moments(but(TIMES, 3_600_000_000))),
    ("interactions", "timestamp", pa.array(but(["2020-01-01T00:00:00Z"] * N_EVENTS, "n/a"))),
    ("interactions", "position", pa.array(but([1.0] * N_EVENTS, 1.5, INF, 3e9))),
    ("interactions", "rating", pa.array(but([1.0] * N_EVENTS, -INF))),
    ("items", "price", pa.array(but([1.0] * N_ITEMS, INF))),
    ("items", "updated_at", moments(but([START] * N_ITEMS, START - DAY))),
    ("items", "removed_at", moments(but([START] * N_ITEMS, START - DAY))),
    ("items", "created_at", moments(but([START] * N_ITEMS, AHEAD))),
    ("item_embeddings", "text", pa.array(but(VECTORS, []), pa.list_(pa.float32()))),
    ("item_embeddings", "text", pa.array(but(VECTORS, [1.0]), pa.list_(pa.float32()))),
    ("item_embeddings", "text", pa.array(but(VECTORS, [NAN, 1.0], None), pa.list_(pa.float32()))),
    ("item_embeddings", "text", pa.array(but(VECTORS, [1e30, 1.0]), pa.list_(pa.float32()))),
]


def executed(line: str, table: pa.Table) -> pa.Table:
    names = {"df": table.to_pandas(), "pd": pd, "np": np}
    exec(line, names)
    return pa.Table.from_pandas(names["df"], preserve_index=False)


def line_of(refused: RejectedRowsError) -> str:
    found = re.search(r"\(for example: (df.*)\), or raise", str(refused))
    assert found is not None
    return found[1]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_the_line_against_broken_rows_is_executed_and_leads_to_an_accepted_table(number: int, tmp_path: Path) -> None:
    table, name, column = BROKEN[number]
    tables = changed(table, **{name: column})
    with pytest.raises(RejectedRowsError, match=r"for example: df") as refused:
        read(write_tables(tmp_path / "source", tables), tmp_path / "work", unknown_items="keep")
    line = line_of(refused.value)
    missing = tables[table][name].null_count
    tables[table] = executed(line, tables[table])
    if name == "label" and "threshold" in line:
        assert tables[table][name].null_count == missing  # what is missing does not become a negative
    if name == "label" or "coerce" in line:
        tables[table] = tables[table].filter(tables[table][name].is_valid())
    if table == "items":  # events of an item that is left out
        kept = tables["items"]["item_id"].to_pylist()
        tables["item_embeddings"] = tables["item_embeddings"].filter(
            pa.array([item in kept for item in tables["item_embeddings"]["item_id"].to_pylist()])
        )
    assert len(tables[table]) >= refused.value.total - refused.value.rejected
    accepted = read(write_tables(tmp_path / "fixed", tables), tmp_path / "work2", unknown_items="keep")
    if name == "label":
        labels = accepted["interactions"]["label"].to_pylist()
        assert set(labels) == {0, 1}
        if number == 1:  # the sound rows keep their labels
            assert labels == [int(label) for label in LABELS[2:]]


@pytest.mark.parametrize(
    "rows",
    [
        {"item_id": ["i0", "i0"], "created_at": [START, START]},
        {"item_id": ["i0", "i0"], "created_at": [START, START], "updated_at": [START, START]},
    ],
)
def test_second_rows_of_an_item_are_removed_by_the_line(rows: dict[str, Any], tmp_path: Path) -> None:
    tables = good()
    items = pa.table(
        {name: moments(values) if name.endswith("_at") else pa.array(values) for name, values in rows.items()}
    )
    tables["items"] = pa.concat_tables([tables["items"], items], promote_options="default")
    with pytest.raises(RejectedRowsError, match="for example: df") as refused:
        read(write_tables(tmp_path / "source", tables), tmp_path / "work")
    tables["items"] = executed(line_of(refused.value), tables["items"])
    assert len(read(write_tables(tmp_path / "fixed", tables), tmp_path / "work2")["items"]) == N_ITEMS


def test_a_reason_without_a_line_gives_none() -> None:
    assert row_remedy("user_id is not UTF-8", 0.1) == ""
    assert "first_interaction" in row_remedy("created_at is missing", 0.1)
    assert row_remedy("an exact copy of another row", 0.1) == "df = df.drop_duplicates()"


def test_a_file_of_rows_is_refused_with_the_line_that_helps(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "user_id": USERS, "item_id": ["i0"] * N_EVENTS, "event_timestamp": moments(TIMES),
            "label": pa.array(but(LABELS, None, 1.7), pa.float64()),
        }
    )  # fmt: skip
    path = tmp_path / "rows.parquet"
    for _ in range(2):
        pq.write_table(rows, path)
        with pytest.raises(ContractError, match="first in row.*For example: df = ") as refused:
            read_rows(path)
        line = re.search(r"For example: (df = .*?)\. Fix or remove", str(refused.value))
        assert line is not None
        rows = executed(line[1], rows)
    pq.write_table(rows, path)
    assert read_rows(path).label.tolist() == [int(label) for label in LABELS[2:]]


@pytest.mark.parametrize(("stored", "true"), [("s", "ms"), ("us", "ns"), ("ms", "us"), ("us", "ms")])
def test_a_unit_that_leads_beyond_2200_is_named_and_the_line_reads_the_times(
    stored: str, true: str, tmp_path: Path
) -> None:
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    seconds = [1_600_000_000 + 3_600 * n for n in range(N_EVENTS)]
    times = pa.array([at * per[true] for at in seconds]).cast(pa.timestamp(stored, "UTC"))
    tables = changed("interactions", timestamp=times)
    with pytest.raises(TableSchemaError, match="a wrong unit") as refused:
        read(write_tables(tmp_path / "source", tables), tmp_path / "work")
    tables["interactions"] = executed(str(refused.value).partition("For example: ")[2], tables["interactions"])
    accepted = read(write_tables(tmp_path / "fixed", tables), tmp_path / "work2")["interactions"]["timestamp"]
    assert sorted(accepted.cast(pa.int64()).to_pylist()) == [at * 10**6 for at in seconds]
