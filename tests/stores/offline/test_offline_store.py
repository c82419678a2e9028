"""The as-of store by itself, through Feast: what it keeps of the entity dataframe, what it refuses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.builders import forked_script
from helpers.pit_oracle import (
    BASE_US,
    DAY_US,
    USERS,
    FeatureRow,
    Ground,
    Table,
    cells,
    entity_frame,
    plain,
    some,
    some_times,
    write,
)  # fmt: skip
from helpers.places import ROOT
from sidkit.core.errors import ArtifactMissingError, ConfigError, ContractError


class Asking:
    """A service of two views on random tables, one of them under another name, and what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.ground = Ground(folder)
        from feast import FeatureService

        views = self.ground.views
        self.service = FeatureService(name="both", features=[views["user_ever"].with_name("other"), views["user_30d"]])
        self.store = self.ground.ours
        self.store.apply([self.service])
        rng = self.ground.draw(1)
        self.frame = entity_frame({"user_id": some(rng, [*USERS, "x"], 200, 0.05)}, some_times(rng, 200))

    def job(self, frame: pd.DataFrame | None = None) -> Any:
        asked = self.frame if frame is None else frame
        return self.store.get_historical_features(asked, features=self.service, full_feature_names=True)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Asking:
    return Asking(tmp_path_factory.mktemp("asof"))


def test_views_of_a_job_spread_to_its_plain_table(asking: Asking) -> None:
    job = asking.job()
    table = job.to_arrow()
    views = job.views()
    assert [view.name for view in views] == ["other", "user_30d"]
    assert {name for view in views for name in view.table.column_names} == set(table.column_names[2:])
    for view in views:
        assert len(view.table) < len(table) == len(view.index)
        for name, column in zip(view.table.column_names, view.plain().columns, strict=True):
            assert column.combine_chunks() == table[name].combine_chunks()
            assert view.table[name].to_pylist() != table[name].to_pylist()


def test_a_feature_row_that_many_rows_see_is_kept_once(asking: Asking) -> None:
    at = BASE_US + 61 * DAY_US
    frame = entity_frame({"user_id": ["u0", "u1"] * 500}, [at] * 1000)
    for view in asking.job(frame).views():
        assert len(view.table) == 2
        assert (view.index == np.tile(view.index[:2], 500)).all()


def test_to_df_and_to_arrow_agree(asking: Asking) -> None:
    job = asking.job()
    assert cells(job.to_df()) == cells(job.to_arrow())


