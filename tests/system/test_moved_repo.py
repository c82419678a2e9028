"""A repo may be copied and moved: it reads its own files, also when the original is gone."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import FinishedJob
from helpers.commands import ask_well
from helpers.frozen_repo import score as frozen_score
from helpers.frozen_repo import unpack
from sidkit.core.clock import iso
from sidkit.core.errors import RepoError
from sidkit.core.repo import Repo, init_repo
from sidkit.stores.feast_repo import open_store
from sidkit.stores.registry_path import former_folder


def copied(job: FinishedJob, path: Path) -> Path:
    """A plain copy of the repo, nothing else."""
    shutil.copytree(job.repo.path, path)
    return path


def scores(repo: Path, job: FinishedJob) -> dict[str, float]:
    users = pq.read_table(job.repo.tables / "user_stats.parquet")["user_id"].unique().to_pylist()[:1]
    items = pq.read_table(job.repo.tables / "item_content.parquet")["item_id"].unique().to_pylist()[:5]
    at = iso(job.result.as_of_us)
    told = ask_well("score", "--repo", repo, "--user", users[0], "--items", ",".join(items), "--at", at, "--json")
    found: dict[str, float] = json.loads(told.out)["scores"]
    return found


def frame(repo: Path, folder: Path) -> pa.Table:
    rows = pq.read_table(repo / "data" / "rows.parquet").slice(0, 50).select(["user_id", "item_id", "event_timestamp"])
    pq.write_table(rows, folder / "asked.parquet")
    ask_well("frame", "--repo", repo, "--rows", folder / "asked.parquet", "--out", folder / "frame.parquet")
    return pq.read_table(folder / "frame.parquet")


def test_a_copy_scores_and_reads_features_when_the_original_is_gone(finished: FinishedJob, tmp_path: Path) -> None:
    original = copied(finished, tmp_path / "original")
    ask_well("relocate", "--repo", original)  # its registry now names this folder
    first, features = scores(original, finished), frame(original, tmp_path)
    for name in ("copy", "copy of the copy"):
        shutil.copytree(original, tmp_path / name)
        shutil.rmtree(original)
        original = tmp_path / name
        assert former_folder(original) is not None
        assert scores(original, finished) == first
        assert frame(original, tmp_path).equals(features)


def test_a_copy_never_reads_the_original(finished: FinishedJob, tmp_path: Path) -> None:
    copy = copied(finished, tmp_path / "copy")
    opened: list[str] | None = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if opened is not None and event in {"open", "sqlite3.connect"}:
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    assert open_store(Repo.open(copy)).list_feature_views()
    frame(copy, tmp_path)
    ask_well("materialize", "--repo", copy)
    seen, opened = opened, None
    assert seen and not [path for path in seen if f"{finished.repo.path}/" in path]


def test_relocating_rewrites_what_feast_recorded_and_only_once(finished: FinishedJob, tmp_path: Path) -> None:
    copy = copied(finished, tmp_path / "copy")
    original = (finished.repo.data / "online.sqlite").read_bytes()
    told = ask_well("relocate", "--repo", copy).out
    assert "no longer in" in told and str(finished.repo.path) in told
    assert "nothing to relocate" in ask_well("relocate", "--repo", copy).out
    store = open_store(Repo.open(copy))
    for view in store.list_feature_views():
        assert view.batch_source.path.startswith(f"{copy}/"), view.name
        assert view.most_recent_end_time is not None, view.name
    assert json.loads(ask_well("doctor", "--repo", copy, "--json").out)["problems"] == []
    assert (finished.repo.data / "online.sqlite").read_bytes() == original
    assert scores(copy, finished) == scores(finished.repo.path, finished)


def test_an_apply_that_would_drop_tables_elsewhere_is_refused_until_the_copy_is_relocated(
    finished: FinishedJob, tmp_path: Path
) -> None:
    """Feast records online tables if the online store is its own."""
    from feast.protos.feast.core.InfraObject_pb2 import Infra
    from feast.protos.feast.core.SqliteTable_pb2 import SqliteTable

    from semantic_ids.catalog import read_definitions

    copy = copied(finished, tmp_path / "copy")
    infra = Infra()
    infra.infra_objects.add().sqlite_table.CopyFrom(SqliteTable(path=str(finished.repo.data / "online.db"), name="t"))
    with contextlib.closing(sqlite3.connect(copy / "data" / "registry.sqlite")) as opened, opened:
        row = ("infra", "sidkit", 0, infra.SerializeToString())
        opened.execute("INSERT INTO managed_infra VALUES (?, ?, ?, ?)", row)
    with pytest.raises(RepoError, match="was copied or moved") as raised:
        read_definitions(copy)
    [command] = re.findall(r"run `sidkit (.*?)`", str(raised.value))
    assert "forgot the online tables" in ask_well(*command.split(), "--repo", copy).out
    read_definitions(copy)


def test_a_registry_of_another_folder_is_not_read(tmp_path: Path) -> None:
    """Repos of older releases name their registry by an absolute path."""
    repo = init_repo(tmp_path / "repo")
    copy = tmp_path / "copy"
    shutil.copytree(repo.path, copy)
    yaml = copy / "feature_store.yaml"
    text = yaml.read_text()
    yaml.write_text(text.replace("sqlite:///data", f"sqlite:///{repo.data}"))
    with pytest.raises(RepoError, match="would read .*registry.sqlite"):
        open_store(Repo.open(copy))
    ask_well("relocate", "--repo", copy)
    assert yaml.read_text() == text
    assert open_store(Repo.open(copy)).list_feature_views()
    assert not repo.data.joinpath("registry.sqlite").exists()


def test_a_repo_of_an_older_release_is_moved_by_one_command(tmp_path: Path) -> None:
    repo = unpack(tmp_path)
    ask_well("upgrade", "--repo", repo)
    ask_well("relocate", "--repo", repo)
    assert "sqlite:///data/registry.sqlite" in (repo / "feature_store.yaml").read_text()
    ask_well("materialize", "--repo", repo)
    assert frozen_score(repo)


def test_a_source_inside_the_repo_moves_with_it(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    repo = init_repo(tmp_path / "repo", source_url=str(tmp_path / "repo" / "data" / "source"))
    assert 'url = "./data/source"' in (repo.path / "sidkit.toml").read_text()
    assert repo.settings.source.url == str(tmp_path / "repo" / "data" / "source")
    moved = repo.path.rename(tmp_path / "moved")
    assert Repo.open(moved).settings.source.url == str(moved / "data" / "source")
    outside = init_repo(tmp_path / "other", source_url=str(tmp_path / "source"))
    assert outside.settings.source.url == str(tmp_path / "source")
