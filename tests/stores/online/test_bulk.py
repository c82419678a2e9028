"""Materialization in bulk leaves what ``feast materialize`` leaves, and is exact where Feast is not."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.online_builders import BASE_US, PACKED, SOURCE_TYPES, feast_repo, feature_view, item_entity, write_source
from helpers.pit_oracle import moment
from sidkit.core.errors import ContractError
from sidkit.stores.online.checksums import TAIL

BEGINNING, END = datetime(1970, 1, 2, tzinfo=UTC), moment(BASE_US + 700_000_000)


def materialized(folder: Path, views: list[Any], *, bulk: bool, end: datetime = END) -> tuple[Any, dict[str, int]]:
    from sidkit.stores.online.bulk import in_bulk

    store = feast_repo(folder, PACKED, views)
    written: dict[str, int] = {}
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.ExitStack() as on,
    ):
        if bulk:
            written = on.enter_context(in_bulk(store))
        store.materialize(BEGINNING, end)
    return store, written


def table(store: Any, name: str = "thing") -> list[Any]:
    with contextlib.closing(sqlite3.connect(store.config.online_store.path)) as opened:
        return opened.execute(f'SELECT key, row FROM "packed:shop_{name}" ORDER BY key').fetchall()


def without_nulls(path: Path) -> None:
    """Feast sends integers beside nulls through floats; without nulls both ways are exact."""
    told = pq.read_table(path)
    whole = told["whole"].fill_null(2**53 + 1)
    pq.write_table(told.set_column(told.column_names.index("whole"), "whole", whole), path)


def test_bulk_leaves_the_same_table_and_intervals_as_feast(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    source = write_source(path, 300)
    without_nulls(path)
    told = {}
    for bulk in (False, True):
        store, written = materialized(
            tmp_path / str(bulk), [feature_view("thing", SOURCE_TYPES, path=str(path))], bulk=bulk
        )
        view = store.get_feature_view("thing")
        told[bulk] = table(store), view.materialization_intervals, view.state
        assert written == ({"thing": len(told[bulk][0])} if bulk else {})
    assert told[True] == told[False]
    rows, intervals, _ = told[True]
    assert intervals == [(BEGINNING, END)]
    kept = [at for at in source["event_timestamp"].to_pylist() if at <= END]
    assert 0 < len(rows) < len(kept) < 300


def test_rows_pass_a_part_at_a_time_and_never_as_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "source.parquet"
    write_source(path, 150_000)
    views = [feature_view("thing", {"count": "Int64", "texts": "Array(String)"}, path=str(path))]
    feast_repo(tmp_path / "repo", PACKED, views)
    from sidkit.stores.offline.jobs import PulledJob
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore

    parts: list[int] = []
    put = PackedSqliteOnlineStore.write_arrow

    def write_arrow(store: Any, config: Any, view: Any, batches: Any) -> int:
        return put(store, config, view, (parts.append(len(batch)) or batch for batch in batches))

    monkeypatch.setattr(PackedSqliteOnlineStore, "write_arrow", write_arrow)
    monkeypatch.setattr(PulledJob, "to_arrow", lambda *_: pytest.fail("the table was made as a whole"))
    store, written = materialized(tmp_path / "repo", views, bulk=True)
    assert written == {"thing": len(table(store))} == {"thing": sum(parts)}
    assert len(parts) > 1 and max(parts) <= 20_000


def test_large_integers_beside_nulls_stay_exact_which_feast_rounds(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    source = write_source(path, 60)
    view = feature_view("thing", SOURCE_TYPES, path=str(path))
    items = sorted(set(source["item_id"].to_pylist()))
    rows: dict[str, Any] = {}
    for row in sorted(source.to_pylist(), key=lambda row: row["event_timestamp"]):
        if row["event_timestamp"] <= END:
            rows[row["item_id"]] = row["whole"]
    expected = [rows.get(item) for item in items]
    assert None in rows.values() and any(value and value > 2**53 for value in expected)
    found = {}
    for bulk in (False, True):
        store, _ = materialized(tmp_path / str(bulk), [view], bulk=bulk)
        found[bulk] = store.get_online_features(["thing:whole"], {"item_id": items}).to_arrow()["whole"].to_pylist()
    assert found[True] == expected
    assert found[False] != expected


def test_columns_that_only_feast_converts_are_converted_by_feast(tmp_path: Path) -> None:
    path, at = tmp_path / "source.parquet", pa.array([BASE_US] * 3, pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table(
            {
                "item_id": pa.array([7, 2**60 + 1, 9]),
                "event_timestamp": at,
                "created_timestamp": at,
                "cut": pa.array([5.7, None, -1.0]),
                "names": pa.array([["a", None], [], None], pa.list_(pa.string())),
                "when": pa.array([BASE_US, None, 0], pa.timestamp("us", "UTC")),
                "named": pa.array(["a", None, "c"]),
            }
        ),
        path,
    )
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Int64, String, UnixTimestamp

    told = {}
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
    for bulk in (False, True):
        view = FeatureView(
            name="thing",
            entities=[item],
            schema=[
                Field(name="cut", dtype=Int64), Field(name="names", dtype=Array(String)),
                Field(name="when", dtype=UnixTimestamp), Field(name="text", dtype=String),
            ],
            source=FileSource(
                path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
                field_mapping={"named": "text"},
            ),
        )  # fmt: skip
        store, written = materialized(tmp_path / str(bulk), [item, view], bulk=bulk)
        assert written == ({"thing": 3} if bulk else {})
        told[bulk] = table(store)
    assert told[True] == told[False] and len(told[True]) == 3


def test_an_earlier_materialization_does_not_take_rows_back_and_a_correction_replaces_them(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    write_source(path, 200)
    view = feature_view("thing", SOURCE_TYPES, path=str(path))
    store, _ = materialized(tmp_path / "repo", [view], bulk=True)
    newest = table(store)
    materialized(tmp_path / "repo", [view], bulk=True, end=moment(BASE_US + 300_000_000))
    assert table(store) == newest
    told = pq.read_table(path)
    counts = pa.array(told["count"].to_numpy() + 100)
    pq.write_table(told.set_column(told.column_names.index("count"), "count", counts), path)
    store, _ = materialized(tmp_path / "repo", [view], bulk=True)
    changed = table(store)
    assert [(key, row[-TAIL:-4]) for key, row in changed] == [(key, row[-TAIL:-4]) for key, row in newest]
    found = store.get_online_features(["thing:count"], {"item_id": sorted(set(told["item_id"].to_pylist()))}).to_dict()
    assert min(count for count in found["count"] if count is not None) >= 100


def test_views_with_a_push_source_are_written_in_bulk_and_pushes_arrive(tmp_path: Path) -> None:
    from feast import FeatureView, PushSource
    from feast.data_source import PushMode

    path = tmp_path / "source.parquet"
    source = write_source(path, 30)
    pushed = feature_view("thing", {"count": "Int64"}, path=str(path))
    pushed = FeatureView(
        name="thing", entities=[item_entity()], schema=pushed.schema,
        source=PushSource(name="push", batch_source=pushed.batch_source),
    )  # fmt: skip
    store, written = materialized(tmp_path / "repo", [pushed], bulk=True)
    rows = sorted(source.to_pylist(), key=lambda row: row["event_timestamp"])
    assert written == {"thing": len({row["item_id"] for row in rows if row["event_timestamp"] <= END})}
    last = [row for row in rows if row["event_timestamp"] <= END][-1]

    def read() -> int:
        found = store.get_online_features(["thing:count"], [{"item_id": last["item_id"]}]).to_dict()["count"]
        return int(found[0])

    assert read() == last["count"]
    for at, value, stays in ((END, 77, True), (moment(BASE_US), 5, False)):
        frame = pa.table(
            {"item_id": [last["item_id"]], "count": [value], "event_timestamp": [at], "created_timestamp": [at]}
        )
        store.push("push", frame.to_pandas(), to=PushMode.ONLINE)
        assert (read() == value) == stays and read() == 77


def test_another_online_store_is_left_to_feast(tmp_path: Path) -> None:
    from sidkit.stores.online.bulk import in_bulk

    path = tmp_path / "source.parquet"
    write_source(path, 30)
    store = feast_repo(tmp_path / "repo", "sqlite", [feature_view("thing", {"count": "Int64"}, path=str(path))])
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        in_bulk(store) as written,
    ):
        store.materialize(BEGINNING, END)
    assert written == {}
    assert store.get_feature_view("thing").materialization_intervals == [(BEGINNING, END)]


def test_an_integer_that_does_not_fit_stops_the_view_and_leaves_no_interval(tmp_path: Path) -> None:
    path, at = tmp_path / "source.parquet", pa.array([BASE_US], pa.timestamp("us", "UTC"))
    columns = {"item_id": ["a"], "event_timestamp": at, "created_timestamp": at, "small": pa.array([2**40])}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(
        ContractError, match="thing_source: expected small as Int32, its declared type, got int64.*not in range"
    ):
        materialized(tmp_path / "repo", [feature_view("thing", {"small": "Int32"}, path=str(path))], bulk=True)
    store = feast_repo(tmp_path / "repo", PACKED, [])
    assert store.get_feature_view("thing").materialization_intervals == []
