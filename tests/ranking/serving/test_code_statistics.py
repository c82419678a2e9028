"""Statistics of codes through a repository: as of the log before each row, online as offline, and blind to the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers import own_rankers
from helpers.attribute_world import attribute_repo
from helpers.builders import DAY, START
from helpers.habit_world import END, ITEMS, habit_source
from ranking.data.project_dataset import ProjectDataset
from ranking.data.schema import FeatureSchema
from ranking.pipeline.prepare import Prepared
from semantic_ids.code_stats import CodeStatsSpec
from semantic_ids.lifecycle import CodebookSpec
from sidkit.api import Project
from sidkit.core.clock import from_us
from sidkit.core.errors import SidkitWarning
from sidkit.core.stages import Stages
from sidkit.stores.feast_repo import materialize
from sidkit.tables.labelled_rows import build_labelled_rows

RATE = 0.25
HOUR = DAY // 24
MINUTE = 60_000_000
"""The availability delay."""
WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "all": 10_000 * DAY}
SPEC = CodebookSpec(force=True, sizes=(4, 4), stats=CodeStatsSpec(depths=(1, 2)))


def project_until(folder: Path, until_us: int) -> Project:
    """The habit world with the events before a time, a codebook of two levels, and the tables of all of them."""
    source = habit_source(folder / "source")
    events = pq.read_table(source / "interactions.parquet")
    pq.write_table(
        events.filter(events.column("timestamp").cast("int64").to_numpy() < until_us), source / "interactions.parquet"
    )
    repo = attribute_repo(folder / "repo", source, '[features]\naffinity = ["item_id"]\n')
    prepared = Prepared(repo, Stages(repo.runs / "some" / "stages.json"), repo.settings.source.url, 0)
    with repo.locked():
        log = prepared.ingest()
        facts = prepared.tables(log, min(until_us, END)).facts
        prepared.codebook("c", SPEC, START + 20 * DAY, [log, facts["rows"]])
        build_labelled_rows(repo)
    return sidkit.open(repo.path)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    opened = project_until(tmp_path_factory.mktemp("codes"), END)
    materialize(opened.repo, END)
    return opened


@pytest.fixture(scope="module")
def data(project: Project) -> ProjectDataset:
    return project.dataset(project.rows().sort_values("event_timestamp", kind="stable"), rate=RATE)


def test_a_rows_statistics_are_those_of_the_log_before_it(data: ProjectDataset) -> None:
    rows, numeric = data.data.rows, data.numeric
    codes = data.data.items.codes[data.data.candidate]
    log = pd.DataFrame({"user": rows.user_ids, "item": rows.item_ids, "at": rows.at_us, "label": rows.label})
    for depth in (1, 2):
        log[f"prefix{depth}"] = ["-".join(map(str, each[:depth])) for each in codes.tolist()]
    for place in range(0, len(log), 83):
        row, found = log.iloc[place], numeric.iloc[place]
        parents, own = dict.fromkeys(WINDOWS, RATE), {}
        for depth in (1, 2):
            same = log[log[f"prefix{depth}"] == row[f"prefix{depth}"]]
            for window, parent in parents.items():
                past = counted(same, row["at"], HOUR, window)
                name = f"code_stats_d{depth}"
                assert found[f"{name}__exposures_{window}"] == len(past)
                assert found[f"{name}__clicks_{window}"] == past["label"].sum()
                parents[window] = (past["label"].sum() + 10 * parent) / (len(past) + 10)
                assert found[f"{name}__rate_{window}"] == pytest.approx(parents[window], rel=1e-5)
            for window in ("30d", "all"):
                past = counted(same[same["user"] == row["user"]], row["at"], DAY, window)
                name, parent = f"user_code_stats_d{depth}", own.get(window, found[f"user_rate_{window}"])
                assert found[f"{name}__exposures_{window}"] == len(past)
                own[window] = (past["label"].sum() + 10 * parent) / (len(past) + 10)
                assert found[f"{name}__rate_{window}"] == pytest.approx(own[window], rel=1e-5)
        for window, parent in parents.items():
            clicks, shown = found[f"item_clicks_{window}"], found[f"item_exposures_{window}"]
            rate = (clicks + 10 * parent) / (max(shown, clicks) + 10)
            assert found[f"code_stats__item_rate_{window}"] == pytest.approx(rate, rel=1e-5)
        past = log[(log["user"] == row["user"]) & (log["label"] == 1) & (log["at"] <= row["at"] - MINUTE)]
        assert found["code_affinity_d2__count"] == (past["prefix2"] == row["prefix2"]).sum()


def test_counts_of_a_user_and_an_item_are_those_of_the_log_before_the_row(data: ProjectDataset) -> None:
    rows, numeric = data.data.rows, data.numeric
    log = pd.DataFrame({"user": rows.user_ids, "item": rows.item_ids, "at": rows.at_us, "label": rows.label})
    seen = 0
    for place in range(0, len(log), 29):
        row, found = log.iloc[place], numeric.iloc[place]
        same = log[(log["user"] == row["user"]) & (log["item"] == row["item"])]
        for window in WINDOWS:
            past = counted(same, row["at"], MINUTE, window)
            seen += len(past)
            assert found[f"user_item_id_stats__exposures_{window}"] == len(past)
            assert found[f"user_item_id_stats__clicks_{window}"] == past["label"].sum()
            rate = (past["label"].sum() + 10 * RATE) / (len(past) + 10)
            assert found[f"user_item_id_stats__rate_{window}"] == pytest.approx(rate, rel=1e-5)
    assert seen > 0


def counted(log: pd.DataFrame, at_us: int, cadence_us: int, window: str) -> pd.DataFrame:
    """The events of the newest window that was available at a time."""
    end = (at_us - MINUTE) // cadence_us * cadence_us
    return log[(log["at"] <= end) & (log["at"] > end - WINDOWS[window])]


def test_later_events_change_no_row(project: Project, data: ProjectDataset, tmp_path: Path) -> None:
    until = START + 25 * DAY
    earlier = project_until(tmp_path, until)
    assert earlier.codebooks()["name"].tolist() == project.codebooks()["name"].tolist()
    rows = pd.DataFrame(
        {
            "user_id": data.data.rows.user_ids,
            "item_id": data.data.rows.item_ids,
            "event_timestamp": data.data.rows.at_us,
        }
    )
    rows = rows[rows["event_timestamp"] < until]
    rows["event_timestamp"] = pd.to_datetime(rows["event_timestamp"], unit="us", utc=True)
    before = earlier.dataset(rows, rate=RATE).numeric.filter(like="code_")
    pd.testing.assert_frame_equal(before, data.numeric.filter(like="code_").iloc[: len(rows)])


def test_online_statistics_are_the_offline_ones(project: Project, data: ProjectDataset) -> None:
    linear = own_rankers.Linear.fit(data)
    project.register_ranker("linear", linear, trained_on=data)
    scorer = project.scorer(ranker="linear")
    items = [*(f"i{n}" for n in range(ITEMS)), "nothing"]
    for user in ("u1", "u7", "nobody"):
        request = pd.DataFrame({"user_id": user, "item_id": items, "event_timestamp": from_us(END)})
        offline = project.dataset(request, rate=RATE)
        scores = scorer.score(user, items, from_us(END).isoformat())
        np.testing.assert_allclose(scores["score"], linear.score(offline), atol=1e-6)
        counts = offline.numeric["user_code_stats_d1__exposures_all"]
        assert (counts.max() > 0) == (user != "nobody")
        assert counts.iloc[-1] == 0  # an unknown item has no codes
        assert offline.numeric["code_stats_d2__rate_all"].iloc[-1] == pytest.approx(RATE)


def test_a_frame_holds_the_counts_of_both_reads(project: Project, data: ProjectDataset) -> None:
    rows = project.rows().sort_values("event_timestamp", kind="stable")
    frame = project.frame(rows[["user_id", "item_id", "event_timestamp"]])
    for name in ("code_stats_d1__exposures_7d", "code_stats_d2__clicks_all", "user_code_stats_d2__exposures_30d"):
        np.testing.assert_array_equal(frame[name].fillna(0), data.numeric[name])
    unknown = rows[["user_id", "item_id", "event_timestamp"]].head(3).assign(item_id="nothing")
    with pytest.warns(SidkitWarning, match="3 rows have item ids that are missing"):
        assert project.frame(unknown).filter(like="code_stats").isna().all(axis=None)


def test_a_narrower_schema_reads_the_same_values(project: Project, data: ProjectDataset) -> None:
    for pattern in ("code_stats_d2__rate_*", "code_affinity_d2__*", "!*code_*"):
        schema = data.data.schema.select([pattern])
        narrow = data.data.narrowed(schema)
        assert narrow.numeric.shape[1] == len(data.data.narrowed(FeatureSchema()).numeric[0]) + len(schema.numbers)
        linear = own_rankers.Linear.fit(ProjectDataset(narrow, data.codebook, labelled=True, rate=RATE))
        name = f"narrow_{len(schema.numbers)}_{len(pattern)}"
        project.register_ranker(
            name, linear, trained_on=ProjectDataset(narrow, data.codebook, labelled=True, rate=RATE)
        )
        items = [f"i{n}" for n in range(5)]
        request = pd.DataFrame({"user_id": "u1", "item_id": items, "event_timestamp": from_us(END)})
        offline = project.dataset(request, rate=RATE)
        few = ProjectDataset(offline.data.narrowed(schema), data.codebook, labelled=False, rate=RATE)
        scores = project.scorer(ranker=name).score("u1", items, from_us(END).isoformat())
        np.testing.assert_allclose(scores["score"], linear.score(few), atol=1e-6)


def test_the_list_of_features_has_a_line_per_kind_and_depth(project: Project) -> None:
    listed = project.features()
    assert listed.loc[listed["kind"] == "statistics", "feature"].tolist() == [
        "code_stats_d1__*", "code_stats_d2__*", "code_stats__*",
        "user_code_stats_d1__*", "user_code_stats_d2__*", "code_affinity_d1__*", "code_affinity_d2__*",
    ]  # fmt: skip
