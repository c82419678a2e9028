"""Renamed columns, and times that are days or texts: what joins offline is materialized, under both engines."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from helpers.source_builders import AT, ENGINE, LATER, at, materialize, offline, online, part, store_of, view_of
from sidkit.core.errors import ContractError
from sidkit.stores.doctor import examine

RENAMED = {"ts_1": "ts", "cr_1": "created", "id": "driver_id", "f_raw": "f"}


@pytest.mark.parametrize("engine", [ENGINE, "local"])
@pytest.mark.parametrize("decoy", [False, True])
def test_renamed_times_keys_and_features_are_the_same_table_everywhere(
    tmp_path: Path, engine: str, decoy: bool
) -> None:
    from feast.types import Float64

    columns = {
        "id": [1, 2, 1],
        "f_raw": [1.5, 2.5, 3.5],
        "ts_1": pa.array([AT, AT, LATER], pa.timestamp("us", "UTC")),
        "cr_1": at(3),
    }
    if decoy:  # columns of the file that already have the names of the table
        columns |= {"f": [-1.0] * 3, "ts": pa.array([LATER] * 3, pa.timestamp("us", "UTC")), "driver_id": [9, 9, 9]}
    path = part(tmp_path / "t.parquet", **columns)
    view, entities = view_of(
        path, {"driver_id": "INT64"}, {"f": Float64}, timestamp="ts", created="created", mapping=RENAMED
    )
    assert examine([view], entities, "sidkit", tmp_path) == []
    store = store_of(tmp_path / "repo", view, entities, engine=engine)
    assert offline(store, pd.DataFrame({"driver_id": [1, 2]})) == [3.5, 2.5]
    materialize(store)
    assert online(store, [{"driver_id": 1}, {"driver_id": 2}]) == [3.5, 2.5]


def test_times_may_be_named_as_in_the_file_too(tmp_path: Path) -> None:
    from feast.types import Float64

    path = part(tmp_path / "t.parquet", id=[1, 1], f_raw=[1.5, 2.5], ts_1=at(2), cr_1=at(2), event_timestamp=at(2))
    mapping = {**RENAMED, "id": "k"}
    view, entities = view_of(path, {"k": "INT64"}, {"f": Float64}, timestamp="ts_1", created="cr_1", mapping=mapping)
    store = store_of(tmp_path / "repo", view, entities)
    assert offline(store, pd.DataFrame({"k": [1, 2]})) == [2.5, None]
    materialize(store)
    assert online(store, [{"k": 1}, {"k": 2}]) == [2.5, None]


# The second is the newest by its moment, not by its letters.
TIMES: dict[str, pa.Array] = {
    "date32": pa.array([date(2024, 1, 1), date(2024, 1, 2)], pa.date32()),
    "date64": pa.array([date(2024, 1, 1), date(2024, 1, 2)], pa.date64()),
    "text": pa.array(["2024-01-01 00:00:00", "2024-01-02 00:00:00"]),
    "text of zones": pa.array(["2024-01-02T08:59:59+09:00", "2024-01-01T23:59:59.5Z"]),
    "seconds": at(2, "s"),
}


@pytest.mark.parametrize("engine", [ENGINE, "local"])
@pytest.mark.parametrize("form", TIMES)
def test_days_and_texts_are_moments_offline_and_online(tmp_path: Path, engine: str, form: str) -> None:
    from feast.types import Int64

    path = part(tmp_path / "t.parquet", k=[1, 1], f=[10, 20], event_timestamp=TIMES[form], created=TIMES[form])
    view, entities = view_of(path, {"k": "INT64"}, {"f": Int64}, created="created")
    assert examine([view], entities, "sidkit", tmp_path) == []
    store = store_of(tmp_path / "repo", view, entities, engine=engine)
    assert offline(store, pd.DataFrame({"k": [1], "event_timestamp": [LATER]})) == [20]
    assert offline(store, pd.DataFrame({"k": [1], "event_timestamp": [pd.Timestamp(AT) - pd.Timedelta(days=2)]})) == [
        None
    ]
    materialize(store)
    assert online(store, [{"k": 1}]) == [20]


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (pa.array([1_704_067_200]), "which has no known unit"),
        (pa.array(["2024-01-01", "junk"]), "invalid timestamp field format"),
        (pa.array([2**62]).view(pa.timestamp("ms", "UTC")), "out of bounds"),
    ],
)
def test_what_is_no_time_is_refused_by_name(tmp_path: Path, times: Any, told: str) -> None:
    from feast.types import Int64

    count = len(times)
    path = part(tmp_path / "t.parquet", k=[1] * count, f=[1] * count, event_timestamp=times)
    store = store_of(tmp_path / "repo", *view_of(path, {"k": "INT64"}, {"f": Int64}))
    with pytest.raises(ContractError, match=f"(view v|s): .*{told}"):
        offline(store, pd.DataFrame({"k": [1]}))
    with pytest.raises(ContractError, match=rf"\bs: .*{told}"):
        materialize(store)
