"""Sources at the edges: parts of several types, columns of several types, attributes that nobody reads, names, places."""

from __future__ import annotations

import datetime
import decimal
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from helpers.builders import write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, VECTORS, Tables, changed, good, read, sqlite
from sidkit.contract import inspect_source, open_source, validate
from sidkit.contract.report import TableReport
from sidkit.core.config import EngineSettings, NegativeSettings, Settings, SourceSettings, TimeSettings
from sidkit.core.engine import connection
from sidkit.core.errors import ContractError, RejectedRowsError, TableSchemaError


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def in_parts(folder: Path, name: str, *parts: pa.Table) -> Path:
    tables = good()
    tables.pop(name)
    write_tables(folder, tables)
    (folder / name).mkdir()
    for number, part in enumerate(parts):
        pq.write_table(part, folder / name / f"part-{number}.parquet")
    return folder


def halves(name: str, column: str, first: Any, second: Any) -> tuple[pa.Table, pa.Table]:
    table = good()[name]
    half = len(table) // 2
    return put(table.slice(0, half), column, first), put(table.slice(half), column, second)


def reports(url: object, work: Path, **source: Any) -> dict[str, TableReport]:
    settings = Settings(
        source=SourceSettings(url=str(url), max_reject_share=1.0, **source), engine=EngineSettings(threads=1)
    )
    with connection(settings.engine, work / "spill") as opened:
        valid = validate(open_source(str(url)), settings, opened, work / "valid", None)
    return {report.table: report for report in valid.reports}


D = decimal.Decimal
SURVIVE: dict[str, tuple[pa.Array, pa.Array, list[Any]]] = {
    "whole and broken numbers": (pa.array([3, 4]), pa.array([2.75, 0.5]), [3.0, 4.0, 2.75, 0.5]),
    "broken and whole numbers": (pa.array([2.75, 0.5]), pa.array([3, 4]), [2.75, 0.5, 3.0, 4.0]),
    "small and large integers": (pa.array([1, 2], pa.int8()), pa.array([2**40, 1]), [1, 2, 2**40, 1]),
    "nothing and integers": (pa.nulls(2), pa.array([1, 2]), [None, None, 1, 2]),
    "integers and nothing": (pa.array([1, 2]), pa.nulls(2), [1, 2, None, None]),
    "categories and text": (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "d"]), ["a", "b", "c", "d"]),
    "text of two kinds": (pa.array(["a", "b"]), pa.array(["c", "d"], pa.large_string()), ["a", "b", "c", "d"]),
    "decimals": (pa.array([D("1.5")] * 2), pa.array([D("100.25")] * 2), [D("1.50"), D("1.50"), D("100.25"), D("100.25")]),
}  # fmt: skip


@pytest.mark.parametrize("case", SURVIVE)
def test_an_attribute_of_several_types_keeps_every_value(case: str, tmp_path: Path) -> None:
    first, second, expected = SURVIVE[case]
    folder = in_parts(tmp_path / "source", "items", *halves("items", "size", first, second))
    assert read(folder, tmp_path / "work")["items"]["size"].to_pylist() == expected


CLASH: dict[str, tuple[str, str, Any, Any]] = {
    "an integer that no float holds": ("items", "size", [2**60 + 1, 1], [1.5, 2.5]),
    "unsigned beyond signed": ("items", "size", pa.array([2**64 - 1, 1], pa.uint64()), [-1, 1]),
    "booleans and numbers": ("items", "size", [True, False], [2, 3]),
    "naive and zoned times": (
        "items", "seen", pa.array([1, 2], pa.timestamp("us")), pa.array([1, 2], pa.timestamp("us", "UTC")),
    ),
    "times that no unit holds": (
        "items", "seen", pa.array([2**40, 2], pa.timestamp("s")), pa.array([1, 2], pa.timestamp("ns")),
    ),
    "naive times": ("interactions", "timestamp", good()["interactions"]["timestamp"].slice(0, 6).combine_chunks(),
                    good()["interactions"]["timestamp"].slice(6).combine_chunks().cast(pa.timestamp("us"))),
    "labels as text": ("interactions", "label", [1, 0] * 3, ["click", "skip"] * 3),
    "blobs and vectors": ("item_embeddings", "image", [b"a", b"b"], VECTORS[:2]),
    "texts and vectors": ("item_embeddings", "image", ["[1, 2]"] * 2, VECTORS[:2]),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASH)
