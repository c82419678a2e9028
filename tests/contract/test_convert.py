"""Tables in memory take the same path as files, and `sidkit data convert` writes the contract once."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.attribute_world import DEVICES, attribute_source
from helpers.builders import write_tables
from helpers.commands import ask
from helpers.contract_builders import N_EVENTS, good, read
from helpers.input_shapes import ZONE, csv_folder, numbered, put
from sidkit.api.checks import convert_source
from sidkit.core.errors import ConfigError, RejectedRowsError
from sidkit.tables import read_log

SOURCE: dict[str, Any] = {
    "columns": {"timestamp": "ts", "item_id": "sku"},
    "label": {"positive": "rating >= 4"},
    "times": {"assume_timezone": ZONE},
}


def frames() -> dict[str, Any]:
    """A pandas log with naive times and ratings, a Polars catalogue of dates, Arrow vectors of one column per dimension."""
    tables = good()
    log = tables["interactions"].to_pandas().drop(columns=["label"])
    log["timestamp"] = log["timestamp"].dt.tz_convert(ZONE).dt.tz_localize(None)
    log["rating"] = [5.0, 1.0] * (N_EVENTS // 2)
    items = pl.DataFrame({"sku": ["i0", "i1", "i2", "i3"], "created_at": [datetime.date(2019, 12, 1)] * 4})
    vectors = np.array(tables["item_embeddings"]["text"].to_pylist(), "float32")
    wide = pa.table({"sku": ["i0", "i1", "i2", "i3"], "emb_0": vectors[:, 0], "emb_1": vectors[:, 1]})
    return {
        "interactions": log.rename(columns={"timestamp": "ts", "item_id": "sku"}),
        "items": items,
        "item_embeddings": wide,
    }


def test_tables_in_memory_take_the_same_path_as_files(tmp_path: Path) -> None:
    project = sidkit.init(tmp_path / "repo", **frames(), source=SOURCE)
    source = project.settings.source
    assert source.modalities == ("emb",)
    assert (source.columns, source.label.positive, source.times.assume_timezone) == (
        SOURCE["columns"], "rating >= 4", ZONE,
    )  # fmt: skip
    project.ingest()
    log = read_log(project.repo)
    got = pq.read_table(log.parts[0]).to_pandas()
    assert got["timestamp"].tolist() == good()["interactions"]["timestamp"].to_pandas().tolist()
    assert got["label"].tolist() == [1, 0] * (N_EVENTS // 2)
    assert pq.read_table(log.embeddings)["emb"].to_pylist() == good()["item_embeddings"]["text"].to_pylist()
    converted = project.convert(tmp_path / "out")
    assert [report.rejected for report in converted.tables] == [0, 0, 0]
    assert pq.read_table(tmp_path / "out" / "item_embeddings.parquet").column_names == ["item_id", "emb"]
    more = frames()["items"].head(1).with_columns(created_at=pl.lit(datetime.date(2019, 11, 1)))
    project.ingest(items=more)
    created = pq.read_table(read_log(project.repo).items)["created_at"].to_pylist()
    assert [at.date().isoformat() for at in created] == ["2019-10-31", *["2019-11-30"] * 3]


def test_a_log_in_memory_needs_no_vectors(tmp_path: Path) -> None:
    tables = good()
    with pytest.warns(UserWarning, match="sidkit data embed"):
        project = sidkit.init(tmp_path / "repo", interactions=tables["interactions"], items=tables["items"])
    assert project.settings.source.modalities == ()
    assert project.ingest().new_rows == N_EVENTS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kolumns": {}}, "source: kolumns: Extra inputs"),
        ({"times": {"unit": "hours"}}, "source: times.unit"),
        ({"label": {"column": "x"}}, "expected either positive, or column and values"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(source: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        sidkit.init(tmp_path / "repo", write_tables(tmp_path / "source", good()), source=source)
    assert not (tmp_path / "repo").exists()


def test_a_converted_source_is_the_contract_itself(tmp_path: Path) -> None:
    folder = csv_folder(tmp_path / "source")
    with (folder / "interactions.csv").open("a") as file:
        file.write('"000","000",not a time,1\n')
    with pytest.raises(RejectedRowsError):
        convert_source(folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejects"]
    converted = convert_source(folder, tmp_path / "out", source={"max_reject_share": 0.5})  # as the error says
    assert [report.rejected for report in converted.tables] == [0, 0, 1]
    names = {"interactions.parquet", "items.parquet", "item_embeddings.parquet", "rejects"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    expected = read(write_tables(tmp_path / "plain", numbered()), tmp_path / "work")
    assert read(tmp_path / "out", tmp_path / "work2") == expected
    assert pq.read_table(tmp_path / "out" / "rejects" / "interactions.parquet")["reason"].to_pylist() == [
        "timestamp is not an ISO 8601 time"
    ]
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        convert_source(folder, tmp_path / "out")


def test_a_source_without_vectors_is_converted_without(tmp_path: Path) -> None:
    tables = good()
    del tables["item_embeddings"]
    folder = write_tables(tmp_path / "source", tables)
    with pytest.warns(UserWarning, match="sidkit data embed"):
        convert_source(folder, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {"interactions.parquet", "items.parquet"}


def test_the_commands_list_columns_and_read_the_settings_next_to_the_data(tmp_path: Path) -> None:
    tables = good()
    tables["interactions"] = put(tables["interactions"], "device", ["phone"] * N_EVENTS).rename_columns(
        ["uid", "item_id", "timestamp", "label", "device"]
    )
    folder = write_tables(tmp_path / "source", tables)
    (folder / "sidkit.toml").write_text('[source.columns]\nuser_id = "uid"\n')
    printed = ask("data", "check", folder).out
    rows = [
        line.split(maxsplit=3) for line in printed.splitlines() if line.startswith(("interactions  ", "interactions "))
    ]
    assert ["interactions", "uid", "used", "as user_id"] in rows
    assert ["interactions", "device", "ignored", "not a column of the contract"] in rows
    stated = json.loads(ask("data", "check", folder, "--json").out)
    columns = {use["column"]: use["use"] for use in stated["tables"][2]["columns"]}
    assert columns == {"uid": "used", "item_id": "used", "timestamp": "used", "label": "used", "device": "ignored"}
    other = tmp_path / "other.toml"
    other.write_text('[source.columns]\nuser_id = "nobody"\n')
    refused = ask("data", "check", folder, "--settings", other).err
    assert "expected a column 'nobody'" in refused
    done = ask("data", "convert", folder, tmp_path / "out").out
    assert "12 rows of interactions; 0 rejected rows" in done
    assert pd.read_parquet(tmp_path / "out" / "interactions.parquet")["user_id"].tolist()[0] == "u0"


def test_texts_to_embed_are_read_from_files_of_another_form(tmp_path: Path) -> None:
    from semantic_ids.pretrained.items import Items

    (tmp_path / "items.csv").write_text("sku;title\n001;a\n002;\n;c\n")
    (tmp_path / "sidkit.toml").write_text('[source.columns.items]\nitem_id = "sku"\n')
    items = Items(str(tmp_path))
    (chunk,) = items.chunks(("title",), 10)
    assert chunk.to_pylist() == [{"item_id": "001", "title": "a"}, {"item_id": "002", "title": None}]
    assert items.refused == {"item_id is missing": 1}


def test_users_and_context_columns_are_converted(tmp_path: Path) -> None:
    convert_source(attribute_source(tmp_path / "source"), tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "users.parquet").column_names == ["user_id", "updated_at", "country"]
    events = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert set(events.column("device").to_pylist()) == set(DEVICES)
    assert "dwell_time" not in events.column_names  # an outcome
