"""Own feature views and on-demand views in the services of rankers: the same values offline, online and by Feast."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from helpers.builders import copy_of
from helpers.own_views import EXTRA, MARKED, add_own_views, name_extra
from ranking.data.export import write_frame
from ranking.data.feature_views import built_in_views, historical_reader
from ranking.serving.context import per_item
from ranking.serving.service_reader import ServiceReader
from semantic_ids import lifecycle
from sidkit.core.errors import ConfigError, ContractError, ServingError, SidkitWarning
from sidkit.core.repo import Repo
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.stores.doctor import unread_features
from sidkit.stores.feast_repo import apply_repo, feature_service, materialize, open_store
from sidkit.stores.repo_doctor import examine_repo
from sidkit.tables import build_tables, ingest, read_build


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo with a codebook and own views, materialized; tests only read it."""
    from helpers.builders import fresh_repo

    folder = tmp_path_factory.mktemp("own")
    write_world(folder / "source", "strong", Sizes(2400, users=20, items=40))
    repo = fresh_repo(folder / "repo", folder / "source")
    ingest(repo)
    end_us = int(
        pa.parquet.read_table(folder / "source/interactions.parquet")["timestamp"].cast("int64").to_numpy().max()
    )
    build_tables(repo, end_us + 120_000_000)
    lifecycle.fit(repo, "one", lifecycle.CodebookSpec(force=True, sizes=(4, 4)), read_build(repo)["as_of_us"])
    add_own_views(repo)
    lifecycle.publish(repo, "one")
    as_of_us = read_build(repo)["as_of_us"]
    materialize(repo, as_of_us)
    return repo