def test_parts_that_no_type_holds_together_are_refused_by_name(case: str, tmp_path: Path) -> None:
    name, column, first, second = CLASH[case]
    folder = in_parts(tmp_path / "source", name, *halves(name, column, first, second))

    def opened() -> None:
        inspect_source(open_source(str(folder)))
        read(folder, tmp_path / "work")

    with pytest.raises(TableSchemaError, match=rf"{name}: .*part-1\.parquet"):
        opened()


def test_ids_may_be_numbers_in_one_part_and_text_in_another(tmp_path: Path) -> None:
    users = [str(n % 3) for n in range(N_EVENTS)]
    folder = in_parts(
        tmp_path / "source", "interactions",
        *halves("interactions", "user_id", [int(user) for user in users[:6]], users[6:]),
    )  # fmt: skip
    assert sorted(read(folder, tmp_path / "work")["interactions"]["user_id"].to_pylist()) == sorted(users)


def test_a_part_without_rows_decides_nothing(tmp_path: Path) -> None:
    table = good()["interactions"]
    folder = in_parts(tmp_path / "source", "interactions", put(table, "label", ["x"] * N_EVENTS).slice(0, 0), table)
    assert len(read(folder, tmp_path / "work")["interactions"]) == N_EVENTS


WILD = pa.array([2**62, -(2**62), 0, None])
UNREAD: dict[str, tuple[pa.Array, bool]] = {
    "milliseconds far outside": (WILD.cast(pa.timestamp("ms")), True),
    "microseconds far outside": (WILD.cast(pa.timestamp("us", "UTC")), True),
    "nanoseconds": (WILD.cast(pa.timestamp("ns")), True),
    "dates far outside": (pa.array([2**31 - 1, 0, -(2**31), None], pa.int32()).cast(pa.date32()), True),
    "an unknown zone": (pa.array([1, 2, 3, 4]).cast(pa.timestamp("us", "Mars/Phobos")), True),
    "categories of times": (WILD.cast(pa.timestamp("ms")).dictionary_encode(), True),
    "half floats": (pa.array([1.0, 2.0, 3.0, 4.0]).cast(pa.float16()), True),
    "durations": (pa.array([datetime.timedelta(1)] * N_ITEMS), True),
    "bytes": (pa.array([b"\xff", b"", None, b"a"]), True),
    "identifiers": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"] * 4, pa.binary(16))),
        True,
    ),
    "lists of times": (pa.array([[2**62]] * 4).cast(pa.list_(pa.timestamp("ms"))), False),
    "structs of times": (pa.array([{"t": 2**62}] * 4).cast(pa.struct([("t", pa.timestamp("ms"))])), False),
    "lists of one size with a gap": (pa.array([[1, 2], None, [1, 2], [3, 4]], pa.list_(pa.int32(), 2)), False),
}


@pytest.mark.parametrize("case", UNREAD)
def test_an_attribute_that_nobody_reads_stops_nothing(case: str, tmp_path: Path) -> None:
    array, carried = UNREAD[case]
    folder = write_tables(tmp_path / "source", changed("items", extra=array))
    found = reports(folder, tmp_path / "work")["items"]
    assert (found.rows, found.rejected) == (N_ITEMS, 0)
    assert found.facts.get("ignored columns") == (None if carried else "extra")


def test_a_large_decimal_keeps_its_value(tmp_path: Path) -> None:
    """DuckDB reads the bytes of a decimal of 256 bits as another number."""
    prices = pa.array([D("1.50")] * N_ITEMS, pa.decimal256(40, 2))
    folder = write_tables(tmp_path / "source", changed("items", cost=prices, price=prices))
    found = read(folder, tmp_path / "work")["items"]
    assert found["cost"].to_pylist() == ["1.50"] * N_ITEMS
    assert found["price"].to_pylist() == [1.5] * N_ITEMS


