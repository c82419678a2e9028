"""Own feature views for repos under test: by user, by another key, and on-demand views of every kind."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.builders import DAY
from sidkit.core.repo import Repo

MARKED = "from on_demand_views import user_recency"
"""The import of own views in ``services.py``."""
EXTRA = (
    "user_recency:hours_since_last_click",
    "trips:trips_today", "cells:load", "cells:zone", "click_gap:hours", "odds:budget_per_click", "odds:is_phone",
    "python_mode:doubled",
)  # fmt: skip
VIEWS = '''
"""Own views."""

from pathlib import Path

import pandas as pd
from entities import user
from feast import Entity, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String
from item_views import item_stats
from on_demand_views import row_time
from user_views import user_history, user_stats

OWN = Path(__file__).resolve().parent / "own"


def source(name):
    return FileSource(
        name=f"{name}_source", path=str(OWN / f"{name}.parquet"), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


cell = Entity(name="cell", join_keys=["cell_id"], value_type=ValueType.INT64)
trips = FeatureView(name="trips", entities=[user], schema=[Field(name="trips_today", dtype=Int64)], source=source("trips"))
cells_view = FeatureView(
    name="cells", entities=[cell], schema=[Field(name="load", dtype=Float64), Field(name="zone", dtype=String)],
    source=source("cells"),
)
request = RequestSource(name="request", schema=[Field(name="budget", dtype=Float64), Field(name="device", dtype=String)])


@on_demand_feature_view(
    sources=[user_history[["timestamps_us"]], row_time], schema=[Field(name="hours", dtype=Float64)], mode="pandas"
)
def click_gap(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["hours"] = (inputs["at_us"] - inputs["timestamps_us"].str[0].astype("float64")) / 3_600_000_000
    return out


@on_demand_feature_view(
    sources=[item_stats[["clicks_all"]], request],
    schema=[Field(name="budget_per_click", dtype=Float64), Field(name="is_phone", dtype=Bool)], mode="pandas",
)
def odds(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["budget_per_click"] = inputs["budget"] / (1 + inputs["item_stats__clicks_all"].fillna(0))
    out["is_phone"] = inputs["device"] == "phone"
    return out


@on_demand_feature_view(
    sources=[user_stats[["clicks_all"]]], schema=[Field(name="doubled", dtype=Int64)], mode="python"
)
def python_mode(inputs: dict) -> dict:
    return {"doubled": [None if count is None else 2 * count for count in inputs["user_stats__clicks_all"]]}
'''


def add_own_views(
    repo: Repo, extra: tuple[str, ...] = EXTRA, imports: str = "trips, cells_view, click_gap, odds, python_mode"
) -> None:
    """Define own views in a repo with tables, and name their features in its settings."""
    users = pq.read_table(repo.tables / "user_stats.parquet", columns=["user_id", "event_timestamp"])
    own = repo.path / "own"
    own.mkdir(exist_ok=True)
    moments = users.column("event_timestamp")
    trips = pa.table(
        {
            "user_id": users.column("user_id"), "event_timestamp": moments, "created_timestamp": moments,
            "trips_today": pa.array(range(len(users)), pa.int64()),
        }
    )  # fmt: skip
    pq.write_table(trips, own / "trips.parquet")
    first = pa.array([DAY, DAY, DAY], pa.int64()).cast(pa.timestamp("us", "UTC"))
    cells = {"cell_id": pa.array([1, 2, 2**60]), "load": [0.5, 0.25, 4.0], "zone": ["a", "b", None]}
    pq.write_table(pa.table({**cells, "event_timestamp": first, "created_timestamp": first}), own / "cells.parquet")
    (repo.path / "my_views.py").write_text(VIEWS)
    name_extra(repo.path, extra, f"from my_views import {imports}")
    repo.__dict__.pop("settings", None)


def name_extra(repo: Path, extra: tuple[str, ...], imports: str = "") -> None:
    """Set ``features.extra``, and add an import to ``services.py``."""
    settings = repo / "sidkit.toml"
    listed = ", ".join(f'"{name}"' for name in extra)
    text = re.sub(r"(?m)^extra = .*$", "", settings.read_text())
    head = "" if "[features]" in text else "\n[features]\n"
    text = (
        text + f"{head}extra = [{listed}]\n" if head else text.replace("[features]", f"[features]\nextra = [{listed}]")
    )
    settings.write_text(text)
    if imports:
        services = repo / "services.py"
        text = services.read_text()
        services.write_text(text.replace(MARKED, f"{imports}\n{MARKED}"))
