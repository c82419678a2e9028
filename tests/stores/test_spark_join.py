"""The plan of a join on Spark: what Feast resolved is read from its query, and Feast's own join is left as it is."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import BaseLoader, Environment

from sidkit.stores.spark_join import PLAN, JoinPlan

VIEW = {
    "name": "stats", "ttl": 0, "entities": ["user_id"], "features": ["n_raw", "vector"], "field_mapping": {"n_raw": "n"},
    "timestamp_field": "at", "created_timestamp_column": "made", "table_subquery": "parquet_1",
    "entity_selections": ["uid AS user_id"], "min_event_timestamp": None, "max_event_timestamp": "2024-01-02T00:00:00",
    "date_partition_column": "event_date", "min_date_partition": None, "max_date_partition": "2024-01-02",
}  # fmt: skip


def plan(left: str = "rows", full_names: bool = True, **changed: Any) -> JoinPlan:
    query = (
        Environment(loader=BaseLoader(), autoescape=False)
        .from_string(PLAN + "SELECT 1")
        .render(
            left_table_query_string=left,
            entity_df_event_timestamp_col="moment",
            final_output_feature_names=["user_id", "moment", "row", "stats__n", "stats__vector"],
            featureviews=[{**VIEW, **changed}],
            full_feature_names=full_names,
            filter_by_created_timestamp=False,
        )
    )
    assert query.endswith("sidkit*/SELECT 1")
    return JoinPlan.read(query)


@pytest.mark.parametrize("left", ["rows", "(SELECT 'a */ b <&> \"c\"' FROM \n x)", "sidkit*/", "a//*b"])
def test_any_text_is_read_as_it_was_written(left: str) -> None:
    assert plan(left).left == left


def test_names_are_those_of_the_result_and_columns_those_of_the_source() -> None:
    found = plan()
    assert (found.time, found.own_columns) == ("moment", ["user_id", "moment", "row"])
    (view,) = found.views
    assert view.features == {"stats__n": "n_raw", "stats__vector": "vector"}
    assert plan(full_names=False).views[0].features == {"n": "n_raw", "vector": "vector"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "WHERE at <= '2024-01-02T00:00:00' AND event_date <= '2024-01-02'"),
        ({"date_partition_column": ""}, "WHERE at <= '2024-01-02T00:00:00'"),
        (
            {"ttl": 60, "min_event_timestamp": "2024-01-01T00:00:00", "min_date_partition": "2024-01-01"},
            "WHERE at <= '2024-01-02T00:00:00' AND event_date <= '2024-01-02' AND at >= '2024-01-01T00:00:00' AND "
            "event_date >= '2024-01-01'",
        ),
    ],
)
def test_only_rows_that_can_be_seen_are_read(changed: dict[str, Any], expected: str) -> None:
    assert plan(**changed).views[0].versions.endswith(expected)