@pytest.mark.parametrize("name", ["label.raw", "timestamp.ms", "user_id.x"])
def test_a_column_whose_name_continues_another_one_is_not_read_for_it(name: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", changed("interactions", **{name: ["x"] * N_EVENTS}))
    assert read(folder, tmp_path / "work") == read(write_tables(tmp_path / "plain", good()), tmp_path / "work2")


def test_a_column_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", changed("items", caf_=["a"] * N_ITEMS))
    path = folder / "items.parquet"
    path.write_bytes(path.read_bytes().replace(b"caf_", b"caf\xe9"))
    with pytest.raises(TableSchemaError, match=r"expected column names in UTF-8.*items\.parquet"):
        read(folder, tmp_path / "work")


def twice(folder: Path) -> Path:
    write_tables(folder, good())
    (folder / "items").mkdir()
    pq.write_table(good()["items"], folder / "items" / "a.parquet")
    return folder


def in_two_cases(folder: Path) -> Path:
    write_tables(folder, good())
    pq.write_table(good()["items"], folder / "items.PARQUET")
    return folder


@pytest.mark.parametrize("make", [twice, in_two_cases])
def test_a_table_that_is_there_twice_is_refused(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"items: expected one file or one folder of files"):
        open_source(str(make(tmp_path / "source")))


def test_a_table_may_be_a_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    tables = good()
    items = tables.pop("items")
    folder = write_tables(tmp_path / "source", tables)
    (folder / "items.parquet").mkdir()
    pq.write_table(items, folder / "items.parquet" / "part-0.parquet")
    (folder / "items.parquet" / "_SUCCESS").touch()
    assert len(read(folder, tmp_path / "work")["items"]) == N_ITEMS
    (folder / "items.parquet" / "part-0.parquet").unlink()
    with pytest.raises(
        ContractError, match=r"items: expected a file or a folder of files, got .*items\.parquet without any"
    ):
        open_source(str(folder))


def database(path: Path, table: str, column: str, value: Any, row: int, tables: Tables | None = None) -> str:
    url = sqlite(path, tables or good())
    with sqlite3.connect(path) as opened:
        opened.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row + 1))
    opened.close()
    return url


OTHER = "{} has another type than in the other rows"
ODD: list[tuple[str, str, Any, str]] = [
    ("interactions", "label", "abc", OTHER), ("interactions", "label", b"\xff", OTHER),
    ("interactions", "label", 0.5, "{} is not 0 or 1"), ("interactions", "label", 2**62, "{} is not 0 or 1"),
    ("interactions", "label", None, "{} is missing"), ("interactions", "timestamp", "n/a", "{} is not an ISO 8601 time"),
    ("interactions", "timestamp", "", "{} is not an ISO 8601 time"), ("interactions", "timestamp", b"x", OTHER),
    ("interactions", "timestamp", 1.5, OTHER), ("interactions", "timestamp", 1577836800, "{} is not an ISO 8601 time"),
    ("interactions", "timestamp", "2020-01-01T25:00:00Z", "{} is not an ISO 8601 time"),
    ("interactions", "timestamp", "0001-01-01T00:00:00Z", "{} is outside 1970..2200"),
    ("interactions", "timestamp", "9999-12-31T23:59:59Z", "{} is outside 1970..2200"),
    ("interactions", "timestamp", "9999-12-31T23:59:59-12:00", "{} is outside 1970..2200"),
    ("interactions", "timestamp", "10000-01-01T00:00:00Z", "{} is not an ISO 8601 time"),
    ("interactions", "user_id", 5.0, OTHER), ("interactions", "user_id", b"\xff", OTHER),
    ("item_embeddings", "text", 5, "{} is not a JSON list of numbers"), ("item_embeddings", "text", b"abc", OTHER),
    ("item_embeddings", "text", 1.5, OTHER), ("item_embeddings", "text", "[1, 2", "{} is not a JSON list of numbers"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ODD)))
def test_one_value_of_another_type_in_a_database_rejects_its_row(case: int, tmp_path: Path) -> None:
    table, column, value, reason = ODD[case]
    row = 2 * (case % 2)  # the first row, which decides on a type, or a later one
    found = reports(database(tmp_path / "log.sqlite", table, column, value, row), tmp_path / "work")
    assert found[table].reasons == {reason.format(column): 1}
    others = {name: report.rejected for name, report in found.items() if name != table}
    assert set(others.values()) == {0}


@pytest.mark.parametrize(
    ("column", "value", "means"), [("label", "1", 1), ("user_id", 5, "5"), ("user_id", 2**62, str(2**62))]
)
def test_a_value_of_another_type_that_means_the_same_is_taken(
    column: str, value: Any, means: Any, tmp_path: Path
) -> None:
    url = database(tmp_path / "log.sqlite", "interactions", column, value, 3)
    found = read(url, tmp_path / "work")["interactions"]
    assert means in found[column].to_pylist()


def test_an_attribute_of_a_database_that_mixes_types_becomes_text(tmp_path: Path) -> None:
    url = sqlite(tmp_path / "log.sqlite", good())
    with sqlite3.connect(tmp_path / "log.sqlite") as opened:
        opened.execute("ALTER TABLE items ADD COLUMN brand")
        opened.executemany("UPDATE items SET brand = ? WHERE rowid = ?", [("a", 1), (b"b\xff", 2), (3, 3), (1.5, 4)])
    opened.close()
    assert read(url, tmp_path / "work")["items"]["brand"].to_pylist() == ["a", "b\ufffd", "3", "1.5"]


