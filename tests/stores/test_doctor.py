"""What Feast would silently get wrong is found before it is applied: each kind is planted once in a sound repo."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helpers.pit_oracle import ASOF, BASE_US, STOCK, cells, entity_frame, feast_store, times
from sidkit.cli import build_app
from sidkit.core.errors import DefinitionsError
from sidkit.core.repo import Repo, init_repo
from sidkit.stores.doctor import Problem, examine
from sidkit.stores.feast_repo import apply_repo

WIDE = 2**53 + 1
SOUND = {
    "user_id": pa.array(["u", "v"]),
    "event_timestamp": times([BASE_US, BASE_US + 1]),
    "created_timestamp": times([BASE_US, BASE_US + 1]),
    "clicks": pa.array([1, None], pa.int64()),
    "hash": pa.array([WIDE, 1], pa.int64()),
    "vector": pa.array([[0.5], None], pa.list_(pa.float32())),
    "price": pa.array([1.5, 2], pa.float32()),
}


def view_on(folder: Path, columns: dict[str, Any] | None = None, **changed: Any) -> tuple[list[Any], Any]:
    """An entity and a sound view, but for what was changed."""
    feast_store(folder, STOCK)
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Float32, Int64

    path = folder / "data" / "table.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({**SOUND, **(columns or {})}), path)
    dtypes = {"clicks": Int64, "hash": Int64, "vector": Array(Float32), "price": Float32, **changed.pop("dtypes", {})}
    source = {
        "name": "table_source",
        "path": str(path),
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }
    view = {"ttl": timedelta(0), **changed.pop("view", {})}
    user = Entity(name="user", join_keys=["user_id"], value_type=changed.pop("key", ValueType.STRING))
    return [user], FeatureView(
        name="planted",
        entities=[user],
        schema=[Field(name=name, dtype=dtype) for name, dtype in dtypes.items()],
        source=FileSource(**{**source, **changed}),
        **view,
    )


def found_in(entities: list[Any], view: Any, offline: str, folder: Path) -> list[Problem]:
    return examine([view], entities, offline, folder)


def codes(problems: list[Problem]) -> list[str]:
    assert all(problem.remedy.endswith(".") and problem.where and problem.problem for problem in problems)
    return [problem.code for problem in problems]


def test_a_sound_view_has_no_problem(tmp_path: Path) -> None:
    for offline in (ASOF, STOCK):
        assert found_in(*view_on(tmp_path), offline, tmp_path) == []


@pytest.mark.parametrize(
    ("offline", "wrong"),
    [("dask", True), ("file", True), ("ray", True), ("feast.infra.offline_stores.dask.DaskOfflineStore", True),
     (STOCK, False), (ASOF, False)],
)  # fmt: skip
def test_offline_stores_that_answer_wrongly_are_refused(tmp_path: Path, offline: str, wrong: bool) -> None:
    found = found_in(*view_on(tmp_path), offline, tmp_path)
    assert codes(found) == (["offline-store"] if wrong else [])
    assert not wrong or "AsofDuckDBOfflineStore" in found[0].remedy


def test_a_file_source_and_the_faults_of_feasts_spark_store_are_refused(tmp_path: Path) -> None:
    plain = found_in(*view_on(tmp_path), "spark", tmp_path)
    assert codes(plain) == ["offline-store", "not-a-spark-source"]
    assert plain[0].remedy == "Use sidkit.stores.spark_offline.ArrowSparkOfflineStore."
    ours = found_in(*view_on(tmp_path), "sidkit.stores.spark_offline.ArrowSparkOfflineStore", tmp_path)
    assert codes(ours) == ["not-a-spark-source"] and "sidkit upgrade --definitions" in ours[0].remedy


NANO = pa.array([BASE_US * 1000, BASE_US * 1000 + 1]).cast(pa.timestamp("ns", "UTC"))


def planted(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(columns of the file, what the definitions say) of one fault."""
    from feast import ValueType
    from feast.types import Array, Float32, Int64, String

    faults: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "relative-path": ({}, {"path": "data/table.parquet"}),
        "nanosecond-times": ({"event_timestamp": NANO}, {}),
        "nanosecond-times of creation": ({"created_timestamp": NANO}, {}),
        "no-time": ({"event_timestamp": pa.array([BASE_US, BASE_US + 1])}, {}),
        "no-created-column": ({}, {"created_timestamp_column": ""}),
        "missing-column": ({}, {"dtypes": {"absent": Int64}}),
        "missing-column of creation": ({}, {"created_timestamp_column": "made_at"}),
        "missing-column renamed": ({}, {"field_mapping": {"raw": "clicks"}}),
        "reserved-name": ({"event_expire_timestamp": SOUND["clicks"]}, {"dtypes": {"event_expire_timestamp": Int64}}),
        "reserved-name of ours": ({"__row": SOUND["clicks"]}, {"dtypes": {"__row": Int64}}),
        "declared-type integer": ({"clicks": pa.array([1.5, 2])}, {}),
        "declared-type narrow": ({"price": pa.array([1.5, 2])}, {}),
        "declared-type text": ({}, {"dtypes": {"clicks": String}}),
        "declared-type list": ({}, {"dtypes": {"price": Array(Float32)}}),
        "declared-type in a list": ({"vector": pa.array([[0.5], None])}, {}),
        "declared-type key": ({}, {"key": ValueType.INT64}),
        "nullable-64-bit": ({"hash": pa.array([None, WIDE], pa.int64())}, {}),
        "nullable-64-bit negative": ({"hash": pa.array([-WIDE, None], pa.int64())}, {}),
    }
    return faults[name]


