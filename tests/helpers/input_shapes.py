"""One small source in the shapes that people have: the rows are always the same, their form is not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from helpers.builders import write_tables
from helpers.contract_builders import Tables, good

ZONE = "Europe/Berlin"


def numbered() -> Tables:
    """The good tables with ids that CSV readers like to take for numbers: 000, 001, ..."""
    tables = good()
    for name, columns in (
        ("interactions", ("user_id", "item_id")),
        ("items", ("item_id",)),
        ("item_embeddings", ("item_id",)),
    ):
        for column in columns:
            texts = [f"00{text[1:]}" for text in tables[name][column].to_pylist()]
            tables[name] = put(tables[name], column, pa.array(texts))
    return tables


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    """A table with a column replaced or added."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if name not in table.column_names:
        return table.append_column(name, array)
    return table.set_column(table.column_names.index(name), name, array)


def texts(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON values: times in ISO 8601."""
    rows = table.to_pylist()
    return [
        {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()} for row in rows
    ]


def as_csv(path: Path, table: pa.Table, separator: str = ",", squeeze: Callable[[bytes], bytes] = bytes) -> None:
    """Write a table as CSV; lists become JSON text."""
    rows = [
        {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in texts(table)
    ]
    plain = pa.table({name: [row[name] for row in rows] for name in table.column_names})
    sink = pa.BufferOutputStream()
    pcsv.write_csv(plain, sink, pcsv.WriteOptions(delimiter=separator))
    path.write_bytes(squeeze(sink.getvalue().to_pybytes()))


def as_json(path: Path, table: pa.Table) -> None:
    """Write a table as JSON lines without nulls."""
    lines = [json.dumps({key: value for key, value in row.items() if value is not None}) for row in texts(table)]
    path.write_text("\n".join(lines) + "\n")


def csv_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, table in numbered().items():
        as_csv(folder / f"{name}.csv", table)
    return folder


def semicolons_and_gzip(folder: Path) -> Path:
    folder.mkdir()
    tables = numbered()
    as_csv(folder / "interactions.CSV", tables["interactions"], ";")
    as_csv(folder / "items.csv.gz", tables["items"], squeeze=gzip.compress)
    pq.write_table(tables["item_embeddings"], folder / "item_embeddings.PARQUET")
    return folder


def json_folder(folder: Path) -> Path:
    folder.mkdir()
    tables = numbered()
    as_json(folder / "interactions.jsonl", tables["interactions"])
    as_json(folder / "items.ndjson", tables["items"])
    as_json(folder / "item_embeddings.jsonl", tables["item_embeddings"])
    return folder


def csv_parts(folder: Path) -> Path:
    """A folder of CSV files with the litter that tools leave behind."""
    tables = numbered()
    log = tables.pop("interactions")
    write_tables(folder, tables)
    (folder / "interactions").mkdir()
    as_csv(folder / "interactions" / "a.csv", log.slice(0, 5))
    as_csv(folder / "interactions" / "b.csv", log.slice(5))
    (folder / "interactions" / "_SUCCESS").touch()
    (folder / "interactions" / ".b.csv.crc").write_bytes(b"\xff")
    (folder / "_items.parquet").write_bytes(b"no Parquet")
    return folder


def partitions(folder: Path) -> Path:
    """The label is in the names of folders, as Hive and Spark write it."""
    tables = numbered()
    log = tables.pop("interactions")
    write_tables(folder, tables)
    for label in (0, 1):
        place = folder / "interactions.parquet" / f"label={label}"
        place.mkdir(parents=True)
        pq.write_table(
            log.filter(pa.compute.equal(log["label"], label)).drop_columns(["label"]), place / "part.parquet"
        )
    return folder


def wide(folder: Path) -> Path:
    tables = numbered()
    vectors = np.array(tables["item_embeddings"]["text"].to_pylist(), dtype="float32")
    columns = {f"text_{n}": vectors[:, n] for n in range(2)}
    tables["item_embeddings"] = pa.table({"item_id": tables["item_embeddings"]["item_id"], **columns})
    return write_tables(folder, tables)


def wide_csv(folder: Path) -> Path:
    wide(folder)
    as_csv(folder / "item_embeddings.csv", pq.read_table(folder / "item_embeddings.parquet"))
    (folder / "item_embeddings.parquet").unlink()
    return folder


def tensors(folder: Path) -> Path:
    tables = numbered()
    vectors = np.array(tables["item_embeddings"]["text"].to_pylist(), dtype="float32")
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(vectors)
    return write_tables(folder, {**tables, "item_embeddings": put(tables["item_embeddings"], "text", tensor)})


def bytes_of_floats(folder: Path) -> Path:
    tables = numbered()
    blobs = [np.array(vector, "float32").tobytes() for vector in tables["item_embeddings"]["text"].to_pylist()]
    return write_tables(folder, {**tables, "item_embeddings": put(tables["item_embeddings"], "text", blobs)})


def array_and_ids(folder: Path, ids: str = "csv") -> Path:
    tables = numbered()
    vectors = tables.pop("item_embeddings")
    write_tables(folder, tables)
    np.save(folder / "item_embeddings_text.npy", np.array(vectors["text"].to_pylist(), "float64"))
    if ids == "npy":
        np.save(folder / "item_embeddings_ids.npy", np.array(vectors["item_id"].to_pylist()))
    elif ids == "csv":
        as_csv(folder / "item_embeddings_ids.csv", vectors.select(["item_id"]).rename_columns(["sku"]))
    else:
        pq.write_table(vectors.select(["item_id"]), folder / "item_embeddings_ids.parquet")
    return folder


def array_and_npy_ids(folder: Path) -> Path:
    return array_and_ids(folder, "npy")


def array_and_parquet_ids(folder: Path) -> Path:
    return array_and_ids(folder, "parquet")


SHAPES: tuple[Callable[[Path], Path], ...] = (
    csv_folder, semicolons_and_gzip, json_folder, csv_parts, partitions, wide, wide_csv, tensors, bytes_of_floats,
    array_and_ids, array_and_npy_ids, array_and_parquet_ids,
)  # fmt: skip