def test_extra_columns_of_any_type_come_back_as_they_were(asking: Asking) -> None:
    count = len(asking.frame)
    extra = {
        "label": np.arange(count) % 2,
        "weight": np.linspace(0, 1, count, dtype="float32"),
        "maybe": pd.array([None if row % 3 else row for row in range(count)], dtype="Int64"),
        "kind": pd.Categorical(["a" if row % 2 else "b" for row in range(count)]),
        "flag": pd.array([None, True] * (count // 2), dtype="boolean"),
        "tags": [[str(row)] * (row % 3) for row in range(count)],
        "details": [{"row": row} for row in range(count)],
        "shown_at": asking.frame["event_timestamp"] + pd.Timedelta(days=1),
        "took": pd.to_timedelta(np.arange(count), unit="s"),
        "__row": np.arange(count)[::-1],
        "__at_us": 7,
        "user_ever__user_ever_number": "not the feature",
    }
    frame = asking.frame.assign(**extra)
    table = asking.job(frame).to_arrow()
    assert table.column_names[: len(frame.columns)] == list(frame.columns)
    given_columns = pa.Table.from_pandas(frame, preserve_index=False).select(list(extra))
    for name in extra:
        assert table[name].to_pylist() == given_columns[name].to_pylist(), name
    features = [name for name in table.column_names if name not in frame.columns]
    assert table.select(features) == asking.job().to_arrow().select(features)


def test_the_index_of_the_entity_dataframe_is_irrelevant_and_the_frame_is_left_alone(asking: Asking) -> None:
    frame = asking.frame.set_axis(np.random.default_rng(1).integers(0, 5, len(asking.frame)))
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert("Asia/Tokyo")
    before = frame.copy(deep=True)
    found = asking.job(frame).to_df()
    pd.testing.assert_frame_equal(frame, before)
    assert list(found.index) == list(range(len(frame)))
    assert cells(found) == cells(asking.job().to_df())


def test_an_entity_dataframe_without_rows_gives_typed_empty_columns(asking: Asking) -> None:
    job = asking.job(asking.frame.iloc[:0])
    assert job.to_arrow().schema.types[1:] == asking.job().to_arrow().schema.types[1:]
    assert len(job.to_df()) == 0
    assert [len(view.index) for view in job.views()] == [0, 0]


@pytest.mark.parametrize("kind", ["string", "category", "string[pyarrow]", "object"])
def test_keys_of_any_text_type_are_the_same_keys(asking: Asking, kind: str) -> None:
    frame = asking.frame.assign(user_id=asking.frame["user_id"].astype(kind))
    features = [name for name in asking.job().to_arrow().column_names if "__" in name]
    assert asking.job(frame).to_arrow().select(features) == asking.job().to_arrow().select(features)


def test_keys_that_are_all_null_see_nothing(asking: Asking) -> None:
    frame = asking.frame.assign(user_id=pd.Series([None] * len(asking.frame), dtype=object))
    found = asking.job(frame).to_arrow()
    assert len(found) == len(frame)
    assert found["user_30d__user_30d_number"].null_count == len(frame)


def test_texts_may_mix_forms_and_zones(asking: Asking) -> None:
    texts = ["2019-12-31", "2020-01-01T00:00:00.000060Z", "2020-02-01 09:00:00+09:00", "2020-04-01 00:00"]
    micros = [BASE_US - DAY_US, BASE_US + 60, BASE_US + 31 * DAY_US, BASE_US + 91 * DAY_US]
    found = asking.job(pd.DataFrame({"user_id": ["u0"] * 4, "event_timestamp": texts})).to_arrow()
    expected = asking.ground.tables["user_ever"].answers([(("u0",), at) for at in micros])["user_ever_text"]
    assert cells(found)["other__user_ever_text"] == expected
    assert len(set(expected)) > 2


def test_whole_numbers_are_no_times(asking: Asking) -> None:
    frame = asking.frame.assign(event_timestamp=BASE_US // 1_000_000 + 100)
    with pytest.raises(ContractError, match="event_timestamp"):
        asking.job(frame).to_arrow()


def test_what_cannot_be_joined_is_refused_with_what_came_and_what_is_needed(asking: Asking) -> None:
    with pytest.raises(ContractError, match=r"entity_df: expected a pandas DataFrame .*got str"):
        asking.store.get_historical_features("SELECT 1", features=asking.service)
    with pytest.raises(ContractError, match=r"expected the join keys user_id, got event_timestamp"):
        asking.job(asking.frame.drop(columns="user_id"))
    with pytest.raises(ConfigError, match="got other__user_ever_text twice"):
        asking.job(asking.frame.assign(other__user_ever_text=1))


def test_a_source_that_is_not_there_is_named_with_its_remedy(asking: Asking, tmp_path: Path) -> None:
    from feast import FeatureView, Field, FileSource
    from feast.types import Int64

    source = FileSource(name="gone_source", path=str(tmp_path / "gone.parquet"), timestamp_field="event_timestamp")
    user = asking.ground.entities["user_id"]
    view = FeatureView(name="gone", entities=[user], schema=[Field(name="x", dtype=Int64)], source=source)
    asking.store.apply([view])
    with pytest.raises(ArtifactMissingError, match=r"gone\.parquet.*gone_source.*sidkit tables build"):
        asking.store.get_historical_features(asking.frame, ["gone:x"]).to_arrow()


def test_columns_that_differ_in_case_only_are_refused(asking: Asking) -> None:
    from feast import FeatureView, Field, FileSource
    from feast.types import Int64

    rows = [FeatureRow(("u0",), BASE_US, BASE_US, (1, 2))]
    table = Table(("user_id",), (("text", pa.int64()), ("Text", pa.int64())), rows)
    path = write(asking.ground.folder / "cases.parquet", table.arrow())
    source = FileSource(name="cases_source", path=path, timestamp_field="event_timestamp")
    schema = [Field(name="text", dtype=Int64), Field(name="Text", dtype=Int64)]
    user = asking.ground.entities["user_id"]
    asking.store.apply([FeatureView(name="cases", entities=[user], schema=schema, source=source)])
    frame = entity_frame({"user_id": ["u0"]}, [BASE_US])
    with pytest.raises(ConfigError, match="differ in more than case, got text, Text"):
        asking.store.get_historical_features(frame, ["cases:text", "cases:Text"]).to_arrow()


def test_jobs_may_run_in_several_threads(asking: Asking) -> None:
    expected = asking.job().to_arrow()
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: asking.job().to_arrow(), range(8)))


@pytest.mark.filterwarnings("ignore:Saving dataset is an experimental feature:RuntimeWarning:feast")
def test_a_result_can_be_kept_as_a_saved_dataset(asking: Asking, tmp_path: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    saved = asking.store.create_saved_dataset(
        from_=asking.job(), name="kept", storage=storage, feature_service=asking.service
    )
    table = asking.job().to_arrow()
    kept = cells(saved.to_arrow(), sorted(table.column_names))
    assert sorted(map(repr, zip(*kept.values(), strict=True))) == sorted(
        map(repr, zip(*cells(table, sorted(table.column_names)).values(), strict=True))
    )


def test_what_a_job_tells_of_itself_covers_its_rows(asking: Asking) -> None:
    told = asking.job().metadata
    at = [plain(value) for value in asking.frame["event_timestamp"]]
    assert told.keys == ["user_id"]
    assert (plain(told.min_event_timestamp), plain(told.max_event_timestamp)) == (min(at), max(at))


TOKYO, LOS_ANGELES = "Asia/Tokyo", "America/Los_Angeles"
ZONE_TIMES = [BASE_US + 40, BASE_US + 60, BASE_US + 30 * DAY_US + 43_200_000_000, BASE_US + 64 * DAY_US]
# Naive times in every form, and naive bounds, in a process of another time zone.
ZONE_SCRIPT = """
import json, sys
from datetime import datetime
from pathlib import Path
import pandas as pd
from helpers.pit_oracle import ASOF, cells, feast_store, times
store = feast_store(Path(sys.argv[1]), ASOF)
at = times(json.loads(sys.argv[2])).to_pandas()
naive = at.dt.tz_localize(None)
told = []
for column in (at, naive, naive.dt.strftime("%Y-%m-%dT%H:%M:%S.%f"), pd.Series(list(naive), dtype=object)):
    frame = pd.DataFrame({"user_id": ["u0", "u1", "u2", "u0"], "event_timestamp": column})
    told.append(cells(store.get_historical_features(frame, features=store.get_feature_service("both"),
        full_feature_names=True, filter_by_created_timestamp=True).to_arrow()))
found = store._get_provider().offline_store.pull_latest_from_table_or_query(
    store.config, store.get_feature_view("user_30d").batch_source, ["user_id"], ["user_30d_number"], "event_timestamp",
    "created_timestamp", datetime(2019, 12, 31, 23), datetime(2020, 1, 1, 0, 0, 0, 60)).to_arrow()
told.append(sorted(map(repr, zip(*cells(found).values()))))
print(json.dumps(told, default=str))
"""


def _told_in(zone: str, folder: Path) -> Any:
    return json.loads(forked_script(ZONE_SCRIPT, folder, json.dumps(ZONE_TIMES), cwd=ROOT, TZ=zone).stdout)


def test_the_time_zone_of_the_process_changes_nothing(asking: Asking) -> None:
    tokyo, los_angeles = (_told_in(zone, asking.ground.folder) for zone in (TOKYO, LOS_ANGELES))
    assert tokyo == los_angeles
    aware, naive, texts, objects, pulled = tokyo
    assert naive == texts == objects == aware
    assert aware["user_30d__user_30d_number"] == [
        seen_value
        for key, at in zip(("u0", "u1", "u2", "u0"), ZONE_TIMES, strict=True)
        for seen_value in asking.ground.tables["user_30d"].answers([((key,), at)], ttl_us=30 * DAY_US, by_created=True)[
            "user_30d_number"
        ]
    ]
    assert len(set(aware["user_30d__user_30d_number"])) > 2
    assert len(pulled) > 2
