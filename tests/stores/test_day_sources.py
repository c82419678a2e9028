"""A repository whose sources are folders of days has the features of one with a file per table, at every step of its life."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.attribute_world import attribute_repo, attribute_tables
from helpers.builders import DAY, START, moments, write_tables
from helpers.bytes_of import holders
from ranking.data.feature_views import historical_reader
from semantic_ids import lifecycle
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, open_store
from sidkit.stores.offline.retrieve import retrieve
from sidkit.stores.repo_doctor import examine_repo
from sidkit.tables import build_tables, ingest

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

SPEC = CodebookSpec(force=True, sizes=(4, 3, 2), encoder_arguments={"dim": 4}, beam=2)
END = START + 41 * DAY


@pytest.fixture
def repos(tmp_path: Path) -> tuple[Repo, Repo]:
    """The same source in both layouts, built to the middle of the log, with a published codebook."""
    source = write_tables(tmp_path / "source", attribute_tables(events=600))
    made = []
    for name, toml in (("plain", {}), ("days", {"[engine]": '[engine]\npartitions = "day"'})):
        repo = attribute_repo(tmp_path / name, source, toml=toml)
        ingest(repo)
        build_tables(repo, START + 32 * DAY)
        lifecycle.fit(repo, "book", SPEC, START + 30 * DAY)
        lifecycle.publish(repo, "book")
        sidkit.open(repo.path).materialize()
        made.append(repo)
    return made[0], made[1]


def asked(count: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    at = START + rng.integers(-DAY, 45 * DAY, count)
    users, items = rng.integers(0, 12, count), rng.integers(0, 30, count)
    return pd.DataFrame(
        {
            "user_id": [f"u{number}" for number in users],
            "item_id": [f"i{number:03d}" if number % 2 else f"i{number}" for number in items],
            "event_timestamp": moments(at.tolist()).to_pandas(),
        }
    )


def offline(repo: Repo, rows: pd.DataFrame) -> dict[str, Any]:
    store = open_store(repo)
    service = store.get_feature_service("ctr_book")
    through_feast = store.get_historical_features(rows, service, full_feature_names=True).to_arrow()
    table = pa.Table.from_pandas(rows, preserve_index=False)
    streamed = pa.Table.from_batches(list(retrieve(store, table, service, full_feature_names=True).batches(64)))
    whole = retrieve(store, table, service, full_feature_names=True).to_arrow()
    cells = {
        name: through_feast.column(name).to_pylist() for name in through_feast.column_names if "assigned" not in name
    }
    for other in (streamed, whole):
        assert {name: other.column(name).to_pylist() for name in cells if name not in rows} == {
            name: values for name, values in cells.items() if name not in rows
        }
    for parts in (1, 3):
        read = of_frames(store, service, rows, parts)
        assert read.keys() <= cells.keys() and len(read) > 20
        assert read == {name: cells[name] for name in read}
    return cells


def of_frames(store: FeatureStore, service: FeatureService, rows: pd.DataFrame, parts: int) -> dict[str, Any]:
    """What the reader of training frames gives for the rows, asked in parts of which each is of other times."""
    reader = historical_reader(store, service)
    order = np.argsort(rows["event_timestamp"].to_numpy(), kind="stable")
    place = np.empty(len(rows), dtype=np.int64)
    found: dict[str, list[Any]] = {}
    asked = np.array_split(order, parts)[::-1]
    place[np.concatenate(asked)] = np.arange(len(rows))
    for part in asked:
        given = rows.iloc[part]
        keys = {name: given[name].to_numpy(dtype=object) for name in ("user_id", "item_id")}
        seen = reader(keys, given["event_timestamp"].astype("int64").to_numpy())
        for view in seen.values():
            for name, column in zip(view.table.column_names, view.plain().columns, strict=True):
                if "assigned" not in name:
                    found.setdefault(name, []).extend(column.to_pylist())
    return {name: [values[at] for at in place] for name, values in found.items()}


def online(repo: Repo, rows: pd.DataFrame) -> dict[str, Any]:
    store = open_store(repo)
    keys = rows[["user_id", "item_id"]].head(60).to_dict("records")
    found: dict[str, Any] = store.get_online_features(
        store.get_feature_service("ctr_book"), [{**key, "at_us": END} for key in keys], full_feature_names=True
    ).to_dict()
    return found


def agree(plain: Repo, days: Repo, rows: pd.DataFrame) -> dict[str, Any]:
    found = offline(days, rows)
    assert found == offline(plain, rows)
    assert online(days, rows) == online(plain, rows)
    return found


def test_every_cell_is_that_of_the_layout_in_one_file(repos: tuple[Repo, Repo]) -> None:
    plain, days = repos
    rows = asked()
    first = agree(plain, days, rows)
    assert any(value for value in first["user_history__item_ids"])
    assert any(value for value in first["item_sid__codes"])
    before = {path: path.stat().st_ino for path in days.sources.rglob("*.parquet")}
    for repo in repos:
        build_tables(repo, END)
        lifecycle.refresh(repo)
        sidkit.open(repo.path).materialize()
    agree(plain, days, rows)
    old = [path for path in before if path.parent.name < "event_date=2024-01-20"]
    assert old
    assert all(path.stat().st_ino == before[path] for path in old)  # only days after the former build were written


def test_a_rebuild_and_a_purge_leave_no_day_behind(repos: tuple[Repo, Repo]) -> None:
    plain, days = repos
    assert (days.sources / "item_sid_book").is_dir()
    for repo in repos:
        build_tables(repo, START + 20 * DAY, rebuild=True)
        lifecycle.refresh(repo)
        sidkit.open(repo.path).materialize()
    assert offline(days, asked()) == offline(plain, asked())
    assert max(path.name for path in (days.sources / "user_stats").iterdir()) <= "event_date=2024-01-22"
    lifecycle.retire(days, "book")
    lifecycle.purge(days, "book")
    assert not [path for path in days.sources.iterdir() if path.name.endswith("book")]


def test_a_forgotten_user_leaves_the_days_too(repos: tuple[Repo, Repo]) -> None:
    plain, days = repos
    rows = asked()
    assert [name for name in holders(days.path, "u7") if name.startswith("data/sources/")]
    for repo in repos:
        sidkit.open(repo.path).forget(["u7"], allow_unknown=True)
    for path in days.sources.rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        assert "user_id" not in table.column_names or "u7" not in table.column("user_id").to_pylist()
    agree(plain, days, rows)


def test_the_doctor_names_days_that_are_older_than_their_table(repos: tuple[Repo, Repo], tmp_path: Path) -> None:
    _, days = repos
    shutil.copytree(days.sources / "user_stats", tmp_path / "older")
    build_tables(days, END)
    assert [problem.code for problem in examine_repo(days)] == []
    shutil.rmtree(days.sources / "user_stats")
    shutil.copytree(tmp_path / "older", days.sources / "user_stats")
    (problem,) = examine_repo(days)
    assert (problem.code, problem.remedy) == ("outdated-days", "Run `sidkit tables build`.")
    build_tables(days, END)  # the remedy
    assert [problem.code for problem in examine_repo(days)] == []


def test_a_change_of_the_layout_takes_an_apply(repos: tuple[Repo, Repo]) -> None:
    plain, _ = repos
    rows = asked(20)
    before = offline(plain, rows)
    path = plain.path / "sidkit.toml"
    path.write_text(path.read_text().replace("[engine]", '[engine]\npartitions = "day"'))
    changed = Repo.open(plain.path)
    assert offline(changed, rows) == before  # the registry still names the files
    apply_repo(changed)  # writes the days
    assert open_store(changed).get_feature_view("user_stats").batch_source.path.endswith("data/sources/user_stats")
    assert offline(changed, rows) == before
    path.write_text(path.read_text().replace('partitions = "day"', 'partitions = "none"'))
    back = Repo.open(plain.path)
    build_tables(back, START + 33 * DAY)
    with pytest.raises(ArtifactCorruptError, match="after a change of engine.partitions, `sidkit apply` too"):
        offline(back, rows)
    apply_repo(back)
    offline(back, rows)
