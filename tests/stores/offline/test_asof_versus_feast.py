"""The as-of store beside Feast's own DuckDB store and a brute-force oracle: the same repo, the same questions.

Feast's store loses the order of the rows, so every question carries a row number by which its answer is sorted.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from helpers.pit_oracle import (
    FEATURES,
    STOCK,
    VIEWS,
    FeatureRow,
    Ground,
    asked_rows,
    cells,
    feast_store,
    in_order,
    moment,
    newest,
)  # fmt: skip

# ibis 12 calls a method that DuckDB 1.5 deprecates; only Feast's own store goes through ibis.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")


PROOF = bool(os.environ.get("SIDKIT_PROOF"))
"""`make proof` draws more tables."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize("by_created", [False, True])
@pytest.mark.parametrize("seed", range(1, 6 if PROOF else 3))
def test_random_joins_equal_the_oracle_and_feast_cell_by_cell(ground: Ground, seed: int, by_created: bool) -> None:
    rng = ground.draw(seed)
    frame = asked_rows(rng)
    full = bool(seed % 2)
    asked = {
        "entity_df": frame,
        "features": list(rng.permutation(ground.refs())),
        "full_feature_names": full,
        "filter_by_created_timestamp": by_created,
    }
    ours = ground.ours.get_historical_features(**asked).to_arrow()
    stock = ground.stock.get_historical_features(**asked).to_arrow()
    assert ours.column_names == stock.column_names
    assert ours.schema.types == stock.schema.types
    found = cells(ours)
    assert found == cells(in_order(stock))
    for name in VIEWS:
        for feature, expected in ground.oracle(frame, name, by_created).items():
            assert found[f"{name}__{feature}" if full else feature] == expected, feature
            assert len({str(value) for value in expected}) > 3, "the world is too poor to tell anything"


@pytest.mark.parametrize("by_created", [False, True])
def test_rows_without_a_time_see_nothing(ground: Ground, by_created: bool) -> None:
    frame = asked_rows(ground.draw(7), null_times=0.2)
    asked = {"entity_df": frame, "features": ground.refs(), "filter_by_created_timestamp": by_created}
    ours = cells(ground.ours.get_historical_features(**asked).to_arrow())
    assert ours == cells(in_order(ground.stock.get_historical_features(**asked).to_arrow()))
    for name in VIEWS:
        for feature, expected in ground.oracle(frame, name, by_created).items():
            assert ours[feature] == expected, feature


@pytest.mark.parametrize("by_created", [False, True])
def test_aliases_and_join_key_maps_equal_the_oracle_and_feast(ground: Ground, by_created: bool) -> None:
    from feast import FeatureService

    views = ground.views
    mapped = {"item_id": "other_id", "user_id": "user_id"}
    service = FeatureService(
        name="aliased",
        features=[
            views["user_ever"].with_name("person"),
            views["item_40us"].with_name("thing"),
            views["item_40us"].with_name("other_thing").with_join_key_map({"item_id": "other_id"}),
            views["pair_200us"].with_name("other_pair").with_join_key_map(mapped),
            views["pair_ever"][["pair_ever_text"]].with_name("pair"),
        ],
    )
    ground.ours.apply([service])
    frame = asked_rows(ground.draw(8))
    asked = {
        "entity_df": frame,
        "features": service,
        "full_feature_names": True,
        "filter_by_created_timestamp": by_created,
    }
    ours = ground.ours.get_historical_features(**asked).to_arrow()
    stock = feast_store(ground.folder, STOCK).get_historical_features(**asked).to_arrow()
    found = cells(ours)
    assert found == cells(in_order(stock))
    for alias, name, keys in (
        ("person", "user_ever", ["user_id"]),
        ("thing", "item_40us", ["item_id"]),
        ("other_thing", "item_40us", ["other_id"]),
        ("other_pair", "pair_200us", ["user_id", "other_id"]),
    ):
        for feature, expected in ground.oracle(frame, name, by_created, keys).items():
            assert found[f"{alias}__{feature}"] == expected, alias
    assert [column for column in found if column.startswith("pair__")] == ["pair__pair_ever_text"]