def rows_of(repo: Repo, at_us: int | None = None) -> tuple[dict[str, Any], Any]:
    """Keys, request inputs and times of some rows, a user and a cell that nobody knows among them."""
    stats = pa.parquet.read_table(repo.tables / "user_stats.parquet")
    users = [*stats["user_id"].unique().to_pylist(), "nobody"]
    items = [*pa.parquet.read_table(repo.tables / "item_content.parquet")["item_id"].unique().to_pylist(), "nothing"]
    count = 40
    times = stats["event_timestamp"].cast("int64").to_numpy()
    keys = {
        "user_id": np.array([users[n % len(users)] for n in range(count)], dtype=object),
        "item_id": np.array([items[n % len(items)] for n in range(count)], dtype=object),
        "cell_id": np.array([(1, 2, 3, 2**60)[n % 4] for n in range(count)]),
        "budget": np.linspace(0, 9, count),
        "device": pa.array(["phone", "tv"] * (count // 2)),
        "beside": np.zeros(count),
    }
    at = np.full(count, at_us) if at_us is not None else np.random.default_rng(0).choice(times, count)
    return keys, at.astype(np.int64)


def plain(views: Any) -> dict[str, list[Any]]:
    return {name: view.plain().to_pylist() for name, view in views.items()}


def test_services_have_the_named_features_by_the_keys_that_they_need(repo: Repo) -> None:
    store = open_store(repo)

    def features(part: str) -> set[str]:
        service = feature_service(store, f"ctr_one{part}")
        return {
            f"{projection.name_to_use()}:{feature.name}"
            for projection in service.feature_view_projections
            for feature in projection.features
        }

    own = {part: features(part) & set(EXTRA) for part in ("", "_user", "_item", "_content", "_context")}
    assert own[""] == set(EXTRA)
    assert own["_user"] == {
        "trips:trips_today", "click_gap:hours", "python_mode:doubled", "user_recency:hours_since_last_click",
    }  # fmt: skip

    assert own["_item"] == own["_content"] == set()
    assert own["_context"] == {"cells:load", "cells:zone", "odds:budget_per_click", "odds:is_phone"}
    assert {name for name in features("") if name.startswith("item_sid:")} == {
        "item_sid:codes",
        "item_sid:residual_norm",
    }


def test_the_as_of_join_and_feast_give_the_same_own_views(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(repo)
    service = feature_service(store, "ctr_one")
    keys, at_us = rows_of(repo)
    ours = historical_reader(store, service)(keys, at_us)
    assert list(ours) == [projection.name_to_use() for projection in service.feature_view_projections]
    hours = [row["click_gap__hours"] for row in ours["click_gap"].plain().to_pylist()]
    assert any(value is not None and value > 0 for value in hours) and None in hours
    assert len({row["odds__budget_per_click"] for row in ours["odds"].plain().to_pylist()}) > 10
    monkeypatch.setattr("sidkit.stores.offline.retrieve.streams_from", lambda _: False)
    theirs = historical_reader(store, service)(keys, at_us)
    assert plain(ours) == plain(theirs)


def test_chunks_of_rows_change_nothing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(repo)
    read = historical_reader(store, feature_service(store, "ctr_one"))
    keys, at_us = rows_of(repo)
    whole = plain(read(keys, at_us))
    monkeypatch.setattr("sidkit.stores.on_demand.CHUNK_ROWS", 7)
    assert plain(read(keys, at_us)) == whole
    none = read({name: values[:0] for name, values in keys.items()}, at_us[:0])
    assert {name: len(view.plain()) for name, view in none.items()} == dict.fromkeys(whole, 0)


def test_online_own_views_equal_the_offline_ones_at_materialization(repo: Repo) -> None:
    store = open_store(repo)
    as_of_us = read_build(repo)["as_of_us"]
    keys, at_us = rows_of(repo, as_of_us)
    offline = plain(historical_reader(store, feature_service(store, "ctr_one"))(keys, at_us))
    reader = ServiceReader(store, feature_service(store, "ctr_one"))
    assert reader.packed is not None
    given = {name: values.tolist() for name, values in keys.items()}
    online = reader.read(given, as_of_us)
    assert plain(online) == offline
    assert {view.name for view in reader.stored(online)} == online.keys() - {
        "user_recency",
        "click_gap",
        "odds",
        "python_mode",
    }
    reader.packed = None  # as with any other online store
    by_feast = plain(reader.read(given, as_of_us))
    del by_feast["item_stats"], offline["item_stats"]  # Feast reads integers beside nulls otherwise
    assert by_feast == offline
    texts = {
        **given,
        "cell_id": [str(cell) for cell in given["cell_id"]],
        "budget": [str(each) for each in given["budget"]],
    }
    read = ServiceReader(store, feature_service(store, "ctr_one_context")).read(texts, as_of_us)
    assert plain(read)["cells"] == offline["cells"] and plain(read)["odds"] == offline["odds"]


def test_a_missing_or_wrong_input_is_named(repo: Repo) -> None:
    store = open_store(repo)
    keys, at_us = rows_of(repo)
    read = historical_reader(store, feature_service(store, "ctr_one"))
    online = ServiceReader(store, feature_service(store, "ctr_one_context"))
    for name in ("cell_id", "budget", "device"):
        less = {other: values for other, values in keys.items() if other != name}
        with pytest.raises(ServingError, match=name):
            read(less, at_us)
        with pytest.raises(ServingError, match=name):
            online.read({other: values.tolist() for other, values in less.items()})
    with pytest.raises(ServingError, match="budget as double"):
        online.read({**{name: values.tolist() for name, values in keys.items()}, "budget": ["much"] * 40})
    with pytest.raises(ServingError, match="cell_id as int64"):
        online.read({**{name: values.tolist() for name, values in keys.items()}, "cell_id": ["north"] * 40})
    assert per_item({"a": 1, "b": [1, 2]}, 2) == {"a": [1, 1], "b": [1, 2]}
    with pytest.raises(ServingError, match="list of 3, one per item, got 2"):
        per_item({"b": [1, 2]}, 3)
    assert set(built_in_views(store, "ctr_one", keys, at_us)) >= {"item_content", "user_stats", "trips"}


@pytest.fixture
def own_copy(repo: Repo, tmp_path: Path) -> Repo:
    return copy_of(repo, tmp_path / "copy")


def test_the_definitions_say_which_line_is_missing_or_wrong(own_copy: Repo) -> None:
    services = own_copy.path / "services.py"
    services.write_text(services.read_text().replace("import trips, cells_view,", "import cells_view,"))
    with pytest.raises(ConfigError, match="from MODULE import trips") as raised:
        apply_repo(own_copy)
    line = str(raised.value).split("`")[1].replace("MODULE", "my_views")
    services.write_text(services.read_text().replace(MARKED, f"{line}\n{MARKED}"))
    apply_repo(own_copy)
    for extra, said in (("trips:trips", "trips_today"), ("item_stats:clicks_1d", "every service contains; remove it")):
        name_extra(own_copy.path, (*EXTRA, extra))
        with pytest.raises(ConfigError, match=said):
            apply_repo(own_copy)
    name_extra(own_copy.path, EXTRA)
    apply_repo(own_copy)


def test_a_function_that_fails_is_named_with_the_columns_that_it_gets(own_copy: Repo) -> None:
    views = own_copy.path / "my_views.py"
    views.write_text(views.read_text().replace('inputs["budget"] /', 'inputs["budgets"] /'))
    shutil.rmtree(own_copy.path / "__pycache__", ignore_errors=True)
    with pytest.raises(Exception, match="budgets"):
        apply_repo(own_copy)


def test_findings_in_own_views_are_warnings_that_a_tag_silences(own_copy: Repo) -> None:
    views = own_copy.path / "my_views.py"
    whole = views.read_text()
    assert whole.count('created_timestamp_column="created_timestamp",') == 1
    views.write_text(whole.replace('created_timestamp_column="created_timestamp",', ""))
    with pytest.warns(SidkitWarning, match="no-created-column") as warned:
        apply_repo(own_copy)
    assert {str(each.message).split(",")[0] for each in warned} == {
        "warning: feature view trips",
        "warning: feature view cells",
    }
    [remedy] = {str(each.message).rsplit("Or set ", 1)[1].split(" on the view")[0] for each in warned}
    found = examine_repo(own_copy)
    assert {problem.code for problem in found} == {"no-created-column"} and all(problem.warning for problem in found)
    tagged = views.read_text().replace("entities=[user],", f"entities=[user], {remedy},")
    views.write_text(tagged.replace("entities=[cell],", f"entities=[cell], {remedy},"))
    apply_repo(own_copy)
    assert examine_repo(own_copy) == []


def test_features_that_no_ranker_reads_are_a_warning() -> None:
    assert unread_features("ctr_one", ["a__x", "b__y"], ["b__y", "a__x", "c__z"]) == []
    [problem] = unread_features("ctr_one", ["a__x", "b__y"], ["b__y"])
    assert problem.warning and "no ranker reads a__x" in str(problem)


@pytest.mark.own_store("offline", "retrieve is its own")
def test_a_frame_gets_the_row_time_by_itself_and_names_columns_that_own_views_need(repo: Repo, tmp_path: Path) -> None:
    keys, at_us = rows_of(repo)
    moments = pa.array(at_us).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    rows = pa.table({**{name: pa.array(values) for name, values in keys.items()}, "event_timestamp": moments})
    pa.parquet.write_table(rows, tmp_path / "rows.parquet")
    write_frame(repo, tmp_path / "rows.parquet", tmp_path / "frame.parquet", "ctr_one")
    frame = pa.parquet.read_table(tmp_path / "frame.parquet")
    assert frame.select(rows.column_names).equals(rows) and "at_us" not in frame.column_names
    store = open_store(repo)
    views = historical_reader(store, feature_service(store, "ctr_one"))(keys, at_us)
    for name in ("click_gap__hours", "odds__budget_per_click", "cells__load", "trips__trips_today"):
        assert frame[name].to_pylist() == views[name.split("__")[0]].plain()[name].to_pylist(), name
    pa.parquet.write_table(rows.drop_columns(["device", "cell_id"]), tmp_path / "rows.parquet")
    with pytest.raises(ContractError, match="cell_id, device"):
        write_frame(repo, tmp_path / "rows.parquet", tmp_path / "frame.parquet", "ctr_one")
