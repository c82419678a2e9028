"""The views ``item_attributes`` and ``user_attributes`` under Feast: offline as of the row's time, online, and redefined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sidkit
from helpers.attribute_world import FEATURES, attribute_repo, attribute_source, attribute_tables, set_features
from helpers.builders import DAY, START
from sidkit.core.clock import from_us
from sidkit.core.errors import SidkitWarning
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.stores.repo_doctor import examine_repo
from sidkit.tables import build_tables, ingest

END = START + 41 * DAY
ITEM = ("category", "genres", "weight", "best_before", "organic", "shape")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("views")
    repo = attribute_repo(folder / "repo", attribute_source(folder / "source"))
    ingest(repo)
    update(repo)
    return repo


def update(repo: Repo, features: str = FEATURES) -> None:
    set_features(repo, features)
    build_tables(repo, END)
    apply_repo(repo)
    materialize(repo, END)


def online(repo: Repo, names: tuple[str, ...], item: str) -> dict[str, Any]:
    read = open_store(repo).get_online_features([f"item_attributes:{name}" for name in names], [{"item_id": item}])
    return {name: values[0] for name, values in read.to_dict().items()}


def of_source(item: str) -> dict[str, Any]:
    row = [row for row in attribute_tables()["items"].to_pylist() if row["item_id"] == item][-1]
    return {
        **{name: row[name] for name in ("item_id", "category", "weight", "organic", "shape")},
        "genres": row["genres"].split("|"),
        "best_before": (pd.Timestamp(row["best_before"]) - pd.Timestamp(0)) // pd.Timedelta(microseconds=1),
    }


@pytest.mark.parametrize("item", ["i1", "i5", "i10"])
def test_the_online_store_has_the_newest_values_of_every_kind(repo: Repo, item: str) -> None:
    assert online(repo, ITEM, item) == of_source(item)
    assert online(repo, ITEM, "unknown") == {"item_id": "unknown", **dict.fromkeys(ITEM)}


def test_offline_values_are_those_of_the_row_s_time(repo: Repo) -> None:
    moved = START + 20 * DAY + 60_000_000
    rows = pd.DataFrame(
        {
            "user_id": ["u0"] * 2 + ["nobody"],
            "item_id": ["i10"] * 3,
            "event_timestamp": [from_us(moved - 1), from_us(moved), from_us(moved)],
        }
    )
    features = ["user_attributes:country", "item_attributes:genres", "item_attributes:best_before"]
    frame = open_store(repo).get_historical_features(rows, features).to_df().sort_values("event_timestamp")
    countries = [row["country"] for row in attribute_tables()["users"].to_pylist() if row["user_id"] == "u0"]
    assert frame["country"].tolist() == [*countries, None]
    assert [list(genres) for genres in frame["genres"]] == [["old"]] * 3
    assert frame["best_before"].tolist() == [20_010 * DAY] * 3


def test_counts_by_value_have_two_keys_offline_and_online(repo: Repo) -> None:
    store, features = open_store(repo), ["user_category_stats:exposures_all", "user_category_stats:clicks_7d"]
    rows = {"user_id": ["u0", "u0", "nobody"], "category": ["wine", "none", "wine"]}
    frame = store.get_historical_features(pd.DataFrame({**rows, "event_timestamp": from_us(END)}), features).to_df()
    read = store.get_online_features(features, rows).to_dict()
    for name in ("exposures_all", "clicks_7d"):
        assert [None if pd.isna(value) else value for value in frame[name]] == read[name]
    assert read["exposures_all"][0] > 0 and read["exposures_all"][1:] == [None, None]


def test_the_doctor_finds_nothing(repo: Repo) -> None:
    assert examine_repo(repo) == []


def test_an_attribute_removed_and_added_again_replaces_the_online_rows(repo: Repo) -> None:
    fewer = tuple(name for name in ITEM if name != "genres")
    update(repo, FEATURES.replace('genres = "categories"\n', ""))
    expected = of_source("i1")
    assert online(repo, fewer, "i1") == {name: value for name, value in expected.items() if name != "genres"}
    update(repo, FEATURES.replace('weight = "number"', 'weight = "category"'))
    assert online(repo, ("weight", "genres"), "i1") == {
        "item_id": "i1", "weight": str(expected["weight"]), "genres": expected["genres"],
    }  # fmt: skip
    update(repo)
    assert online(repo, ITEM, "i1") == expected


def test_materialize_applies_a_changed_section(repo: Repo) -> None:
    set_features(repo, FEATURES.replace('weight = "number"\n', ""))
    build_tables(repo, END)
    project = sidkit.open(repo.path)
    with pytest.warns(SidkitWarning, match=r"\[features\] changed since the last `sidkit apply`"):
        keys = project.materialize()
    assert keys["item_attributes"] == 60
    assert online(repo, ("genres",), "i1")["genres"] == of_source("i1")["genres"]
    project.materialize()  # without a warning
    update(repo)


def test_without_features_there_are_no_views(repo: Repo) -> None:
    update(repo, "[features]")
    views = {view.name for view in open_store(repo).list_feature_views()}
    assert views == {"item_content", "item_stats", "user_history", "user_stats"}
    update(repo)
    assert {"item_attributes", "user_attributes"} <= {view.name for view in open_store(repo).list_feature_views()}


def test_a_repo_can_be_applied_before_its_tables_are_built(tmp_path: Path) -> None:
    early = attribute_repo(tmp_path / "repo", attribute_source(tmp_path / "source"))
    assert "item_attributes" in apply_repo(early)
