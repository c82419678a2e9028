"""Every shape of a source is read as the same tables: from the files to the validated log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import write_tables
from helpers.contract_builders import Tables, good, read
from helpers.input_shapes import SHAPES, array_and_ids, as_csv, as_json, numbered, put
from sidkit.contract import inspect_source, open_source
from sidkit.core.config import SourceSettings
from sidkit.core.errors import ContractError, TableSchemaError


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("expected")
    return read(write_tables(folder / "source", numbered()), folder / "work")


@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_every_shape_is_read_as_the_same_tables(make: Callable[[Path], Path], expected: Tables, tmp_path: Path) -> None:
    folder = make(tmp_path / "source")
    assert inspect_source(open_source(str(folder))).modalities == ("text",)
    assert read(folder, tmp_path / "work", chunk_rows=5) == expected


@pytest.mark.parametrize("ending", ["csv.gz", "csv.bz2", "csv.zst", "jsonl.gz", "ndjson.zst", "tsv"])
def test_text_files_may_be_compressed(ending: str, expected: Tables, tmp_path: Path) -> None:
    tables = numbered()
    log = tables.pop("interactions")
    folder = write_tables(tmp_path / "source", tables)
    plain = tmp_path / "plain"
    if ending == "tsv":
        as_csv(plain, log, "\t")
    else:
        (as_csv if ending.startswith("csv") else as_json)(plain, log)
    with pa.output_stream(folder / f"interactions.{ending}") as sink:  # compresses by the suffix
        sink.write(plain.read_bytes())
    assert read(folder, tmp_path / "work") == expected


@pytest.mark.parametrize("write", [as_csv, as_json])
def test_attributes_have_one_type_whatever_the_chunk(write: Any, tmp_path: Path) -> None:
    tables = numbered()
    items = {
        "code": ["01", "2", "3", "4"],
        "size": [1, 2, 3, 4],
        "cost": [1, 2, 3, 4.5],
        "note": ["a\nb", 'say "x"', "", None],
    }
    for name, values in items.items():
        tables["items"] = put(tables["items"], name, values)
    folder = write_tables(tmp_path / "source", {name: tables[name] for name in ("interactions", "item_embeddings")})
    write(folder / f"items.{'csv' if write is as_csv else 'jsonl'}", tables["items"])
    got = read(folder, tmp_path / "work", chunk_rows=1)["items"]
    assert {name: got[name].to_pylist() for name in items} == items
    types = {name: got.schema.field(name).type for name in ("code", "size", "cost")}
    assert types == {"code": pa.string(), "size": pa.int64(), "cost": pa.float64()}


def test_missing_values_of_csv_are_missing_and_flags_may_be_words(tmp_path: Path) -> None:
    tables = numbered()
    folder = write_tables(tmp_path / "source", {name: tables[name] for name in ("item_embeddings", "items")})
    log = tables["interactions"]
    log = put(put(log, "label", ["false", "true"] * 6), "position", ["1", "NA", "", "4.0"] * 3)
    as_csv(folder / "interactions.csv", log)
    got = read(folder, tmp_path / "work", chunk_rows=5)["interactions"]
    assert got["label"].to_pylist() == [0, 1] * 6
    assert got["position"].to_pylist() == [1, None, None, 4] * 3


def test_one_word_in_a_column_of_numbers_rejects_its_row(tmp_path: Path) -> None:
    from helpers.dirty_builders import read_rows
    from sidkit.api.checks import check_source

    tables = numbered()
    folder = write_tables(tmp_path / "source", {name: tables[name] for name in ("item_embeddings", "items")})
    as_csv(folder / "interactions.csv", put(tables["interactions"], "label", ["oops", "1", "0", "1"] * 3))
    stated = {"max_reject_share": 0.5}
    checked = check_source(folder, rejects=tmp_path / "rejects", source=stated)
    assert checked.tables[1 + 1].reasons == {"label is not a number": 3}
    assert len(read_rows(tmp_path / "rejects" / "interactions.parquet")) == 3


def test_text_labels_of_csv_are_refused_like_those_of_parquet(tmp_path: Path) -> None:
    tables = numbered()
    folder = write_tables(tmp_path / "source", {name: tables[name] for name in ("item_embeddings", "items")})
    as_csv(folder / "interactions.csv", put(tables["interactions"], "label", ["click", "skip"] * 6))
    with pytest.raises(TableSchemaError, match="expected 0 or 1 as an integer in column 'label'"):
        read(folder, tmp_path / "work")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("interactions.csv", "", "got an empty file"),
        ("interactions.csv", "user_id,user_id\n1,2\n", "more than once"),
        ("interactions.csv", "user_id,item_id,timestamp,label\n1,2\n", "cannot be read as CSV .*as many fields"),
        ("interactions.jsonl", '{"user_id": 1}\n{"user_id"\n', "line 2 of .*correct or remove the line"),
        ("interactions.jsonl", "[1, 2]\n", "expected one JSON object per line, got a list in line 1"),
        ("interactions.csv.gz", "user_id\n1\n", "cannot be read as CSV"),
    ],
)
def test_a_damaged_text_file_is_refused_by_name(name: str, text: str, message: str, tmp_path: Path) -> None:
    tables = good()
    folder = write_tables(tmp_path / "source", {name: tables[name] for name in ("item_embeddings", "items")})
    (folder / name).write_text(text)
    with pytest.raises(ContractError, match=message) as refused:
        read(folder, tmp_path / "work")
    assert name in str(refused.value) or "more than once" in message
    (folder / name).unlink()
    (as_json if name.endswith("jsonl") else as_csv)(folder / name.removesuffix(".gz"), tables["interactions"])
    assert len(read(folder, tmp_path / "work2")["interactions"]) == len(tables["interactions"])


def test_files_of_several_formats_are_refused_and_accepted_apart(tmp_path: Path) -> None:
    tables = numbered()
    log = tables.pop("interactions")
    folder = write_tables(tmp_path / "source", tables)
    (folder / "interactions").mkdir()
    pq.write_table(log.slice(0, 5), folder / "interactions" / "a.parquet")
    as_csv(folder / "interactions" / "b.csv", log.slice(5))
    with pytest.raises(
        ContractError, match=r"expected files of one format .*a\.parquet and b\.csv.*move the others away"
    ):
        read(folder, tmp_path / "work")
    (folder / "interactions" / "b.csv").rename(tmp_path / "b.csv")
    assert len(read(folder, tmp_path / "work")["interactions"]) == 5


def test_a_partition_without_a_value_is_null_and_a_part_of_its_own_has_its_own(tmp_path: Path) -> None:
    tables = numbered()
    items = tables.pop("items")
    folder = write_tables(tmp_path / "source", tables)
    for place, name in enumerate(("category=a%20b", "category=__HIVE_DEFAULT_PARTITION__", "category=c")):
        (folder / "items" / name).mkdir(parents=True)
        pq.write_table(items.slice(place, 1), folder / "items" / name / "part.parquet")
    pq.write_table(items.slice(3), folder / "items" / "part.parquet")
    assert read(folder, tmp_path / "work")["items"]["category"].to_pylist() == ["a b", None, "c", None]


def test_dimensions_with_a_gap_are_no_vector_and_are_named(tmp_path: Path) -> None:
    tables = good()
    gap = {f"emb_{n}": [0.5] * 4 for n in (0, 1, 3)}
    for name, values in gap.items():
        tables["item_embeddings"] = put(tables["item_embeddings"], name, values)
    folder = write_tables(tmp_path / "source", tables)
    uses = {use["column"]: use for use in open_source(str(folder)).uses("item_embeddings", ["item_id", "text"])}
    assert uses["emb_0"]["use"] == "ignored"
    assert uses["emb_0"]["reason"].startswith("the numbers of emb_0 ... emb_3 have gaps: 2")
    tables["item_embeddings"] = put(tables["item_embeddings"], "emb_2", [0.5] * 4)
    folder = write_tables(tmp_path / "whole", tables)
    assert inspect_source(open_source(str(folder))).modalities == ("text", "emb")


def test_a_row_without_some_dimensions_is_rejected_and_one_without_any_has_no_vector(tmp_path: Path) -> None:
    from sidkit.api.checks import check_source

    tables = good()
    ids = tables["item_embeddings"]["item_id"]
    tables["item_embeddings"] = pa.table({"item_id": ids, "0": [1.0, None, 3.0, 4.0], "1": [1.0, None, None, 4.0]})
    folder = write_tables(tmp_path / "source", tables)
    checked = check_source(folder, source={"max_reject_share": 0.5})
    report = next(table for table in checked.tables if table.table == "item_embeddings")
    assert checked.settings["modalities"] == ("vector",)
    assert report.reasons == {"vector has NaN, infinite or missing elements": 1}
    assert report.facts["vector share"].endswith("(2 of 4)")
    assert report.facts["vector"] == "0, 2 columns 0 ... 1 as one vector"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_bytes_of_another_type_need_the_setting(dtype: Any, tmp_path: Path) -> None:
    tables = numbered()
    blobs = [np.array(vector, dtype).tobytes() for vector in tables["item_embeddings"]["text"].to_pylist()]
    folder = write_tables(
        tmp_path / "source", {**tables, "item_embeddings": put(tables["item_embeddings"], "text", blobs)}
    )
    if dtype == "float64":
        with pytest.raises(TableSchemaError, match=r'below \[source\.vectors\] in sidkit\.toml \(dtype = "float64"\)'):
            inspect_source(open_source(str(folder)))
    stated = SourceSettings(vectors={"dtype": dtype})
    assert inspect_source(open_source(str(folder), stated)).modalities == ("text",)
    got = read(folder, tmp_path / "work", vectors={"dtype": dtype})["item_embeddings"]
    assert got["text"].to_pylist() == tables["item_embeddings"]["text"].to_pylist()


def test_one_value_that_is_no_vector_rejects_its_row(tmp_path: Path) -> None:
    from sidkit.api.checks import check_source

    tables = good()
    blobs = [np.array(vector, "float32").tobytes() for vector in tables["item_embeddings"]["text"].to_pylist()]
    blobs[1] = b"abc"
    folder = write_tables(
        tmp_path / "source", {**tables, "item_embeddings": put(tables["item_embeddings"], "text", blobs)}
    )
    checked = check_source(folder, source={"max_reject_share": 0.5, "vectors": {"dtype": "float32"}})
    report = next(table for table in checked.tables if table.table == "item_embeddings")
    assert report.reasons == {"text is not a sequence of float32 in bytes": 1}


def test_an_array_needs_as_many_ids_as_rows(tmp_path: Path) -> None:
    folder = array_and_ids(tmp_path / "source")
    ids = (folder / "item_embeddings_ids.csv").read_text()
    (folder / "item_embeddings_ids.csv").write_text(ids.rsplit("\n", 2)[0] + "\n")
    with pytest.raises(ContractError, match="expected as many ids as rows of .*got 3 ids for 4 rows"):
        read(folder, tmp_path / "work")
    (folder / "item_embeddings_ids.csv").unlink()
    with pytest.raises(ContractError, match=r"expected one file item_embeddings_ids\.npy, .*got none"):
        read(folder, tmp_path / "work")
    np.save(folder / "item_embeddings_ids.npy", np.array(["000", "001", "002", "003"]))  # as the error says
    assert len(read(folder, tmp_path / "work")["item_embeddings"]) == 4


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    folder = array_and_ids(tmp_path / "source")
    np.save(folder / "item_embeddings_text.npy", np.array([[1.0], [None]], dtype=object), allow_pickle=True)
    with pytest.raises(ContractError, match=r"cannot be read as a NumPy array .*save it with np\.save"):
        read(folder, tmp_path / "work")
