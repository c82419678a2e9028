"""The reader of the input contract: Parquet folders, SQLAlchemy URLs, what is refused with which remedy."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import START, write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, changed, good, read, sqlite
from sidkit.contract import inspect_source, open_source
from sidkit.core.errors import ContractError, MissingTableError, TableSchemaError


def test_a_folder_of_parts_reads_like_a_single_file(tmp_path: Path) -> None:
    tables = good()
    single = write_tables(tmp_path / "single", tables)
    parts = write_tables(tmp_path / "parts", {"items": tables["items"], "item_embeddings": tables["item_embeddings"]})
    (parts / "interactions" / "day=2").mkdir(parents=True)
    pq.write_table(tables["interactions"].slice(0, 5), parts / "interactions" / "a.parquet")
    pq.write_table(tables["interactions"].slice(5), parts / "interactions" / "day=2" / "b.parquet")
    assert read(single, tmp_path / "w1") == read(parts, tmp_path / "w2", chunk_rows=2)


def test_parts_may_order_their_columns_differently(tmp_path: Path) -> None:
    tables = good()
    items = tables.pop("items").append_column("brand", pa.array(list("abcd")))
    folder = write_tables(tmp_path / "source", tables)
    (folder / "items").mkdir()
    pq.write_table(items.slice(0, 2), folder / "items" / "a.parquet")
    pq.write_table(items.slice(2).select(["brand", "created_at", "item_id"]), folder / "items" / "b.parquet")
    assert read(folder, tmp_path / "work")["items"].select(items.column_names).equals(items)


def test_parts_with_odd_columns_are_refused_by_name(tmp_path: Path) -> None:
    tables = good()
    items = tables.pop("items")
    folder = write_tables(tmp_path / "source", tables)
    (folder / "items").mkdir()
    pq.write_table(items.slice(0, 2), folder / "items" / "a.parquet")
    pq.write_table(items.slice(2).append_column("brand", pa.array(["x", "y"])), folder / "items" / "b.parquet")
    with pytest.raises(TableSchemaError, match=r"b\.parquet.*brand") as raised:
        read(folder, tmp_path / "work")
    assert raised.value.table == "items"


@pytest.mark.parametrize(
    "odd", [pa.array(["x", "y"]), pa.array([["x"], ["y"]]), pa.array([{"a": 1}, {"a": 2}])], ids=["text", "list", "map"]
)
def test_parts_whose_types_cannot_be_joined_are_refused(tmp_path: Path, odd: pa.Array) -> None:
    tables = good()
    items = tables.pop("items")
    folder = write_tables(tmp_path / "source", tables)
    (folder / "items").mkdir()
    pq.write_table(items.slice(0, 2).append_column("size", pa.array([1, 2])), folder / "items" / "a.parquet")
    pq.write_table(items.slice(2).append_column("size", odd), folder / "items" / "b.parquet")
    with pytest.raises(TableSchemaError, match=r"items: expected one type .*b\.parquet"):
        read(folder, tmp_path / "work")


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "torn"])
def test_a_corrupt_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = write_tables(tmp_path / "source", good())
    path = folder / "interactions.parquet"
    whole = path.read_bytes()
    torn = whole[:4] + b"\xff" * 40 + whole[44:]  # the footer is sound, the first page is not
    path.write_bytes({"text": b"user_id,item_id\n", "empty": b"", "truncated": whole[:-20], "torn": torn}[damage])
    with pytest.raises(ContractError, match=r"interactions\.parquet cannot be read as Parquet"):
        read(folder, tmp_path / "work")


def test_a_missing_table_is_named_with_what_is_there(tmp_path: Path) -> None:
    tables = good()
    del tables["items"]
    folder = write_tables(tmp_path / "source", tables)
    with pytest.raises(
        MissingTableError, match=r"item_embeddings\.parquet, interactions\.parquet|interactions"
    ) as told:
        open_source(str(folder))
    assert told.value.table == "items"
    with pytest.raises(MissingTableError, match=r"items.*got interactions, item_embeddings"):
        open_source(sqlite(tmp_path / "log.db", tables))


def test_a_source_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"set source\.url in sidkit\.toml"):
        open_source("")
    with pytest.raises(ContractError, match="expected a folder of files or a SQLAlchemy URL"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(MissingTableError, match="got a folder with nothing"):
        open_source(str(tmp_path / "bare"))


def test_a_mistyped_sqlite_path_leaves_no_file_behind(tmp_path: Path) -> None:
    with pytest.raises(ContractError):
        open_source(f"sqlite:///{tmp_path / 'mistyped.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_never_shown() -> None:
    for url in ("postgresql+nodriver://me:hunter2@localhost/log", "nodialect://me:hunter2@localhost/log"):
        with pytest.raises(ContractError) as raised:
            open_source(url)
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
def test_a_database_reads_like_the_same_parquet(tmp_path: Path, chunk_rows: int) -> None:
    tables = changed(
        "items", title=["[sale] shoes", "[1, 2]", None, "plain"], price=pa.array([1.5, None, 2.0, 3.25], pa.float32())
    )
    tables["item_embeddings"] = tables["item_embeddings"].append_column(
        "image", pa.array([None, [1.0], [0.5], None], pa.list_(pa.float32()))
    )
    both = ("text", "image")
    expected = read(write_tables(tmp_path / "source", tables), tmp_path / "w1", modalities=both)
    got = read(sqlite(tmp_path / "log.db", tables), tmp_path / "w2", chunk_rows, modalities=both)
    assert got == expected
    assert got["items"]["title"].to_pylist() == ["[sale] shoes", "[1, 2]", None, "plain"]


def test_naive_text_times_of_a_database_are_refused_with_the_remedy(tmp_path: Path) -> None:
    texts = ["2020-01-01T00:00:00Z"] * (N_EVENTS - 1) + ["2020-01-01T00:00:00"]
    url = sqlite(tmp_path / "log.db", changed("interactions", timestamp=texts, position=range(N_EVENTS)))
    with pytest.raises(
        TableSchemaError, match=r"expected ISO 8601 text with a zone .*got text without a time zone.*'Z'"
    ):
        read(url, tmp_path / "work")


def test_zones_in_text_times_count(tmp_path: Path) -> None:
    forms = ["2020-01-01T00:00:00Z", "2020-01-01 05:30:00+05:30", "2019-12-31T22:00:00.000000-0200"]
    texts = [forms[n % 3] for n in range(N_EVENTS)]
    url = sqlite(tmp_path / "log.db", changed("interactions", timestamp=texts, position=range(N_EVENTS)))
    got = read(url, tmp_path / "work")["interactions"]["timestamp"]
    assert set(got.cast(pa.int64()).to_pylist()) == {START}


@pytest.mark.parametrize("values", [[None, None, "red", "blue"], [1, 2, 2.5, None]], ids=["nulls first", "whole first"])
def test_a_database_attribute_may_start_with_nulls_or_whole_numbers(tmp_path: Path, values: list[Any]) -> None:
    tables = good()
    with sqlite3.connect(tmp_path / "log.db") as database:
        sqlite(tmp_path / "log.db", tables)
        database.execute("ALTER TABLE items ADD COLUMN colour")
        database.executemany(
            "UPDATE items SET colour = ? WHERE item_id = ?", [(value, f"i{n}") for n, value in enumerate(values)]
        )
    database.close()
    got = read(f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "work", chunk_rows=2)["items"]
    assert got["colour"].to_pylist() == values


def test_the_facts_of_a_source_decide_its_settings(tmp_path: Path) -> None:
    tables = changed("interactions", label=pa.array([1] * N_EVENTS, pa.int8()), converted=[None] * N_EVENTS)
    facts = inspect_source(open_source(str(write_tables(tmp_path / "positives", tables))))
    assert (facts.modalities, facts.feedback, facts.conversions) == (("text",), "positives_only", False)
    tables = changed("interactions", converted=pa.array([None, 1] * (N_EVENTS // 2), pa.int8()))
    tables["item_embeddings"] = tables["item_embeddings"].append_column(
        "image", pa.nulls(N_ITEMS, pa.list_(pa.float64()))
    )
    facts = inspect_source(open_source(str(write_tables(tmp_path / "impressions", tables))))
    assert (facts.modalities, facts.feedback, facts.conversions) == (("text", "image"), "impressions", True)


def test_a_source_without_vectors_is_refused_with_what_was_found(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", changed("item_embeddings", text=["red"] * N_ITEMS))
    with pytest.raises(TableSchemaError, match=r"expected a column of vectors.*got text \(string\)"):
        inspect_source(open_source(str(source)))


def test_text_beside_the_vectors_that_begins_with_a_bracket_is_no_modality(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", changed("item_embeddings", note=["[sale] shoes", "x", "y", "z"]))
    assert inspect_source(open_source(str(source))).modalities == ("text",)


def test_the_fingerprint_tells_whether_a_folder_changed(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", good())
    before = open_source(str(folder)).fingerprint()
    assert open_source(str(folder)).fingerprint() == before
    write_tables(folder, changed("items", colour=["red"] * N_ITEMS))
    assert open_source(str(folder)).fingerprint() != before


@pytest.mark.parametrize("name", ["item_embeddings.parquet", "item_embeddings", "users", "items.csv"])
def test_a_table_that_is_an_empty_folder_is_refused(tmp_path: Path, name: str) -> None:
    for table, rows in good().items():
        if table != name.partition(".")[0]:
            pq.write_table(rows, tmp_path / f"{table}.parquet")
    (tmp_path / name).mkdir()
    with pytest.raises(ContractError, match=rf"{name} without any; write the table again"):
        [open_source(str(tmp_path)).has(table) for table in ("item_embeddings", "users")]


def test_a_folder_of_other_files_is_no_table(tmp_path: Path) -> None:
    for table, rows in good().items():
        pq.write_table(rows, tmp_path / f"{table}.parquet")
    for name in ("users", "items"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpeg").write_bytes(b"")
    source = open_source(str(tmp_path))
    assert source.has("items") and not source.has("users")