def test_a_map_of_one_of_two_keys_keeps_the_other_key_which_feast_forgets(ground: Ground) -> None:
    from feast import FeatureService

    partial = ground.views["pair_ever"].with_name("partial").with_join_key_map({"item_id": "other_id"})
    service = FeatureService(name="partially_mapped", features=[partial])
    ground.ours.apply([service])
    frame = asked_rows(ground.draw(9))
    asked = {"entity_df": frame, "features": service, "full_feature_names": True}
    ours = cells(ground.ours.get_historical_features(**asked).to_arrow())
    stock = cells(in_order(feast_store(ground.folder, STOCK).get_historical_features(**asked).to_arrow()))
    expected = ground.oracle(frame, "pair_ever", False, ["user_id", "other_id"])["pair_ever_number"]
    assert ours["partial__pair_ever_number"] == expected
    assert stock["partial__pair_ever_number"] != expected


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning:feast")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "wanted", [["gap:gap"], ["twice:twice", "user_ever:user_ever_text"], ["twice:twice", "gap:gap"]]
)
def test_on_demand_views_compute_the_same_as_under_feast(ground: Ground, wanted: list[str], full: bool) -> None:
    from feast import Field
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64, Int64

    views = ground.views

    @on_demand_feature_view(
        sources=[views["user_ever"], views["item_40us"]], schema=[Field(name="gap", dtype=Float64)], mode="pandas"
    )
    def gap(inputs: pd.DataFrame) -> pd.DataFrame:
        found = inputs["user_ever_number"].astype("float64") - inputs["item_40us_number"].astype("float64")
        return pd.DataFrame({"gap": found})

    @on_demand_feature_view(sources=[views["user_ever"]], schema=[Field(name="twice", dtype=Int64)], mode="python")
    def twice(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"twice": [None if number is None else 2 * number for number in inputs["user_ever_number"]]}

    ground.ours.apply([gap, twice])
    frame = asked_rows(ground.draw(10))
    asked = {"entity_df": frame, "features": wanted, "full_feature_names": full}
    ours = ground.ours.get_historical_features(**asked).to_arrow()
    stock = feast_store(ground.folder, STOCK).get_historical_features(**asked).to_arrow()
    # Feast appends the inputs that nobody asked for in no fixed order.
    assert cells(ours, sorted(ours.column_names)) == cells(in_order(stock), sorted(stock.column_names))
    prefix = {"gap": "gap__" if full else "", "twice": "twice__" if full else ""}
    numbers = ground.oracle(frame, "user_ever", False)["user_ever_number"]
    found = cells(ours)
    if "twice:twice" in wanted:
        assert found[f"{prefix['twice']}twice"] == [None if number is None else 2 * number for number in numbers]
    if "gap:gap" in wanted:
        other = ground.oracle(frame, "item_40us", False)["item_40us_number"]
        gaps = [None if None in pair else pair[0] - pair[1] for pair in zip(numbers, other, strict=True)]
        assert found[f"{prefix['gap']}gap"] == gaps


TIMES: dict[str, Any] = {
    "another zone": lambda at: at.dt.tz_convert("Asia/Tokyo"),
    "naive": lambda at: at.dt.tz_localize(None),
    "nanosecond type": lambda at: at.astype("datetime64[ns, UTC]"),
    "naive nanosecond type": lambda at: at.dt.tz_localize(None).astype("datetime64[ns]"),
    "text with a zone": lambda at: at.dt.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00"),
    "text in another zone": lambda at: at.dt.tz_convert("Asia/Tokyo").dt.strftime("%Y-%m-%dT%H:%M:%S.%f+09:00"),
    "text without a zone": lambda at: at.dt.strftime("%Y-%m-%d %H:%M:%S.%f"),
    "datetime objects": lambda at: pd.Series([moment.to_pydatetime() for moment in at], dtype=object),
}


@pytest.mark.parametrize("form", TIMES)
def test_times_of_any_form_mean_the_same_moment_as_under_feast(ground: Ground, form: str) -> None:
    frame = asked_rows(ground.draw(11))
    written = frame.assign(event_timestamp=TIMES[form](frame.event_timestamp))
    refs = ["user_ever:user_ever_number", "item_40us:item_40us_text"]
    ours = cells(ground.ours.get_historical_features(written, refs).to_arrow())
    assert ours == cells(in_order(ground.stock.get_historical_features(written, refs).to_arrow()))
    assert ours == cells(ground.ours.get_historical_features(frame, refs).to_arrow())


