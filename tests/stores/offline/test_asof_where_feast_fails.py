"""The as-of store where Feast's own DuckDB store answers otherwise or fails: renamed columns, paths, ttls, names, times."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from helpers.pit_oracle import (
    BASE_US,
    STOCK,
    FeatureRow,
    Table,
    both_stores,
    cells,
    entity_frame,
    feast_store,
    in_order,
    moment,
    write,
)  # fmt: skip
from sidkit.core.errors import ConfigError

# ibis 12 calls a method that DuckDB 1.5 deprecates; only Feast's own store goes through ibis.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")


def _small(folder: Path, feature: str = "x", path: str = "", mapping: Any = None, **view: Any) -> list[Any]:
    """A view on ten rows of one user, 10 microseconds apart."""
    feast_store(folder, STOCK)
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64

    rows = [FeatureRow(("u",), BASE_US + 10 * number, BASE_US + 10 * number, (number,)) for number in range(10)]
    table = Table(("user_id",), ((feature, pa.int64()),), rows).arrow()
    for old, new in (mapping or {}).items():
        table = table.rename_columns([old if name == new else name for name in table.column_names])
    old_names = {new: old for old, new in (mapping or {}).items()}
    write(folder / "small" / "part-0.parquet", table.slice(0, 4))
    write(folder / "small" / "part-1.parquet", table.slice(4))
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(
        name="small_source",
        path=path or str(folder / "small" / "*.parquet"),
        timestamp_field=old_names.get("event_timestamp", "event_timestamp"),
        created_timestamp_column="created_timestamp",
        field_mapping=mapping,
    )
    settings = {"ttl": timedelta(0), **view}
    schema = [Field(name=feature, dtype=Int64)]
    return [user, FeatureView(name="small", entities=[user], schema=schema, source=source, **settings)]


def small_frame() -> pd.DataFrame:
    return entity_frame({"user_id": ["u"] * 4}, [BASE_US - 1, BASE_US + 95, BASE_US, BASE_US + 35]).assign(row=range(4))


ANSWER = [None, 9, 0, 3]


def _both_answer(folder: Path, objects: list[Any], asked: dict[str, Any]) -> tuple[Any, Any]:
    """Feature values in the order of the rows, or the error, of our store and of Feast's."""
    folder.mkdir(exist_ok=True)
    answers: list[Any] = []
    for store in both_stores(folder, objects):
        try:
            answers.append(cells(in_order(store.get_historical_features(**asked).to_arrow())))
        except Exception as error:  # noqa: BLE001 - the point is which error
            answers.append(error)
    return answers[0], answers[1]


def test_renamed_keys_and_features_are_found_as_under_feast(tmp_path: Path) -> None:
    objects = _small(tmp_path, mapping={"uid": "user_id", "raw": "x"})
    ours, stock = _both_answer(tmp_path, objects, {"entity_df": small_frame(), "features": ["small:x"]})
    assert ours == stock
    assert ours["x"] == ANSWER


def test_a_renamed_time_is_found_where_feast_fails(tmp_path: Path) -> None:
    objects = _small(tmp_path, mapping={"at": "event_timestamp"})
    ours, stock = _both_answer(tmp_path, objects, {"entity_df": small_frame(), "features": ["small:x"]})
    assert ours["x"] == ANSWER
    assert isinstance(stock, Exception)


@pytest.mark.parametrize("path", ["small", "small/*.parquet", "small/part-1.parquet"])
def test_a_relative_source_path_lies_in_the_repo_where_feast_looks_in_the_working_directory(
    tmp_path: Path, elsewhere: Path, path: str
) -> None:
    repo = tmp_path / "repo"
    objects = _small(repo, path=path)
    ours, stock = _both_answer(repo, objects, {"entity_df": small_frame(), "features": ["small:x"]})
    assert ours["x"] == ([None, 9, None, None] if "part-1" in path else ANSWER)
    assert isinstance(stock, Exception)


def test_a_source_may_be_a_folder_of_parts(tmp_path: Path) -> None:
    # Feast's own store reads a folder only when the source names its format.
    objects = _small(tmp_path, path=str(tmp_path / "small"))
    ours, stock = _both_answer(tmp_path, objects, {"entity_df": small_frame(), "features": ["small:x"]})
    assert ours["x"] == ANSWER
    assert isinstance(stock, Exception)


