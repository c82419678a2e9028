"""The Python API: a project from tables in memory through its whole life, on one small world."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import FAST_PRESET, FinishedJob
from sidkit.api import Project
from sidkit.core.clock import moment_us
from sidkit.core.errors import (
    ConfigError,
    ContractError,
    LifeCycleError,
    RepoError,
    SidkitWarning,
    TimeError,
    UnknownVersionError,
)
from sidkit.datasets.synthetic import Sizes, write_world

TABLES = ("interactions", "items", "item_embeddings")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The tables of a small world, as pandas reads them."""
    folder = tmp_path_factory.mktemp("world") / "log"
    write_world(folder, "strong", Sizes(6_000, 60, 120), 1)
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def project(frames: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with tables, a serving codebook and labelled rows."""
    made = sidkit.init(tmp_path_factory.mktemp("project") / "repo", **frames)
    made.ingest()
    made.build(end_of(frames))
    made.fit("first", str(FAST_PRESET), fit_end=frames["interactions"]["timestamp"].quantile(0.8))
    made.publish("first")
    made.promote("first")
    made.write_rows()
    return made


def end_of(frames: dict[str, pd.DataFrame]) -> pd.Timestamp:
    end: pd.Timestamp = frames["interactions"]["timestamp"].max() + pd.Timedelta(minutes=5)
    return end


def test_pandas_polars_and_arrow_give_the_same_project(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    kinds = {
        "pandas": frames,
        "polars": {name: pl.from_pandas(frame) for name, frame in frames.items()},
        "arrow": {name: pa.Table.from_pandas(frame, preserve_index=False) for name, frame in frames.items()},
    }
    logs = []
    for kind, tables in kinds.items():
        made = sidkit.init(tmp_path / kind, **tables)
        assert made.ingest().new_rows == len(frames["interactions"])
        logs.append(pq.read_table(made.repo.log / "interactions"))
    assert logs[0].equals(logs[1]) and logs[0].equals(logs[2])


def test_rows_added_later_are_appended_and_items_replaced(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    log, items = frames["interactions"], frames["items"]
    made = sidkit.init(tmp_path / "repo", **{**frames, "interactions": log.iloc[:-50]})
    assert made.ingest().new_rows == len(log) - 50
    assert made.ingest(interactions=log.iloc[-60:]).new_rows == 50  # ten rows are already in the log
    corrected = items.iloc[:3].assign(title="new")
    made.ingest(items=corrected)
    stored = pq.read_table(
        made.repo.log / "items.parquet" if (made.repo.log / "items.parquet").exists() else items_of(made)
    )
    titles = dict(zip(stored.column("item_id").to_pylist(), stored.column("title").to_pylist(), strict=True))
    assert len(titles) == len(items)
    assert [titles[item] for item in corrected["item_id"]] == ["new"] * 3
    with pytest.raises(ContractError, match="expected the columns of the earlier rows.*label"):
        made.ingest(interactions=log.drop(columns="label"))


def items_of(made: Project) -> Path:
    from sidkit.tables import read_log

    return read_log(made.repo).items


def test_init_refuses_what_it_cannot_use(frames: dict[str, pd.DataFrame], tmp_path: Path, project: Project) -> None:
    with pytest.raises(ConfigError, match="got none for items"):
        sidkit.init(tmp_path / "a", interactions=frames["interactions"])
    with pytest.raises(ConfigError, match="got data and interactions"):
        sidkit.init(tmp_path / "a", "somewhere", **frames)
    with pytest.raises(ContractError, match="expected a pandas or Polars DataFrame or an Arrow table, got list"):
        sidkit.init(tmp_path / "a", **{**frames, "items": [1]})
    with pytest.raises(ContractError, match="column names as text"):
        sidkit.init(tmp_path / "a", **{**frames, "items": frames["items"].rename(columns={"title": 3})})
    with pytest.raises(RepoError, match="is a sidkit repository already"):
        sidkit.init(project.path, **frames)
    with pytest.raises(RepoError, match="not a sidkit repository"):
        sidkit.open(tmp_path / "nothing")
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").iterdir())


def test_a_project_with_a_source_of_its_own_refuses_tables(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    made = sidkit.init(tmp_path / "repo", "synthetic", impressions=3_000)
    with pytest.raises(ConfigError, match="add the rows there and call ingest"):
        made.ingest(interactions=frames["interactions"])


def test_the_codebook_answers_in_both_directions(project: Project) -> None:
    book = project.codebook()
    table = book.table()
    item = table["item_id"][0]
    codes = book.codes(item)[item]
    assert codes == table["codes"][0] and len(codes) == len(book.sizes)
    assert book.codes(["nobody", item]) == {"nobody": None, item: codes}
    inside = book.items(codes[:1], limit=1000)
    expected = [name for name, own in zip(table["item_id"], table["codes"], strict=True) if own[0] == codes[0]]
    assert inside["item_id"].tolist() == expected
    with pytest.raises(ConfigError, match="at most 3 codes"):
        book.items([1, 2, 3, 4])
    with pytest.raises(UnknownVersionError):
        project.codebook("none")
    assert "first" in repr(book) and "<table>" in book._repr_html_()


def test_similar_items_are_those_of_the_largest_cosine(project: Project) -> None:
    from semantic_ids.pairs.known_items import known_items
    from sidkit.tables import read_build

    book = project.codebook()
    known = known_items(project.repo, read_build(project.repo)["as_of_us"])
    vectors = book.model.encoder.encode(known.content).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for at in (0, 7, len(known) - 1):
        near = book.similar(known.ids[at], k=5)
        cosine = unit @ unit[at]
        cosine[at] = -2
        np.testing.assert_allclose(near["similarity"], np.sort(cosine)[::-1][:5], rtol=1e-5)
        assert known.ids[at] not in near["item_id"].tolist()
    assert len(book.similar(known.ids[0], k=10_000)) == len(known) - 1
    with pytest.raises(ConfigError, match="expected an item with content"):
        book.similar("nobody")


def test_a_frame_has_the_rows_of_its_input_in_their_kind(project: Project) -> None:
    rows = project.rows("test").head(40).assign(extra=range(40))[::-1]
    frame = project.frame(rows)
    assert isinstance(frame, pd.DataFrame)
    assert (
        frame[["user_id", "item_id", "extra"]].values.tolist() == rows[["user_id", "item_id", "extra"]].values.tolist()
    )
    arrow = project.frame(pa.Table.from_pandas(rows, preserve_index=False))
    assert isinstance(arrow, pa.Table) and arrow.column("item_sid__codes").to_pylist() == [
        None if codes is None else list(codes) for codes in frame["item_sid__codes"]
    ]
    assert isinstance(project.frame(pl.from_pandas(rows[["user_id", "item_id", "event_timestamp"]])), pl.DataFrame)
    with pytest.raises(ContractError, match="event_timestamp"):
        project.frame(rows.drop(columns="event_timestamp"))


def test_unknown_items_and_later_rows_are_warned_of(project: Project) -> None:
    rows = project.rows("test").head(2)[["user_id", "item_id", "event_timestamp"]]
    rows = rows.assign(item_id=["nobody", rows["item_id"].iloc[1]])
    with pytest.warns(SidkitWarning, match="1 rows have item ids that are missing"):
        project.frame(rows)
    later = rows.assign(
        item_id=rows["item_id"].iloc[1], event_timestamp=rows["event_timestamp"] + pd.Timedelta(days=99)
    )
    with pytest.warns(SidkitWarning, match="2 rows are later than the as-of time"):
        project.frame(later)


def test_parts_of_the_rows_follow_the_time_split(project: Project) -> None:
    parts = [project.rows(part) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(project.rows())
    assert parts[0]["event_timestamp"].max() < parts[1]["event_timestamp"].min()
    assert parts[1]["event_timestamp"].max() < parts[2]["event_timestamp"].min()
    with pytest.raises(ConfigError, match="expected one of the parts"):
        project.rows("tests")


def test_a_dataset_has_the_features_of_the_frame(project: Project) -> None:
    rows = project.rows("test").head(60)
    frame, data = project.frame(rows), project.dataset(rows)
    assert (data.label == rows["label"].to_numpy()).all()
    codes = [tuple(row) if row is not None else (-1,) * data.codes.shape[1] for row in frame["item_sid__codes"]]
    assert [tuple(row) for row in data.codes.tolist()] == codes
    np.testing.assert_array_equal(
        data.numeric["item_clicks_all"], frame["item_stats__clicks_all"].fillna(0).to_numpy(dtype=np.float32)
    )
    batch = data.to_torch()[range(60)]
    assert batch.candidate_codes.tolist() == data.codes.tolist()
    np.testing.assert_array_equal(batch.candidate_content.numpy(), data.content)
    lengths = frame["user_history__item_ids"].map(lambda ids: 0 if ids is None else len(ids))
    assert batch.mask.sum(dim=1).tolist() == lengths.tolist()
    assert batch.history_codes.shape == (60, data.data.history_items.shape[1], data.codes.shape[1])


def test_a_loader_visits_every_row_once_and_repeats_with_its_seed(project: Project) -> None:
    data = project.dataset(project.rows("validation")).to_torch()
    whole = data[range(len(data))]

    def visited(seed: int) -> list[list[int]]:
        loader = data.loader(batch_size=64, shuffle=True, seed=seed)
        return [[int(at) for batch in loader for at in batch.at_us] for _ in range(2)]

    first, second = visited(0)
    assert first != second and sorted(first) == sorted(second) == sorted(whole.at_us.tolist())
    assert visited(0) == [first, second] and visited(1)[0] != first
    assert [len(batch) for batch in data.loader(batch_size=64, drop_last=True)] == [64] * (len(data) // 64)


def test_test_rows_use_the_vocabulary_and_the_scaling_of_the_training_rows(project: Project) -> None:
    train = project.dataset(project.rows("train")).to_torch()
    test_rows = project.rows("test")
    test = project.dataset(test_rows).to_torch(like=train)
    assert test.vocabulary_size == train.vocabulary_size and test.scaling == train.scaling
    seen = set(project.rows("train")["item_id"])
    batch = test[range(len(test))]
    assert [index > 1 for index in batch.candidate_index.tolist()] == [item in seen for item in test_rows["item_id"]]
    unlabelled = project.dataset(test_rows.drop(columns="label"))
    assert unlabelled.label is None and bool(unlabelled.to_torch(like=train)[[0]].label.isnan().all())


def test_times_are_datetimes_or_text_with_a_zone(project: Project) -> None:
    moment = datetime(2024, 2, 1, 12, tzinfo=UTC)
    same = ("2024-02-01T12:00:00Z", moment, pd.Timestamp(moment), moment.astimezone().isoformat())
    assert {moment_us(each) for each in same} == {int(moment.timestamp()) * 1_000_000}
    for wrong, message in (
        (datetime(2024, 2, 1), "write it as 2024-02-01T00:00:00\\+00:00"),
        (pd.NaT, "got NaT"),
        (1_706_788_800, "expected a datetime or ISO 8601 text"),
        (np.datetime64("2024-02-01"), "expected a datetime or ISO 8601 text"),
        ("yesterday", "expected an ISO 8601 time"),
    ):
        with pytest.raises(TimeError, match=message):
            moment_us(wrong)  # type: ignore[arg-type]
    with pytest.raises(TimeError, match="no later than now"):
        project.build(datetime.now(UTC) + timedelta(days=1))


def test_the_life_of_a_codebook(project: Project) -> None:
    project.fit("second", str(FAST_PRESET), force=True, fit_end=project.codebooks()["fit_end"][0])
    assert project.codebooks().set_index("name")["state"].to_dict() == {"first": "serving", "second": "fitted"}
    with pytest.raises(LifeCycleError, match="publish it before"):
        project.promote("second")
    project.publish("second")
    assert [report.name for report in project.refresh()] == ["first", "second"]
    project.promote("second")
    assert project.codebook().name == "second"
    project.promote("first")
    project.retire("second")
    project.purge("second")
    assert project.codebooks().set_index("name")["state"].to_dict() == {"first": "serving", "second": "purged"}
    assert project.doctor() == []
    with pytest.raises(UnknownVersionError):
        project.promote("nothing")


def test_a_finished_job_is_scored_evaluated_and_audited(finished: FinishedJob) -> None:
    made = sidkit.open(finished.repo.path)
    name = made.rankers().query("state == 'serving'")["name"].item()
    scorer = made.scorer()
    assert scorer.record.name == name
    items = made.codebook().table()["item_id"].tolist()[:5]
    at = datetime(2024, 4, 1, tzinfo=UTC)
    scores = scorer.score("u1", [*items, "nobody"], at)
    assert scores["item_id"].tolist() == [*items, "nobody"]
    assert scores["score"].between(0, 1).all() and scores["known"].tolist() == [True] * 5 + [False]
    assert scores.attrs["ranker"] == name
    again = scorer.score("u1", items, at.isoformat())
    # A matrix product rounds differently with the number of rows.
    assert again["score"].tolist() == pytest.approx(scores["score"].tolist()[:5], rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SidkitWarning)
        evaluated = made.evaluate()
    assert evaluated.ranker == name and 0 < evaluated.slices["all"].auc < 1
    assert made.audit(rows=50).ok


def test_what_ingest_would_reject_is_refused_by_init(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    items, log = frames["items"], frames["interactions"]
    broken = {
        "created_at": {**frames, "items": items.assign(created_at=items["created_at"].dt.strftime("%Y-%m-%d"))},
        "expected column 'label'.*For a log of positives only": {**frames, "interactions": log.drop(columns="label")},
        "rejected rows": {**frames, "interactions": log.assign(label=5)},
        "to pack one column per dimension: df = ": {
            **frames,
            "item_embeddings": pd.DataFrame({"item_id": items["item_id"], "emb_a": 0.5, "emb_b": 1.0}),
        },
    }
    for message, tables in broken.items():
        with pytest.raises(ContractError, match=message):
            sidkit.init(tmp_path / "repo", **tables)
        assert not (tmp_path / "repo").exists(), message
    wide = pd.DataFrame({"item_id": items["item_id"], "emb_0": 0.5, "emb_1": np.arange(len(items)) / 10})
    packed = wide[["item_id"]].assign(text=list(wide.drop(columns="item_id").to_numpy("float32")))  # the advice
    made = sidkit.init(tmp_path / "repo", **{**frames, "item_embeddings": packed})
    assert made.settings.source.modalities == ("text",)
    with pytest.raises(RepoError, match=r"is a sidkit repository already; continue there with.*sidkit\.open"):
        sidkit.init(tmp_path / "repo", **frames)