@pytest.mark.parametrize(
    "name",
    ["relative-path", "nanosecond-times", "nanosecond-times of creation", "no-time", "no-created-column",
     "missing-column", "missing-column of creation", "missing-column renamed", "reserved-name", "reserved-name of ours",
     "declared-type integer", "declared-type narrow", "declared-type text", "declared-type list",
     "declared-type in a list", "declared-type key", "nullable-64-bit", "nullable-64-bit negative"],
)  # fmt: skip
def test_a_planted_fault_is_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    view_on(tmp_path)
    columns, changed = planted(name)
    assert codes(found_in(*view_on(tmp_path, columns, **changed), ASOF, tmp_path)) == [name.split(maxsplit=1)[0]]


@pytest.mark.parametrize(
    ("columns", "changed"),
    [
        ({"clicks": pa.array([1, 2], pa.int8())}, {}),
        ({"vector": pa.array([[0.5], [1]], pa.list_(pa.float32(), 1))}, {}),
        ({"user_id": pa.array(["u", "v"]).dictionary_encode()}, {}),
        ({"hash": pa.array([None, 2**53], pa.int64())}, {}),
        ({"raw": SOUND["clicks"]}, {"field_mapping": {"raw": "clicks"}}),
    ],
)
def test_what_only_looks_odd_is_let_through(tmp_path: Path, columns: Any, changed: Any) -> None:
    assert found_in(*view_on(tmp_path, columns, **changed), ASOF, tmp_path) == []


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")
@pytest.mark.parametrize("what", ["ends-in-y", "mixed-ttl"])
def test_what_only_the_stock_store_gets_wrong_is_refused_there_only(tmp_path: Path, what: str) -> None:
    view_on(tmp_path)
    from feast.types import Int64

    changed: dict[str, Any] = (
        {"dtypes": {"clicks_y": Int64}} if what == "ends-in-y" else {"view": {"ttl": timedelta(hours=27)}}
    )
    entities, view = view_on(tmp_path, {"clicks_y": SOUND["clicks"]}, **changed)
    assert examine([view], entities, ASOF, tmp_path) == []
    assert codes(examine([view], entities, STOCK, tmp_path)) == [what]
    feature = "clicks_y" if what == "ends-in-y" else "clicks"
    frame = entity_frame({"user_id": ["u"]}, [BASE_US + 5])
    feast_store(tmp_path, ASOF).apply([*entities, view])
    ours = feast_store(tmp_path, ASOF).get_historical_features(frame, [f"planted:{feature}"]).to_arrow()
    assert cells(ours)[feature] == [1]
    with pytest.raises(Exception, match=r"mixed units|label_y|clicks_y"):
        feast_store(tmp_path, STOCK).get_historical_features(frame, [f"planted:{feature}"]).to_arrow()


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    entities, view = view_on(
        tmp_path, {"event_timestamp": NANO, "clicks": pa.array([1.5, 2])}, path="data/table.parquet",
        created_timestamp_column="",
    )  # fmt: skip
    assert sorted(codes(examine([view], entities, "dask", tmp_path))) == [
        "declared-type", "nanosecond-times", "no-created-column", "offline-store", "relative-path",
    ]  # fmt: skip


def test_the_command_and_every_apply_name_all_problems_and_apply_nothing(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    run: Callable[..., Any] = lambda *told: CliRunner().invoke(build_app(), ["doctor", "--repo", str(repo.path), *told])  # noqa: E731
    sound = run()
    assert sound.exit_code == 0 and "no problems" in sound.stdout
    assert json.loads(run("--json").stdout)["problems"] == []
    path = repo.path / "sources.py"
    text = path.read_text()
    path.write_text(
        text.replace(
            'str(DATA / "sources" / name if BY_DAY else DATA / "tables" / f"{name}.parquet")',
            'f"data/tables/{name}.parquet"',
        ).replace('created_timestamp_column="created_timestamp",', "")
    )
    told = run("--json")
    assert told.exit_code == 1
    problems = json.loads(told.stdout)["problems"]
    assert {problem["code"] for problem in problems} == {"relative-path", "no-created-column"}
    assert len(problems) == 8
    assert run().stdout.count("[relative-path]") == 4
    with pytest.raises(DefinitionsError, match="was not applied") as caught:
        apply_repo(repo)
    assert len(caught.value.problems) == 8
    assert not (repo.path / "data" / "registry.sqlite").exists()
    path.write_text(text)
    assert "item_stats" in apply_repo(Repo.open(repo.path))
