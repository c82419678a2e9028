"""Feast's Spark store as sidkit uses it: the oracle's answers, exact keys and types, and a repository on it."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.attribute_world import attribute_repo, attribute_tables
from helpers.builders import copy_of, write_tables
from helpers.commands import time_zone
from helpers.pit_oracle import (
    FEATURES,
    VIEWS,
    Ground,
    asked_rows,
    cells,
    entity_frame,
    feast_store,
    in_order,
    plain,
    write,
)  # fmt: skip
from helpers.spark_builders import CONF, needs_spark, on_spark
from sidkit.core.errors import ConfigError, DefinitionsError
from sidkit.core.repo import init_repo
from sidkit.profiles.switch import switch_profile
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.tables import build_tables, ingest, read_build, read_log

pytestmark = [
    needs_spark,
    pytest.mark.filterwarnings("ignore:The spark data source API is an experimental feature:RuntimeWarning"),
]
TYPE = "sidkit.stores.spark_offline.ArrowSparkOfflineStore"
ASKED = ("user_ever", "user_30d", "item_uncreated", "pair_ever")
"""Views of the oracle whose TTL is whole seconds."""


def spark_source(name: str, path: str, created: bool = True) -> Any:
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    return SparkSource(
        name=name, path=path, file_format="parquet", timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp" if created else "",
    )  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    made = Ground(tmp_path_factory.mktemp("oracle"))
    for name in ASKED:
        view = made.views[name]
        view.batch_source = spark_source(f"{name}_source", str(made.folder / f"{name}.parquet"), VIEWS[name][2])
    made.folder.joinpath("spark").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        store = feast_store(made.folder / "spark", TYPE, spark_conf=CONF)
        store.apply([*made.entities.values(), *(made.views[name] for name in ASKED)])
    made.stock = store
    return made


@pytest.mark.parametrize("by_created", [False, True])
def test_no_cell_differs_from_the_oracle(ground: Ground, by_created: bool) -> None:
    frame = asked_rows(np.random.default_rng(1), 60)
    refs = [f"{name}:{name}_{feature}" for name in ASKED for feature in FEATURES]
    job = ground.stock.get_historical_features(frame.copy(), features=refs, filter_by_created_timestamp=by_created)
    answer = in_order(job.to_arrow())
    assert len(answer) == len(frame)
    assert answer.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    assert cells(answer, ["event_timestamp"])["event_timestamp"] == [plain(at) for at in frame.event_timestamp]
    for name in ASKED:
        assert answer.schema.field(f"{name}_number").type == pa.int64()  # beside nulls
        assert cells(answer, [f"{name}_{feature}" for feature in FEATURES]) == ground.oracle(frame, name, by_created)
    # As frames read it: an index per row into the distinct feature rows.
    for view in job.views(pa.Table.from_pandas(frame, preserve_index=False)):
        columns = [f"{view.name}_{feature}" for feature in FEATURES]
        assert cells(view.plain(), columns) == ground.oracle(frame, view.name, by_created)
        assert len(view.table) == len(set(view.index[view.index >= 0].tolist()))


def test_a_frame_without_rows_gives_a_result_without_rows(ground: Ground) -> None:
    answer = ground.stock.get_historical_features(
        asked_rows(np.random.default_rng(1), 30).iloc[:0].copy(), features=["user_ever:user_ever_number"]
    ).to_arrow()
    assert len(answer) == 0 and answer.schema.field("user_ever_number").type == pa.int64()


@pytest.fixture
def pairs(tmp_path: Path) -> Any:
    """A store with one view of two keys that are equal when they are written one after the other."""
    from feast import Entity, FeatureView, Field, ValueType
    from feast.types import Int64

    moments = entity_frame({}, [1_577_836_800_000_000] * 2).event_timestamp
    table = pa.table(
        {
            "user_id": ["1", "11"], "item_id": ["11", "1"], "event_timestamp": pa.array(moments),
            "created_timestamp": pa.array(moments), "value": [2**60 + 1, None],
        }
    )  # fmt: skip
    user, item = (Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING) for name in ("user", "item"))

    def store(**changed: Any) -> Any:
        made = feast_store(tmp_path, TYPE, spark_conf=CONF)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            stated = {"source": spark_source("pairs_source", write(tmp_path / "pairs.parquet", table)), **changed}
            made.apply(
                [
                    user,
                    item,
                    FeatureView(
                        name="pairs", entities=[user, item], schema=[Field(name="value", dtype=Int64)], **stated
                    ),
                ]
            )
        return made

    return store


def test_keys_are_not_confused_and_integers_beside_nulls_are_exact(pairs: Any) -> None:
    frame = entity_frame({"user_id": ["11", "1", "1"], "item_id": ["1", "11", "1"]}, [1_577_836_800_000_000] * 3)
    with time_zone("Asia/Tokyo"):
        answer = pairs().get_historical_features(frame.assign(row=[0, 1, 2]), features=["pairs:value"]).to_arrow()
    assert cells(in_order(answer), ["event_timestamp"]) == cells(frame, ["event_timestamp"])
    assert in_order(answer).column("value").to_pylist() == [None, 2**60 + 1, None]


def test_an_interval_without_rows_materializes_nothing(pairs: Any) -> None:
    store, key = pairs(), [{"user_id": "1", "item_id": "11"}]
    # 2**60, not 2**60 + 1: Feast's local engine rounds integers beside nulls; sidkit's does not.
    for last, expected in ((2019, None), (2021, 2**60)):
        store.materialize(datetime(2018, 1, 1, tzinfo=UTC), datetime(last, 1, 1, tzinfo=UTC))
        assert store.get_online_features(["pairs:value"], key).to_dict()["value"] == [expected]


def test_what_spark_would_read_otherwise_is_refused(pairs: Any, tmp_path: Path) -> None:
    from feast import FileSource

    frame = entity_frame({"user_id": ["1"], "item_id": ["1"]}, [1_577_836_800_000_000])
    with pytest.raises(ConfigError, match=r"feature view pairs: expected a TTL of whole seconds, .*got 0:00:00.000007"):
        pairs(ttl=timedelta(microseconds=7)).get_historical_features(frame, features=["pairs:value"])
    source = FileSource(
        name="pairs_source", path=str(tmp_path / "pairs.parquet"), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"expected a SparkSource, got FileSource pairs_source; run `sidkit upgrade"):
        pairs(source=source).get_historical_features(frame, features=["pairs:value"])


REFS = ["item_attributes:genres", "item_stats:clicks_7d", "user_history:item_ids"]


def test_a_repository_has_the_same_frames_and_online_features_on_spark(tmp_path: Path) -> None:
    write_tables(tmp_path / "source", attribute_tables(300))
    local = attribute_repo(tmp_path / "local", tmp_path / "source")
    ingest(local)
    build_tables(local, read_log(local).last_us + 60_000_000)
    repos = (local, on_spark(copy_of(local, tmp_path / "spark")))
    rng = np.random.default_rng(0)
    log = read_log(local)
    frame = entity_frame(
        {name: [f"{name[0]}{n}" for n in rng.integers(0, 62, 30)] for name in ("user_id", "item_id")},
        [int(at) for at in rng.integers(log.first_us, log.last_us, 30)],
    ).assign(row=range(30))
    answers, online = [], []
    for repo in repos:
        apply_repo(repo)
        store = open_store(repo)
        job = store.get_historical_features(frame.copy(), features=REFS, full_feature_names=True)
        answers.append(cells(in_order(job.to_arrow()), [ref.replace(":", "__") for ref in REFS]))
        keys = materialize(repo, read_build(repo)["as_of_us"], [ref.split(":")[0] for ref in REFS])
        assert min(keys.values()) > 0
        rows = frame[["user_id", "item_id"]].to_dict("records")
        online.append((keys, store.get_online_features(REFS, rows, full_feature_names=True).to_dict()))
        # A second time over the same interval, as a rotation does: nothing to write is no error.
        assert materialize(repo, read_build(repo)["as_of_us"], ["item_stats"])
    assert answers[0] == answers[1]
    assert any(value is not None for column in answers[0].values() for value in column)
    assert online[0] == online[1]


def test_an_apply_after_a_switch_replaces_the_registered_sources(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    for profile, kind in (("local", "FileSource"), ("spark", "SparkSource"), ("local", "FileSource")):
        switch_profile(repo, profile)
        apply_repo(repo)
        sources = [source for source in open_store(repo).list_data_sources() if source.name.endswith("_source")]
        assert {type(source).__name__ for source in sources} == {kind} and len(sources) == 4


def test_definitions_of_an_earlier_release_are_refused_by_apply(tmp_path: Path) -> None:
    write_tables(tmp_path / "source", attribute_tables(30))
    repo = on_spark(attribute_repo(tmp_path / "repo", tmp_path / "source"))
    path = repo.path / "sources.py"
    path.write_text(path.read_text().replace('definitions.tables == "spark"', "False"))
    with pytest.raises(
        DefinitionsError, match=r"Feast's Spark store reads no FileSource.*sidkit upgrade --definitions"
    ):
        apply_repo(repo)


def test_pandas_results_have_times_in_utc(pairs: Any) -> None:
    frame = entity_frame({"user_id": ["1"], "item_id": ["11"]}, [1_577_836_800_000_001])
    answer = pairs().get_historical_features(frame.copy(), features=["pairs:value"]).to_df()
    assert answer.event_timestamp.tolist() == [pd.Timestamp("2020-01-01T00:00:00.000001Z")]
    assert answer.value.tolist() == [2**60 + 1]
