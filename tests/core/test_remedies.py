"""Each remedy that an error gives for a column of a wrong type is executed, and the table is accepted afterwards."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.builders import moments, write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, changed, good, read, sqlite
from sidkit.contract import inspect_source, open_source
from sidkit.core.config import Settings
from sidkit.core.errors import ConfigError, RejectedRowsError, TableSchemaError

TIMES_S = [1_600_000_000 + 3_600 * number for number in range(N_EVENTS)]
ZONED = [datetime.datetime.fromtimestamp(at, datetime.UTC) for at in TIMES_S]
IDS = {name: good()["interactions"].column(name).to_pylist() for name in ("user_id", "item_id")}


def series(*values: Any) -> list[Any]:
    return [values[number % len(values)] for number in range(N_EVENTS)]


CASES: list[tuple[str, str, pa.Array]] = [
    ("interactions", "timestamp", pa.array([decimal.Decimal(at) for at in TIMES_S])),
    ("interactions", "timestamp", pa.array([at.replace(tzinfo=None) for at in ZONED], pa.timestamp("us"))),
    ("interactions", "timestamp", pa.array([at.date() for at in ZONED])),
    ("interactions", "timestamp", pa.array([at.date() for at in ZONED], pa.date64())),
    ("interactions", "timestamp", pa.array([int(f"{at:%Y%m%d}") for at in ZONED])),
    ("interactions", "timestamp", pa.array([f"{at:%Y-%m-%d %H:%M:%S}" for at in ZONED])),
    ("interactions", "timestamp", pa.array([f"{at:%Y-%m-%dT%H:%M}" for at in ZONED])),
    ("interactions", "timestamp", pa.array([at.isoformat().encode() for at in ZONED])),
    ("interactions", "timestamp", pa.array([at - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) for at in ZONED])),
    ("interactions", "user_id", pa.array([float(number) for number in range(N_EVENTS)])),
    ("interactions", "user_id", pa.array([decimal.Decimal(number) for number in range(N_EVENTS)])),
    ("interactions", "user_id", pa.array([value.encode() for value in IDS["user_id"]])),
    ("interactions", "user_id", pa.array([uuid.UUID(int=number).bytes for number in range(N_EVENTS)], pa.binary(16))),
    ("interactions", "user_id", pa.array([b"abc"] * N_EVENTS, pa.binary(3))),
    ("interactions", "user_id", pa.array(series(True, False))),
    ("interactions", "user_id", pa.array([at.date() for at in ZONED])),
    ("interactions", "user_id", pa.array([[value] for value in IDS["user_id"]])),
    ("interactions", "user_id", pa.array([{"id": value} for value in IDS["user_id"]])),
    ("interactions", "user_id", pa.array([1.5] * N_EVENTS)),
    ("interactions", "item_id", pa.array([value.encode() for value in IDS["item_id"]])),
    ("interactions", "label", pa.array(series("click", "skip"))),
    ("interactions", "label", pa.array(series("yes", "no"))),
    ("interactions", "label", pa.array(series("0", "1"))),
    ("interactions", "label", pa.array(series(b"1", b"0"))),
    ("interactions", "label", pa.array(series(decimal.Decimal(1), decimal.Decimal(0)))),
    ("interactions", "label", pa.array(series(*ZONED[:1], None), pa.timestamp("us", "UTC"))),
    ("interactions", "label", pa.array(series([1], []))),
    ("interactions", "label", pa.array(series("click", "skip")).dictionary_encode()),
    ("interactions", "position", pa.array(series("1", "2"))),
    ("interactions", "position", pa.array(series(True, False))),
    ("interactions", "rating", pa.array(series("1.5", "x"))),
    ("interactions", "rating", pa.array(series(b"1.5"))),
    ("interactions", "query", pa.array(series(1.5))),
    ("interactions", "query", pa.array(series(["a", "b"]))),
    ("items", "price", pa.array(["12.50", "cheap"] * (N_ITEMS // 2))),
    ("items", "price", pa.array([[1.5]] * N_ITEMS)),
    ("items", "price", pa.array([{"euro": 1.5}] * N_ITEMS)),
    ("items", "title", pa.array([b"a title"] * N_ITEMS)),
    ("items", "title", pa.array([["a", "title"]] * N_ITEMS)),
    ("interactions", "timestamp", pa.array(["n/a", *[f"{at:%Y-%m-%d %H:%M:%S}" for at in ZONED[1:]]])),
    ("interactions", "timestamp", pa.array([f"{at:%d.%m.%Y %H:%M}" for at in ZONED])),
    ("interactions", "timestamp", pa.array([f"{at:%d/%m/%Y %H:%M:%S}" for at in ZONED])),
    ("interactions", "timestamp", pa.array([f"{at:%m/%d/%Y %I:%M:%S %p}" for at in ZONED])),
    ("interactions", "timestamp", pa.array([f"{at:%a, %d %b %Y %H:%M:%S} +0000" for at in ZONED])),
    ("interactions", "label", pa.array(series("click", None, "skip"))),
    ("interactions", "label", pa.array(series(b"yes", b"no", None))),
    ("interactions", "label", pa.array(series("1", "0", "1.0", None))),
    ("interactions", "user_id", pa.array([None, *[float(number) for number in range(1, N_EVENTS)]])),
    ("interactions", "user_id", pa.array([b"\xff\x00"] * N_EVENTS)),
    ("interactions", "position", pa.array(series("1", "2", "x"))),
    ("interactions", "position", pa.array(series(decimal.Decimal(1), decimal.Decimal(2)))),
    ("items", "title", pa.array([uuid.UUID(int=number).bytes for number in range(N_ITEMS)], pa.binary(16))),
    ("items", "title", pa.array([1.5] * N_ITEMS)),
    ("items", "created_at", pa.array([at.date() for at in ZONED[:N_ITEMS]])),
    ("item_embeddings", "text", pa.array([np.array([1, 2.5], "float64").tobytes()] * N_ITEMS)),
    ("item_embeddings", "text", pa.array([np.array([0.1, 2.3], "float64").tobytes()] * N_ITEMS)),
    ("item_embeddings", "text", pa.array([[("a", 1.0), ("b", 2.5)]] * N_ITEMS, pa.map_(pa.string(), pa.float32()))),
    ("item_embeddings", "text", pa.array([[decimal.Decimal("1"), decimal.Decimal("2.5")]] * N_ITEMS)),
    ("item_embeddings", "text", pa.array([["1", "2.5"]] * N_ITEMS)),
    ("item_embeddings", "text", pa.array(["1 2.5"] * N_ITEMS)),
    ("item_embeddings", "text", pa.array(["(1, 2.5)"] * N_ITEMS)),
    ("item_embeddings", "text", pa.array([{"a": 1.0, "b": 2.5}] * N_ITEMS)),
    ("item_embeddings", "text", pa.array([[[1.0], [2.5]]] * N_ITEMS)),
    ("item_embeddings", "text", pa.array([1.0] * N_ITEMS)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_advice_is_executed_and_leads_to_an_accepted_table(number: int, tmp_path: Path) -> None:
    table, name, column = CASES[number]
    tables = changed(table, **{name: column})
    with pytest.raises(TableSchemaError, match="For example: df") as refused:
        read(write_tables(tmp_path / "source", tables), tmp_path / "work")
    line = str(refused.value).partition("For example: ")[2]
    frame = tables[table].to_pandas()
    missing = int(frame[name].isna().sum())
    exec(line, {"df": frame, "pd": pd, "np": np, "uuid": uuid, "io": io})
    if name in {"label", "user_id", "timestamp"}:
        assert pa.types.is_timestamp(column.type) or frame[name].isna().sum() >= missing, (
            "a missing label is no negative"
        )
        frame = frame[frame[name].notna()]
    tables[table] = pa.Table.from_pandas(frame, preserve_index=False)
    accepted = read(
        write_tables(tmp_path / "fixed", tables), tmp_path / "work2", max_reject_share=1.0, unknown_items="keep"
    )
    found = accepted[table].column(name)
    assert found.null_count < len(found)
    if name == "text":
        assert [round(value, 5) for value in found.to_pylist()[0]] in ([1, 2.5], [1.0], [0.1, 2.3])
    if name == "timestamp" and frame[name].iloc[0].year == 2020:
        expected = TIMES_S[0] if "date" not in str(column.type) and "%Y%m%d" not in line else None
        first = min(found.cast(pa.int64()).to_pylist())
        assert expected is None or abs(first - expected * 10**6) % (3_600 * 10**6) < 60 * 10**6
        assert abs(first - TIMES_S[0] * 10**6) < 86_400 * 10**6
    if name == "user_id" and pa.types.is_floating(column.type) and column[0].as_py() == 0.0:
        assert "1" in found.to_pylist()
        assert "1.0" not in found.to_pylist()


@pytest.mark.parametrize("place", [0, 2])
def test_one_broken_json_vector_is_a_reject_and_not_a_refusal(place: int, tmp_path: Path) -> None:
    tables = good()
    texts: list[str | None] = [json.dumps(vector) for vector in tables["item_embeddings"].column("text").to_pylist()]
    for broken in ("[1.0, 2", "{}", '[1, "a"]', "[" * 5000, "[1e400, 1]", "null", "7"):
        texts[place] = broken
        tables["item_embeddings"] = changed("item_embeddings", text=pa.array(texts))["item_embeddings"]
        url = sqlite(tmp_path / f"{len(broken)}.sqlite", tables)
        assert "text" in inspect_source(open_source(url)).modalities
        with pytest.raises(RejectedRowsError) as refused:
            read(url, tmp_path / "work")
        (reason,) = refused.value.reasons
        assert reason.startswith("text ")
        assert refused.value.rejected == 1


def test_vectors_whose_products_leave_float32_are_rejects(tmp_path: Path) -> None:
    vectors = good()["item_embeddings"].column("text").to_pylist()
    vectors[0] = [1e30] * len(vectors[0])
    source = write_tables(tmp_path / "source", changed("item_embeddings", text=pa.array(vectors)))
    with pytest.raises(RejectedRowsError, match="text has elements beyond 1e\\+15"):
        read(source, tmp_path / "work")


@pytest.mark.parametrize("name", ["image_y", "_vec", "a b", "x" * 101, "item-vector", "2d"])
def test_a_vector_column_that_cannot_be_a_feature_is_refused_at_once(name: str, tmp_path: Path) -> None:
    tables = good()
    vectors = tables["item_embeddings"].column("text")
    tables["item_embeddings"] = tables["item_embeddings"].append_column(name, vectors)
    source = open_source(str(write_tables(tmp_path / "source", tables)))
    with pytest.raises(TableSchemaError, match="is not a valid feature name.*rename it in the source"):
        inspect_source(source)


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "", "\u00e9" * 128])
def test_a_column_whose_name_no_database_takes_is_refused(name: str, tmp_path: Path) -> None:
    tables = good()
    tables["items"] = tables["items"].append_column(name, pa.array(["a"] * len(tables["items"])))
    with pytest.raises(TableSchemaError, match="items: column.* rename it"):
        read(write_tables(tmp_path / "source", tables), tmp_path / "work")


def test_files_that_tools_leave_out_are_left_out_and_suffixes_may_be_large(tmp_path: Path) -> None:
    tables = good()
    interactions = tables.pop("interactions")
    folder = write_tables(tmp_path / "source", tables)
    (folder / "items.parquet").rename(folder / "items.PARQUET")
    parts = write_tables(folder / "interactions", {"a": interactions.slice(0, 3), "b": interactions.slice(3)})
    (parts / "b.parquet").rename(parts / "b.Parquet")
    for hidden in ("._a.parquet", "_temporary.parquet", "_delta_log/0.parquet", ".tmp/x.parquet"):
        (parts / hidden).parent.mkdir(exist_ok=True)
        (parts / hidden).write_bytes(b"no Parquet")
    assert len(read(folder, tmp_path / "work")["interactions"]) == len(interactions)


def test_parts_of_several_types_keep_every_value(tmp_path: Path) -> None:
    tables = good()
    interactions = tables.pop("interactions").drop_columns(
        ["rating"] if "rating" in good()["interactions"].column_names else []
    )
    folder = write_tables(tmp_path / "source", tables)
    half = len(interactions) // 2
    parts = {
        "a": interactions.slice(0, half).append_column("rating", pa.array([3] * half)),
        "b": interactions.slice(half).append_column("rating", pa.array([2.75] * (len(interactions) - half))),
    }
    write_tables(folder / "interactions", parts)
    found = read(folder, tmp_path / "work")["interactions"].column("rating").to_pylist()
    assert sorted(set(found)) == [2.75, 3.0]


def test_text_that_is_not_utf8_is_a_reject_in_ids_and_legible_in_attributes(tmp_path: Path) -> None:
    def text(values: list[bytes]) -> pa.Array:
        ends = np.cumsum([0, *map(len, values)]).astype("int32")
        return pa.Array.from_buffers(
            pa.string(), len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
        )

    users = [value.encode() for value in IDS["user_id"]]
    users[0] = b"caf\xe9"
    tables = changed("interactions", user_id=text(users))
    tables["items"] = tables["items"].append_column("brand", text([b"caf\xe9"] * N_ITEMS))
    source = write_tables(tmp_path / "source", tables)
    with pytest.raises(RejectedRowsError, match=r"user_id is not UTF-8 \(1\)"):
        read(source, tmp_path / "work")
    tables["interactions"] = good()["interactions"]
    accepted = read(write_tables(tmp_path / "fixed", tables), tmp_path / "work")
    assert set(accepted["items"].column("brand").to_pylist()) == {"caf\ufffd"}


def test_times_beyond_what_microseconds_can_say_stop_nobody_in_a_column_that_nobody_reads(tmp_path: Path) -> None:
    tables = good()
    wild = pa.array([2**62, 0, -(2**62), None][:N_ITEMS] * (N_ITEMS // 4), pa.int64()).cast(pa.timestamp("ms"))
    tables["items"] = tables["items"].append_column("seen", wild)
    found = read(write_tables(tmp_path / "source", tables), tmp_path / "work")["items"].column("seen").to_pylist()
    assert found.count(None) == 3 * (N_ITEMS // 4)


def test_shares_are_of_the_catalogue_and_items_younger_than_their_events_are_reported(tmp_path: Path) -> None:
    from sidkit.contract import validate
    from sidkit.core.config import SourceSettings
    from sidkit.core.engine import connection

    tables = good()
    tables["item_embeddings"] = tables["item_embeddings"].slice(0, 1)
    born = tables["items"].column("created_at").cast(pa.int64()).to_pylist()
    late = moments([max(tables["interactions"].column("timestamp").cast(pa.int64()).to_pylist()) + 1, *born[1:]])
    place = tables["items"].column_names.index("created_at")
    tables["items"] = tables["items"].set_column(place, "created_at", late)
    folder = write_tables(tmp_path / "source", tables)
    settings = Settings(source=SourceSettings(url=str(folder), modalities=("text",)))
    with connection(settings.engine, tmp_path / "spill") as opened:
        reports = validate(open_source(str(folder)), settings, opened, tmp_path / "work", None).reports
    facts = {report.table: report.facts for report in reports}
    assert facts["item_embeddings"]["text share"] == f"{1 / N_ITEMS:.1%} of the catalogue's items (1 of {N_ITEMS})"
    assert facts["items"]["created after all their events"].endswith(f"(1 of {N_ITEMS})")


def test_a_settings_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sidkit.toml"
    path.write_text("x = " + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ConfigError, match="levels of nesting|not valid TOML"):
        Settings.load(path)