@pytest.mark.parametrize("ttl", [timedelta(hours=27), timedelta(days=1, microseconds=1)])
def test_a_ttl_of_mixed_units_works_where_feast_fails(tmp_path: Path, ttl: timedelta) -> None:
    ttl_us = ttl // timedelta(microseconds=1)
    at = [BASE_US + ttl_us, BASE_US + 90 + ttl_us, BASE_US + 91 + ttl_us]
    frame = entity_frame({"user_id": ["u"] * 3}, at).assign(row=range(3))
    ours, stock = _both_answer(tmp_path, _small(tmp_path, ttl=ttl), {"entity_df": frame, "features": ["small:x"]})
    assert ours["x"] == [9, 9, None]
    assert isinstance(stock, ValueError)


def test_a_feature_name_may_end_in_y_where_feast_fails(tmp_path: Path) -> None:
    ours, stock = _both_answer(
        tmp_path, _small(tmp_path, "label_y"), {"entity_df": small_frame(), "features": ["small:label_y"]}
    )
    assert ours["label_y"] == ANSWER
    assert isinstance(stock, Exception)


def test_a_feature_named_like_an_entity_column_is_refused_with_a_remedy_and_fine_under_its_full_name(
    tmp_path: Path,
) -> None:
    asked = {"entity_df": small_frame().assign(x="mine"), "features": ["small:x"]}
    ours, stock = _both_answer(tmp_path, _small(tmp_path), asked)
    assert isinstance(ours, ConfigError)
    assert "x" in str(ours)
    assert "full_feature_names=True" in str(ours)
    assert isinstance(stock, Exception)
    assert not isinstance(stock, ConfigError)
    ours, stock = _both_answer(tmp_path / "again", _small(tmp_path), {**asked, "full_feature_names": True})
    assert ours == stock
    assert ours["x"] == ["mine"] * 4
    assert ours["small__x"] == ANSWER


@pytest.mark.filterwarnings("ignore:Discarding nonzero nanoseconds:UserWarning:feast")
def test_times_with_nanoseconds_are_rounded_down_where_feast_fails(tmp_path: Path) -> None:
    at = pd.to_datetime([BASE_US * 1000 - 1, BASE_US * 1000 + 9_999, BASE_US * 1000 + 10_000], unit="ns", utc=True)
    frame = pd.DataFrame({"user_id": ["u"] * 3, "event_timestamp": at, "row": range(3)})
    ours, stock = _both_answer(tmp_path, _small(tmp_path), {"entity_df": frame, "features": ["small:x"]})
    assert ours["x"] == [None, 0, 1]
    assert ours["event_timestamp"] == [moment(BASE_US + off) - moment(0) for off in (-1, 9, 10)]
    assert isinstance(stock, pa.ArrowInvalid)


@pytest.mark.parametrize("folder", ["small", "day=3"])  # the second is left to DuckDB, which sees a column in the name
@pytest.mark.parametrize("pull_latest", [True, False])
def test_a_view_without_entities_is_materialized_where_feast_fails(
    tmp_path: Path, folder: str, pull_latest: bool
) -> None:
    feast_store(tmp_path, STOCK)
    from feast import FeatureView, Field, FileSource
    from feast.types import Int64

    rows = [FeatureRow((), BASE_US + 10 * number, BASE_US, (number,)) for number in range(10)]
    path = write(tmp_path / folder / "part.parquet", Table((), (("x", pa.int64()),), rows).arrow())
    source = FileSource(
        name="whole_source", path=path, timestamp_field="event_timestamp", created_timestamp_column="created_timestamp"
    )
    view = FeatureView(name="whole", entities=[], schema=[Field(name="x", dtype=Int64)], source=source)
    told: list[Any] = []
    for store in both_stores(tmp_path, [view]):
        store.config.materialization_config.pull_latest_features = pull_latest
        frame = small_frame().drop(columns="user_id")
        found = store.get_historical_features(frame, ["whole:x"]).to_arrow()
        assert cells(in_order(found))["x"] == ANSWER
        try:
            store.materialize(moment(BASE_US), moment(BASE_US + 75))
        except ValueError as error:
            told.append(str(error))
            continue
        # Feast answers for every row of a request, whatever its keys.
        asked = store.get_online_features(["whole:x"], [{"user_id": "u"}, {"user_id": "stranger"}])
        told.append(asked.to_dict()["x"])
    assert told == [[7, 7], "Column __dummy_id not found in table"]
