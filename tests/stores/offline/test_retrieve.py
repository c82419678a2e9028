"""Retrieval from Arrow and Parquet: the same answers as Feast's method, in a table, a stream, a file, or by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.pit_oracle import Ground, asked_rows, cells
from sidkit.core.config import EngineSettings
from sidkit.core.errors import ConfigError, ContractError
from sidkit.stores.offline.point_in_time import PointInTime
from sidkit.stores.offline.retrieve import retrieve

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("retrieve"))


@pytest.fixture(scope="module")
def rows(ground: Ground) -> pa.Table:
    frame = asked_rows(ground.draw(3), null_times=0.1)
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    return table.append_column("kind", table["user_id"].dictionary_encode())


@pytest.fixture(scope="module")
def expected(ground: Ground, rows: pa.Table) -> pa.Table:
    return ground.ours.get_historical_features(rows.to_pandas(), ground.refs()).to_arrow()


def features_of(table: pa.Table, rows: pa.Table) -> dict[str, list[Any]]:
    return cells(table, [name for name in table.column_names if name not in rows.column_names])


@pytest.mark.parametrize("by_created", [False, True])
def test_arrow_in_gives_what_feasts_method_gives_and_the_rows_as_they_were(
    ground: Ground, rows: pa.Table, by_created: bool
) -> None:
    asked = {"filter_by_created_timestamp": by_created, "full_feature_names": True}
    told = ground.ours.get_historical_features(rows.to_pandas(), ground.refs(), **asked).to_arrow()
    found = retrieve(ground.ours, rows, ground.refs(), **asked).to_arrow()
    assert found.select(rows.column_names).equals(rows)
    assert found.column_names == told.column_names
    assert features_of(found, rows) == features_of(told, rows)


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_a_stream_is_the_table_cut_in_pieces(ground: Ground, rows: pa.Table, expected: pa.Table, size: int) -> None:
    few = rows.slice(0, 60) if size == 1 else rows
    batches = list(retrieve(ground.ours, few, ground.refs()).batches(size))
    assert max(map(len, batches)) <= size
    streamed = pa.Table.from_batches(batches)
    assert features_of(streamed, rows) == features_of(expected.slice(0, len(few)), rows)
    assert streamed.select(rows.column_names).equals(few)


def test_a_file_goes_to_a_file(ground: Ground, rows: pa.Table, expected: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=50)
    retrieval = retrieve(ground.ours, tmp_path / "rows.parquet", ground.refs())
    assert retrieval.to_parquet(tmp_path / "frame.parquet", 64) == len(rows)
    assert features_of(pq.read_table(tmp_path / "frame.parquet"), rows) == features_of(expected, rows)
    assert features_of(retrieval.to_arrow(), rows) == features_of(expected, rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.parquet", "rows.parquet"]


def test_lists_may_stay_an_index_beside_the_distinct_lists(ground: Ground, rows: pa.Table, expected: pa.Table) -> None:
    retrieval = retrieve(ground.ours, rows, ground.refs())
    found = retrieval.to_arrow(dictionary=True)
    for name in expected.column_names:
        if pa.types.is_list(expected.schema.field(name).type):
            column = found[name].combine_chunks()
            assert pa.types.is_dictionary(column.type)
            kept = column.dictionary if isinstance(column, pa.DictionaryArray) else column.chunk(0).dictionary
            assert len(kept) < len(rows)
    assert features_of(found, rows) == features_of(expected, rows)
    streamed = pa.Table.from_batches(list(retrieval.batches(len(rows), dictionary=True)))
    assert features_of(streamed, rows) == features_of(expected, rows)


def test_views_are_the_distinct_rows_and_an_index(ground: Ground, rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "rows.parquet")
    views = ground.ours.get_historical_features(rows.to_pandas(), ground.refs()).views()
    for source in (rows, tmp_path / "rows.parquet"):
        for ours, told in zip(retrieve(ground.ours, source, ground.refs()).views(), views, strict=True):
            assert ours.name == told.name
            assert (ours.index == told.index).all()
            assert ours.table.equals(told.table)


def test_little_memory_changes_the_engine_and_no_answer(ground: Ground, rows: pa.Table, expected: pa.Table) -> None:
    plans = retrieve(ground.ours, rows, ground.refs()).job.plans
    keys = {name: rows.column(name) for name in ("user_id", "item_id")}
    at = rows["event_timestamp"].cast(pa.int64()).combine_chunks()
    # Nothing is held: DuckDB joins. Keys and times are held: features are read again for each chunk.
    for held in (0, 25_000, None):
        join = PointInTime(plans, EngineSettings(), held_bytes=held)
        for _ in range(2):
            assert {name: cells(pa.table({name: column}))[name] for name, column in join.columns(keys, at).items()} == (
                features_of(expected, rows)
            )


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning:feast")
def test_on_demand_views_are_computed_batch_by_batch(ground: Ground, rows: pa.Table) -> None:
    from feast import Field
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Int64

    @on_demand_feature_view(
        sources=[ground.views["user_ever"]], schema=[Field(name="twice", dtype=Int64)], mode="pandas"
    )
    def twice(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": 2 * inputs["user_ever_number"].astype("Int64")})

    ground.ours.apply([twice])
    refs = ["twice:twice", "user_ever:user_ever_number"]
    retrieval = retrieve(ground.ours, rows, refs)
    found = cells(pa.Table.from_batches(list(retrieval.batches(50))))
    assert found["twice"] == [None if number is None else 2 * number for number in found["user_ever_number"]]
    assert set(found["twice"]) != {None}
    with pytest.raises(ConfigError, match="expected no on-demand views with dictionary=True, got twice"):
        retrieval.to_arrow(dictionary=True)


def test_what_cannot_be_streamed_is_refused_with_a_remedy(ground: Ground, rows: pa.Table, tmp_path: Path) -> None:
    refs = ["user_ever:user_ever_text"]
    with pytest.raises(ConfigError, match="AsofDuckDBOfflineStore"):
        retrieve(ground.stock, rows, refs)
    with pytest.raises(ContractError, match="expected the join keys user_id"):
        retrieve(ground.ours, rows.drop_columns(["user_id"]), refs)
    with pytest.raises(ConfigError, match="expected unique column names"):
        retrieve(ground.ours, rows.append_column("user_ever_text", rows["user_id"]), refs)
    (tmp_path / "rows.parquet").write_text("no Parquet")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        retrieve(ground.ours, tmp_path / "rows.parquet", refs)
    texts = rows.set_column(
        rows.column_names.index("event_timestamp"), "event_timestamp", pa.nulls(len(rows), pa.string())
    )
    with pytest.raises(ContractError, match="expected a timestamp in event_timestamp.*got string"):
        retrieve(ground.ours, texts, refs)
    pq.write_table(rows.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ContractError, match="expected at least one row"):
        retrieve(ground.ours, tmp_path / "empty.parquet", refs).to_parquet(tmp_path / "frame.parquet")
    assert not (tmp_path / "frame.parquet").exists()


def test_materialization_streams_the_newest_rows(ground: Ground) -> None:
    from helpers.pit_oracle import BASE_US, DAY_US, FEATURES, moment

    name = "pair_ever"
    job = ground.ours._get_provider().offline_store.pull_latest_from_table_or_query(
        ground.ours.config, ground.views[name].batch_source, ["user_id", "item_id"],
        [f"{name}_{feature}" for feature in FEATURES], "event_timestamp", "created_timestamp",
        moment(BASE_US), moment(BASE_US + 90 * DAY_US),
    )  # fmt: skip
    batches = list(job.batches(5))
    assert max(map(len, batches)) <= 5
    assert pa.Table.from_batches(batches) == job.to_arrow()
