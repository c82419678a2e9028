"""``feast materialize`` under the kit's engine leaves what it leaves under Feast's, and what is not plain is left to Feast."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_bulk import BEGINNING, END, table, without_nulls

from helpers.online_builders import BASE_US, PACKED, SOURCE_TYPES, feast_repo, feature_view, item_entity, write_source
from sidkit.core.errors import ContractError

ENGINE = "sidkit.stores.online.PackedComputeEngine"

# ibis 12 calls a method that DuckDB 1.5 deprecates; only Feast's own offline store goes through ibis.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")


def materialized(folder: Path, views: list[Any], engine: str = ENGINE, kind: str = PACKED, offline: str = "") -> Any:
    store = feast_repo(folder, kind, views, engine=engine, offline=offline)
    assert type(store._get_provider().batch_engine).__name__ == (
        "PackedComputeEngine" if engine == ENGINE else "LocalComputeEngine"
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        store.materialize(BEGINNING, END)
    return store


@pytest.mark.parametrize("offline", ["", "duckdb"])
def test_the_kits_engine_leaves_the_same_table_and_intervals_as_feasts(tmp_path: Path, offline: str) -> None:
    path = tmp_path / "source.parquet"
    write_source(path, 300)
    without_nulls(path)
    told = {}
    for engine in (ENGINE, "local"):
        view = feature_view("thing", SOURCE_TYPES, path=str(path))
        store = materialized(tmp_path / engine, [view], engine, offline=offline)
        found = store.get_feature_view("thing")
        told[engine] = table(store), found.materialization_intervals, found.state
    assert told[ENGINE] == told["local"]
    rows, intervals, _ = told[ENGINE]
    assert len(rows) > 50 and intervals == [(BEGINNING, END)]


def test_large_integers_beside_nulls_stay_exact(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    told = write_source(path, 60).sort_by("event_timestamp").to_pylist()
    expected = {row["item_id"]: row["whole"] for row in told if row["event_timestamp"] <= END}
    assert None in expected.values() and any(value and value % 2 for value in expected.values())
    store = materialized(tmp_path / "repo", [feature_view("thing", SOURCE_TYPES, path=str(path))])
    found = store.get_online_features(["thing:whole"], {"item_id": list(expected)}).to_arrow()["whole"].to_pylist()
    assert found == list(expected.values())


@pytest.mark.parametrize("kind", [PACKED, "sqlite"])
def test_what_is_not_plain_or_goes_to_another_store_is_left_to_feast(tmp_path: Path, kind: str) -> None:
    from feast import FeatureView, PushSource

    path = tmp_path / "source.parquet"
    source = write_source(path, 60).sort_by("event_timestamp").to_pylist()
    plain = feature_view("thing", {"count": "Int64"}, path=str(path))
    pushed = FeatureView(
        name="pushed", entities=[item_entity()], schema=plain.schema,
        source=PushSource(name="push", batch_source=plain.batch_source),
    )  # fmt: skip
    everyone = FeatureView(name="everyone", entities=[], schema=plain.features[:1], source=plain.batch_source)
    store = materialized(tmp_path / "repo", [plain, pushed, everyone], kind=kind)
    inside = [row for row in source if row["event_timestamp"] <= END]
    last = {row["item_id"]: row["count"] for row in inside}
    asked = ["thing:count", "pushed:count", "everyone:count"]
    found = store.get_online_features(asked, {"item_id": list(last)}, full_feature_names=True).to_dict()
    assert found["thing__count"] == found["pushed__count"] == list(last.values())
    assert found["everyone__count"] == [inside[-1]["count"]] * len(last)


def test_an_integer_that_does_not_fit_stops_the_view_and_leaves_no_interval(tmp_path: Path) -> None:
    path, at = tmp_path / "source.parquet", pa.array([BASE_US], pa.timestamp("us", "UTC"))
    columns = {"item_id": ["a"], "event_timestamp": at, "created_timestamp": at, "small": pa.array([2**40])}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(
        ContractError, match="thing_source: expected small as Int32, its declared type, got int64.*not in range"
    ):
        materialized(tmp_path / "repo", [feature_view("thing", {"small": "Int32"}, path=str(path))])
    store = feast_repo(tmp_path / "repo", PACKED, [], engine=ENGINE)
    assert store.get_feature_view("thing").materialization_intervals == []
