"""The reader of the input contract: Parquet folders, SQLAlchemy URLs, the column types that are accepted and refused."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from builders import MOMENT, START, moments, write_tables
from sidkit.config import EngineSettings, Settings, SourceSettings
from sidkit.contract import inspect_source, open_source, validate
from sidkit.engine import connection
from sidkit.errors import ContractError, MissingTableError, TableSchemaError

Tables = dict[str, pa.Table]
N_EVENTS, N_ITEMS = 12, 4
VECTORS = [[0.5, -1.0], [2.0, 0.25], [-3.5, 8.0], [1.0, 1.5]]  # exact in float16, float32 and float64


def good() -> Tables:
    events = range(N_EVENTS)
    return {
        "interactions": pa.table(
            {
                "user_id": [f"u{n % 3}" for n in events],
                "item_id": [f"i{n % N_ITEMS}" for n in events],
                "timestamp": moments([START + 1_000_000 * n + n for n in events]),
                "label": pa.array([n % 2 for n in events], pa.int8()),
            }
        ),
        "items": pa.table({"item_id": [f"i{n}" for n in range(N_ITEMS)], "created_at": moments([START] * N_ITEMS)}),
        "item_embeddings": pa.table(
            {"item_id": [f"i{n}" for n in range(N_ITEMS)], "text": pa.array(VECTORS, pa.list_(pa.float32()))}
        ),
    }


def changed(table: str, **columns: Any) -> Tables:
    """The good tables with columns replaced or added."""
    tables = good()
    for name, given in columns.items():
        old = tables[table]
        values = given if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(given)
        place = old.column_names.index(name) if name in old.column_names else None
        tables[table] = old.append_column(name, values) if place is None else old.set_column(place, name, values)
    return tables


def read(url: object, work: Path, chunk_rows: int = 1000, **source: Any) -> Tables:
    """The valid tables of a source; nothing may be rejected."""
    settings = Settings(
        source=SourceSettings(url=str(url), **source), engine=EngineSettings(threads=1, chunk_rows=chunk_rows)
    )
    with connection(settings.engine, work / "spill") as opened:
        valid = validate(open_source(str(url)), settings, opened, work / "valid", None)
    assert all(report.rejected == 0 for report in valid.reports), valid.reports
    paths = {"interactions": valid.interactions, "items": valid.items, "item_embeddings": valid.embeddings}
    return {name: pq.read_table(path) for name, path in paths.items()}


def attempt(url: object, work: Path, **source: Any) -> tuple[Tables, str]:
    """The valid tables, or the words of the refusal."""
    try:
        return read(url, work, **source), ""
    except (ContractError, ValidationError) as error:
        return {}, str(error)


def sqlite(path: Path, tables: Tables) -> str:
    """A SQLite file with ISO-8601 text times and JSON-text vectors."""
    with sqlite3.connect(path) as database:
        for name, table in tables.items():
            columns = [_sql_values(table[column]) for column in table.column_names]
            listed = ", ".join(f'"{column}"' for column in table.column_names)
            database.execute(f"CREATE TABLE {name} ({listed})")
            marks = ", ".join("?" for _ in columns)
            database.executemany(f"INSERT INTO {name} VALUES ({marks})", list(zip(*columns, strict=True)))
    database.close()
    return f"sqlite:///{path}"


def _sql_values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        times = column.cast(pa.int64()).to_pylist()
        return [None if time is None else (epoch + timedelta(microseconds=time)).isoformat() for time in times]
    if pa.types.is_list(column.type):
        return [None if vector is None else json.dumps(vector) for vector in column.to_pylist()]
    return list(column.to_pylist())


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
    with pytest.raises(TableSchemaError, match=r"items.*other column types"):
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
    with pytest.raises(MissingTableError, match=r"items.*it has interactions, item_embeddings"):
        open_source(sqlite(tmp_path / "log.db", tables))


def test_a_source_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"write source\.url in sidkit\.toml"):
        open_source("")
    with pytest.raises(ContractError, match="is no folder; give a folder of Parquet files or a SQLAlchemy URL"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(MissingTableError, match="the folder holds nothing"):
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


@pytest.mark.parametrize(("table", "column"), [("interactions", "label"), ("items", "created_at")])
def test_a_missing_column_is_named_with_those_found(tmp_path: Path, table: str, column: str) -> None:
    tables = good()
    tables[table] = tables[table].drop_columns([column])
    with pytest.raises(TableSchemaError, match=f"column '{column}' is missing; the table has .*item_id"):
        read(write_tables(tmp_path / "source", tables), tmp_path / "work")


def test_a_missing_modality_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableSchemaError, match="column 'image' is missing; the table has item_id, text"):
        read(write_tables(tmp_path / "source", good()), tmp_path / "work", modalities=("text", "image"))


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.uint32(), pa.dictionary(pa.int32(), pa.int64())], ids=["int64", "uint32", "dictionary"]
)
def test_integer_ids_become_strings(tmp_path: Path, kind: pa.DataType) -> None:
    tables = good()
    for table, names in (("interactions", ("user_id", "item_id")), ("items", ("item_id",)), ("item_embeddings", None)):
        for name in names or ("item_id",):
            numbers = [int(text[1:]) for text in tables[table][name].to_pylist()]
            array = pa.array(numbers, kind.value_type).dictionary_encode() if hasattr(kind, "value_type") else None
            place = tables[table].column_names.index(name)
            tables[table] = tables[table].set_column(place, name, pa.array(numbers, kind) if array is None else array)
    got = read(write_tables(tmp_path / "source", tables), tmp_path / "work", chunk_rows=5)
    assert got["items"]["item_id"].to_pylist() == ["0", "1", "2", "3"]
    assert got["interactions"].schema.field("user_id").type == pa.string()
    assert set(got["interactions"]["user_id"].to_pylist()) == {"0", "1", "2"}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_every_kind_of_text_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    tables = changed("items", category=["a", None, "b", "a"], title=["t", "[sale]", "", None])
    expected = read(write_tables(tmp_path / "plain", tables), tmp_path / "w1")
    for name, table in tables.items():
        for column in set(table.column_names) & {"user_id", "item_id", "category", "title"}:
            place = table.column_names.index(column)
            text = table[column].combine_chunks()
            encoded = text.dictionary_encode() if pa.types.is_dictionary(kind) else text.cast(kind)
            tables[name] = tables[name].set_column(place, column, encoded)
    assert read(write_tables(tmp_path / "odd", tables), tmp_path / "w2", chunk_rows=3) == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()), pa.list_(pa.float16()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2),
        pa.list_(pa.float64(), 2),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_vector_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    source = write_tables(tmp_path / "source", changed("item_embeddings", text=pa.array(VECTORS, kind)))
    assert inspect_source(open_source(str(source))).modalities == ("text",)
    got = read(source, tmp_path / "work", chunk_rows=3)["item_embeddings"]
    assert got["text"].to_pylist() == VECTORS
    assert got.schema.field("text").type.value_type == pa.float32()


def test_fixed_size_vectors_with_a_null_are_read_or_refused_with_a_remedy_that_helps(tmp_path: Path) -> None:
    vectors = pa.array([VECTORS[0], None, *VECTORS[2:]], pa.list_(pa.float32(), 2))
    source = write_tables(tmp_path / "source", changed("item_embeddings", text=vectors))
    got, refusal = attempt(source, tmp_path / "work")
    if refusal:
        assert "list<float32>" in refusal
    else:
        assert got["item_embeddings"]["text"].to_pylist() == [VECTORS[0], None, *VECTORS[2:]]


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("ns", "UTC"), pa.timestamp("us", "Asia/Kolkata"), pa.timestamp("us", "+02:00")],
    ids=["nanoseconds", "named zone", "offset"],
)
def test_zoned_times_of_any_kind_keep_their_instant(tmp_path: Path, kind: pa.DataType) -> None:
    tables = good()
    times = tables["interactions"]["timestamp"]
    source = write_tables(tmp_path / "source", changed("interactions", timestamp=times.cast(kind)))
    got = read(source, tmp_path / "work")["interactions"]["timestamp"]
    assert got.type == MOMENT
    assert sorted(got.cast(pa.int64()).to_pylist()) == times.cast(pa.int64()).to_pylist()


def test_seconds_beyond_the_range_never_become_a_plausible_time(tmp_path: Path) -> None:
    wrapping = (2**64 + START) // 1_000_000
    times = pa.array([START // 1_000_000] * (N_EVENTS - 1) + [wrapping], pa.int64()).cast(pa.timestamp("s", "UTC"))
    source = write_tables(tmp_path / "source", changed("interactions", timestamp=times, position=range(N_EVENTS)))
    with pytest.raises(ContractError, match=r"timestamp is outside 1970\.\.2200"):
        read(source, tmp_path / "work")


@pytest.mark.parametrize(
    ("table", "column", "values", "remedy"),
    [
        ("interactions", "user_id", [1.5] * N_EVENTS, r"a string or an integer is needed.*astype\(str\)"),
        ("interactions", "timestamp", [START] * N_EVENTS, r"a timestamp in UTC is needed.*pd\.to_datetime"),
        ("interactions", "timestamp", ["2020-01-01 00:00:00"] * N_EVENTS, "without a time zone.*append 'Z'"),
        ("interactions", "timestamp", ["yesterdayZ"] * N_EVENTS, "no ISO-8601 time"),
        ("interactions", "label", ["click"] * N_EVENTS, "0 or 1 as an integer is needed"),
        ("items", "price", ["cheap"] * N_ITEMS, "a number is needed"),
        ("item_embeddings", "text", [["a", "b"]] * N_ITEMS, "a list of float32 per row is needed"),
        ("item_embeddings", "text", [1.0] * N_ITEMS, "a list of float32 per row is needed"),
        ("item_embeddings", "text", ["one, two"] * N_ITEMS, "no JSON list of numbers"),
        ("item_embeddings", "text", ["[1, 2]", "[true]", "[1, 2]", "[1, 2]"], "JSON list"),
    ],
)  # fmt: skip
def test_a_column_of_a_wrong_type_is_refused_with_the_remedy(
    tmp_path: Path, table: str, column: str, values: list[Any], remedy: str
) -> None:
    source = write_tables(tmp_path / "source", changed(table, **{column: values}))
    with pytest.raises(TableSchemaError, match=f"{table}: column '{column}'.*{remedy}"):
        read(source, tmp_path / "work")


def test_naive_timestamps_are_refused_with_the_remedy(tmp_path: Path) -> None:
    naive = good()["interactions"]["timestamp"].cast(pa.timestamp("us"))
    source = write_tables(tmp_path / "source", changed("interactions", timestamp=naive))
    with pytest.raises(TableSchemaError, match=r'naive timestamps.*needed.*dt\.tz_localize\("UTC"\)'):
        read(source, tmp_path / "work")


def test_further_attributes_of_items_are_kept_and_other_further_columns_left_out(tmp_path: Path) -> None:
    tables = changed("items", colour=["red", None, "blue", "red"], sizes=[[1], [], None, [2, 3]])
    tables["interactions"] = tables["interactions"].append_column("device", pa.array(["phone"] * N_EVENTS))
    got = read(write_tables(tmp_path / "source", tables), tmp_path / "work", chunk_rows=1)
    assert (
        got["items"].select(["colour", "sizes"]).to_pylist() == tables["items"].select(["colour", "sizes"]).to_pylist()
    )
    assert "device" not in got["interactions"].column_names


@pytest.mark.parametrize("name", ["reason", "nth", "first_seen", "file_row_number", "generation", "Title"])
def test_an_attribute_of_any_name_is_kept_or_refused_by_that_name(tmp_path: Path, name: str) -> None:
    source = write_tables(tmp_path / "source", changed("items", title=list("abcd"), **{name: list("wxyz")}))
    got, refusal = attempt(source, tmp_path / "work")
    if refusal:
        assert f"'{name}'" in refusal
    else:
        assert got["items"]["title"].to_pylist() == list("abcd")
        assert got["items"][name].to_pylist() == list("wxyz")


@pytest.mark.parametrize("name", ["reason", "nth", "file_row_number", "created_at_us"])
def test_a_modality_of_any_name_is_read_or_refused_by_that_name(tmp_path: Path, name: str) -> None:
    source = write_tables(tmp_path / "source", changed("item_embeddings", **{name: VECTORS}))
    got, refusal = attempt(source, tmp_path / "work", modalities=(name,))
    if refusal:
        assert f"'{name}'" in refusal
    else:
        assert name != "created_at_us", "item_content has a feature of this name"
        assert got["item_embeddings"][name].to_pylist() == VECTORS


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
    with pytest.raises(TableSchemaError, match=r"text without a time zone.*ISO-8601 text with a zone is needed.*'Z'"):
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
    with pytest.raises(TableSchemaError, match=r"no column holds vectors.*found text \(string\)"):
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