@pytest.mark.parametrize(
    ("unit", "zone"),
    [("s", None), ("ms", "UTC"), ("us", None), ("us", "UTC"), ("us", "Asia/Tokyo"), ("ns", None), ("ns", "UTC")],
)
def test_source_times_of_any_unit_and_zone_mean_the_same_moment_as_under_feast(
    ground: Ground, unit: str, zone: str | None
) -> None:
    frame = asked_rows(ground.draw(12))
    table = ground.tables["user_30d"]
    step = {"s": 1_000_000, "ms": 1_000}.get(unit, 1)
    coarse = [
        FeatureRow(row.keys, _floor(row.event_us, step), _floor(row.created_us, step), (row.values[0] or 0, "", []))
        for row in table.rows
    ]
    coarse = list({(row.keys, row.event_us, row.created_us): row for row in coarse}.values())
    table.rows[:] = coarse
    ground.write("user_30d", unit, zone)
    for by_created in (False, True):
        asked = {
            "entity_df": frame,
            "features": ["user_30d:user_30d_number"],
            "filter_by_created_timestamp": by_created,
        }
        ours = cells(ground.ours.get_historical_features(**asked).to_arrow())
        assert ours == cells(in_order(ground.stock.get_historical_features(**asked).to_arrow()))
        assert ours["user_30d_number"] == ground.oracle(frame, "user_30d", by_created)["user_30d_number"]
        assert set(ours["user_30d_number"]) != {None}


def _floor(micros: int | None, step: int) -> int | None:
    return None if micros is None else micros // step * step


@pytest.mark.parametrize("name", ["user_ever", "item_uncreated", "pair_ever", "whole"])
@pytest.mark.parametrize("seed", range(20, 24 if PROOF else 22))
@pytest.mark.parametrize("larger_than_memory", [False, True])
def test_pulled_rows_equal_the_oracle_and_feast(
    ground: Ground, name: str, seed: int, larger_than_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if larger_than_memory:
        monkeypatch.setattr("sidkit.stores.offline.store.BYTES_PER_ROW", 2**60)
    rng = ground.draw(seed, ticks=2)
    keys, _, created = VIEWS[name]
    rows = ground.tables[name].rows
    events = sorted(row.event_us for row in rows if row.event_us is not None)
    # Both bounds lie on rows, so that whether they are inclusive is seen.
    start, end = sorted(int(events[pick]) for pick in rng.integers(0, len(events), 2))
    features = [f"{name}_{feature}" for feature in FEATURES]
    answers: dict[str, list[list[Any]]] = {}
    for kind, store in (("ours", ground.ours), ("stock", ground.stock)):
        offline = store._get_provider().offline_store
        asked = {
            "config": store.config,
            "data_source": ground.views[name].batch_source,
            "join_key_columns": list(keys),
            "feature_name_columns": features,
            "timestamp_field": "event_timestamp",
            "created_timestamp_column": "created_timestamp" if created else None,
            "start_date": _naive_or_aware(start, seed),
            "end_date": _naive_or_aware(end, seed + 1),
        }
        latest = offline.pull_latest_from_table_or_query(**asked).to_arrow()
        everything = offline.pull_all_from_table_or_query(**asked).to_arrow()
        if not keys and kind == "ours":  # as Feast's other stores have it, and materialization needs it
            assert latest["__dummy_id"].to_pylist() == [""]
            latest, everything = latest.drop_columns("__dummy_id"), everything.drop_columns("__dummy_id")
        answers[kind] = [_sorted_rows(latest), _sorted_rows(everything)]
    assert answers["ours"] == answers["stock"]
    tabled = ground.tables[name].arrow().select([*keys, *features, "event_timestamp"])
    tabled = tabled.append_column("created_timestamp", ground.tables[name].arrow()["created_timestamp"])
    if not created:
        tabled = tabled.drop_columns(["created_timestamp"])
    inside = [number for number, row in enumerate(rows) if row.event_us is not None and start <= row.event_us <= end]
    best = sorted(newest(rows, start, end).values())
    assert answers["ours"] == [_sorted_rows(tabled.take(best)), _sorted_rows(tabled.take(inside))]


def _naive_or_aware(micros: int, seed: int) -> datetime:
    """A naive bound is meant in UTC (Feast's own store takes it for local time, which is UTC in these tests)."""
    return moment(micros) if seed % 2 else moment(micros).replace(tzinfo=None)


def _sorted_rows(table: pa.Table) -> list[Any]:
    return sorted(zip(*cells(table).values(), strict=True), key=repr)


def test_rows_keep_their_order_and_their_columns_where_feast_shuffles_them(ground: Ground) -> None:
    frame = asked_rows(ground.draw(13))
    ours = ground.ours.get_historical_features(frame, ground.refs()).to_arrow()
    stock = ground.stock.get_historical_features(frame, ground.refs()).to_arrow()
    assert ours["row"].to_pylist() == frame["row"].tolist()
    assert stock["row"].to_pylist() != frame["row"].tolist()
    assert ours.column_names[: frame.shape[1]] == list(frame.columns)
    assert cells(ours, list(frame.columns)) == cells(frame)