def test_text_of_a_database_that_is_not_utf8_is_refused_by_table_and_column(tmp_path: Path) -> None:
    url = sqlite(tmp_path / "log.sqlite", good())
    with sqlite3.connect(tmp_path / "log.sqlite") as opened:
        opened.execute("UPDATE interactions SET user_id = CAST(x'636166e9' AS TEXT) WHERE rowid = 3")
    opened.close()
    with pytest.raises(ContractError, match=r"interactions: reading .*'user_id'.*; expected text in UTF-8") as refused:
        read(url, tmp_path / "work")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["category", "Price", "UPDATED_AT", "Reason", "NTH", "user_id", "User_ID", "image_Y"])
def test_a_vector_column_of_a_taken_name_is_refused_whatever_its_case(name: str, tmp_path: Path) -> None:
    source = open_source(str(write_tables(tmp_path / "source", changed("item_embeddings", **{name: VECTORS}))))
    with pytest.raises(TableSchemaError, match=f"'{name}'"):
        inspect_source(source)
    with pytest.raises(ValidationError, match="cannot be a feature name"):
        SourceSettings(modalities=("text", name))


def test_modalities_that_differ_in_case_only_are_one_name() -> None:
    with pytest.raises(ValidationError, match="expected distinct columns"):
        SourceSettings(modalities=("text", "Text"))


def test_a_source_without_vectors_is_refused_with_the_line_that_makes_some(tmp_path: Path) -> None:
    blobs = [np.array(vector, "float64").tobytes() for vector in VECTORS]
    tables = changed("item_embeddings", text=pa.array(blobs))
    with pytest.raises(TableSchemaError, match="expected a column of vectors") as refused:
        inspect_source(open_source(str(write_tables(tmp_path / "source", tables))))
    frame = tables["item_embeddings"].to_pandas()
    exec(str(refused.value).partition("For example: ")[2], {"df": frame, "np": np})
    tables["item_embeddings"] = pa.Table.from_pandas(frame, preserve_index=False)
    folder = write_tables(tmp_path / "fixed", tables)
    assert inspect_source(open_source(str(folder))).modalities == ("text",)
    assert read(folder, tmp_path / "work")["item_embeddings"]["text"].to_pylist() == VECTORS


def test_a_reject_decides_no_setting(tmp_path: Path) -> None:
    """One row without a user has the only label 0 and the only conversion."""
    users: list[str | None] = ["u0"] * N_EVENTS
    users[0] = None
    tables = changed("interactions", user_id=users, label=[0, *[1] * 11], converted=[1, *[None] * 11])
    facts = inspect_source(open_source(str(write_tables(tmp_path / "source", tables))))
    assert (facts.feedback, facts.conversions) == ("positives_only", False)
    tables = changed("interactions", converted=pa.array([7.0, *[None] * 11]))
    assert not inspect_source(open_source(str(write_tables(tmp_path / "other", tables)))).conversions


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (EngineSettings, {"chunk_rows": 10**30}), (EngineSettings, {"threads": 10**9}),
        (EngineSettings, {"memory_limit": "0MB"}), (EngineSettings, {"memory_limit": "9" * 400 + "GB"}),
        (TimeSettings, {"stats_cadence_seconds": 10**18}), (TimeSettings, {"availability_delay_seconds": 1e300}),
        (NegativeSettings, {"seed": -1}), (NegativeSettings, {"seed": 2**70}),
    ],
)  # fmt: skip
def test_a_setting_that_nothing_can_work_with_is_refused(section: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


def test_a_missing_label_is_a_reject_in_a_part_of_nulls(tmp_path: Path) -> None:
    folder = in_parts(tmp_path / "source", "interactions", *halves("interactions", "label", [1, 0] * 3, pa.nulls(6)))
    with pytest.raises(RejectedRowsError, match=r"label is missing \(6\)"):
        read(folder, tmp_path / "work")


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_part_that_is_no_file_is_refused_and_not_left_out(tmp_path: Path, kind: str) -> None:
    folder = write_tables(tmp_path / "source", good())
    parts = folder / "interactions"
    parts.mkdir()
    (folder / "interactions.parquet").rename(parts / "part-0.parquet")
    broken = parts / "part-1.parquet"
    if kind == "folder":
        broken.mkdir()
    else:
        broken.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ContractError, match=r"expected a file or a folder of files, got .*part-1\.parquet"):
        open_source(str(folder))
