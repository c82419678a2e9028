"""The columns of a source: the types that are accepted, refused or converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from helpers.builders import MOMENT, START, write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, VECTORS, attempt, changed, good, read
from sidkit.contract import inspect_source, open_source
from sidkit.core.errors import ContractError, TableSchemaError


@pytest.mark.parametrize(("table", "column"), [("interactions", "label"), ("items", "created_at")])
def test_a_missing_column_is_named_with_those_found(tmp_path: Path, table: str, column: str) -> None:
    tables = good()
    tables[table] = tables[table].drop_columns([column])
    with pytest.raises(TableSchemaError, match=f"expected column '{column}', got .*item_id"):
        read(write_tables(tmp_path / "source", tables), tmp_path / "work")


def test_a_missing_modality_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableSchemaError, match="expected column 'image', got item_id, text"):
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
        ("interactions", "user_id", [1.5] * N_EVENTS, r"expected a string or an integer .*astype"),
        ("interactions", "timestamp", [20200101] * N_EVENTS, r"expected a timestamp in UTC .*pd\.to_datetime"),
        ("interactions", "timestamp", ["2020-01-01 00:00:00"] * N_EVENTS, "without a time zone.*append 'Z'"),
        ("interactions", "timestamp", ["yesterdayZ"] * N_EVENTS, "not an ISO 8601 time"),
        ("interactions", "label", ["click"] * N_EVENTS, "expected 0 or 1 as an integer"),
        ("items", "price", ["cheap"] * N_ITEMS, "expected a number"),
        ("item_embeddings", "text", [["a", "b"]] * N_ITEMS, "expected a list of float32 per row"),
        ("item_embeddings", "text", [1.0] * N_ITEMS, "expected a list of float32 per row"),
        ("item_embeddings", "text", ["one, two"] * N_ITEMS, "not a JSON list of numbers"),
    ],
)  # fmt: skip
def test_a_column_of_a_wrong_type_is_refused_with_the_remedy(
    tmp_path: Path, table: str, column: str, values: list[Any], remedy: str
) -> None:
    source = write_tables(tmp_path / "source", changed(table, **{column: values}))
    with pytest.raises(TableSchemaError, match=f"{table}: (?=.* in column '{column}').*{remedy}"):
        read(source, tmp_path / "work")


def test_naive_timestamps_are_refused_with_the_remedy(tmp_path: Path) -> None:
    naive = good()["interactions"]["timestamp"].cast(pa.timestamp("us"))
    source = write_tables(tmp_path / "source", changed("interactions", timestamp=naive))
    with pytest.raises(
        TableSchemaError, match=r'expected timestamp\[us, UTC\] .*naive timestamps.*dt\.tz_localize\("UTC"\)'
    ):
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
