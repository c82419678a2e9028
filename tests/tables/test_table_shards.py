"""Feature tables built in shards of keys are those of one process, row for row, from scratch and in increments."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import DAY, complete, forked_sidkit, fresh_repo, set_world, write_world_source
from helpers.killed_workers import killing, run_advice
from oracle.logs import World, random_world
from sidkit.core.errors import ArtifactMissingError, ConfigError, ProcessesError
from sidkit.core.repo import Repo
from sidkit.core.shards import Shard, ShardedWork
from sidkit.tables import build_tables, ingest, read_build
from sidkit.tables.builder import TABLES, build_shard


def tables_of(repo: Repo) -> dict[str, pa.Table]:
    return {name: pq.read_table(repo.tables / f"{name}.parquet") for name in TABLES}


def halves(seed: int) -> tuple[World, World, int, int]:
    """A world up to a time but for late events, the whole, and the times of both builds."""
    rng = random.Random(seed)
    whole = complete(random_world(rng, n_users=6, n_items=6, n_events=80, n_queries=0))
    times = sorted(event.timestamp for event in whole.events)
    cut, end = times[len(times) // 2], times[-1] + 45 * DAY
    early = [
        event for event in whole.events if (event.timestamp <= cut and rng.random() < 0.8) or event.user_id == "u90"
    ]
    return replace(whole, events=early), whole, cut, end


def text(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


@pytest.mark.parametrize("of", range(1, 8))
def test_the_union_of_the_shards_is_the_single_build(tmp_path: Path, of: int) -> None:
    half, whole, cut, end = halves(of)
    source = tmp_path / "source"
    repos = [set_world(fresh_repo(tmp_path / name, source).path, source, half) for name in ("single", "sharded")]
    for world, as_of in ((half, cut), (whole, end)):
        write_world_source(source, world)
        for repo in repos:
            ingest(repo)
        single = build_tables(repos[0], as_of, allow_future=True)
        counted = [build_shard(repos[1], as_of, Shard(number, of), allow_future=True) for number in range(1, of + 1)]
        sharded = build_tables(repos[1], as_of, allow_future=True, work=ShardedWork(of, merge=True))
        assert sharded.rows == single.rows
        assert sharded.new_rows == single.new_rows
        assert {name: sum((each or {})[name] for each in counted) for name in TABLES} == {
            name: single.rows[name] for name in TABLES
        }
        for name, table in tables_of(repos[0]).items():
            assert tables_of(repos[1])[name].equals(table), name
        assert not (repos[1].data / "tmp" / "shards" / "tables").exists()
    assert read_build(repos[1])["generation"] == read_build(repos[0])["generation"]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    half, _, _, _ = halves(1)
    repo = set_world(fresh_repo(tmp_path / "repo", tmp_path / "source").path, tmp_path / "source", half)
    ingest(repo)
    return repo


def test_a_missing_shard_is_refused_and_the_named_command_makes_it(repo: Repo) -> None:
    project, as_of = sidkit.open(repo.path), text(halves(1)[2])
    assert project.build_shard(as_of, "2/2")
    assert project.build_shard(as_of, "2/2") is None
    with pytest.raises(
        ArtifactMissingError, match="1/2 missing; make them with `sidkit tables shard --as-of"
    ) as caught:
        project.build(as_of, shards=2, merge=True)
    assert not (repo.tables / "manifest.json").exists()
    run_advice(str(caught.value))
    assert sum(project.build(as_of, shards=2, merge=True).rows.values()) > 0
    assert project.build_shard(as_of, "1/2") is None, "the tables are of that time already"


def test_shards_of_another_log_or_time_never_merge(repo: Repo) -> None:
    _, whole, cut, end = halves(1)
    for number in (1, 2):
        build_shard(repo, cut, Shard(number, 2))
    with pytest.raises(ProcessesError, match="expected shard 1/2 .* as-of time differ"):
        build_tables(repo, end, allow_future=True, work=ShardedWork(2, merge=True))
    write_world_source(repo.path.parent / "source", whole)
    ingest(repo)
    with pytest.raises(ProcessesError, match="expected shard 1/2 .* log differ"):
        build_tables(repo, cut, work=ShardedWork(2, merge=True))


def test_a_user_who_is_forgotten_is_in_no_shard(repo: Repo) -> None:
    project, as_of = sidkit.open(repo.path), text(halves(1)[2])
    project.build_shard(as_of, "1/1")
    held = [path for path in repo.data.rglob("user_history.parquet") if "shards" in path.parts]
    user = pq.read_table(held[0]).column("user_id")[0].as_py()
    project.build(as_of)
    project.forget([user])
    assert not [path for path in repo.data.rglob("*.parquet") if "shards" in path.parts]


def test_shards_to_be_put_together_need_a_time(repo: Repo) -> None:
    with pytest.raises(
        ConfigError, match="expected the --as-of of the shards to put them together, got none; state it"
    ):
        sidkit.open(repo.path).build(shards=2, merge=True)


def test_spark_splits_the_work_itself(repo: Repo) -> None:
    path = repo.path / "sidkit.toml"
    path.write_text(path.read_text().replace("[engine]", '[engine]\ntables = "spark"'))
    with pytest.raises(
        ConfigError, match='expected tables = "duckdb" in .engine. .* got "spark", .*leave out the shards'
    ):
        build_tables(Repo.open(repo.path), halves(1)[2], work=ShardedWork(2))


def test_a_killed_worker_is_named_and_only_its_shard_is_made_again(repo: Repo, tmp_path: Path) -> None:
    as_of = text(halves(1)[2])
    build = ("tables", "build", "--as-of", as_of, "--shards", "2", "--repo", repo.path)
    died = forked_sidkit(*build, cwd=tmp_path, expect=1, PYTHONPATH=killing(tmp_path / "site", "1/2"))
    assert "expected 2 workers to finish, but those of these shards did not: 1/2 (exit code -9)" in died.stderr
    folder = repo.data / "tmp" / "shards" / "tables"
    assert [path.name for path in folder.glob("[0-9]*")] == ["2-of-2"]
    project = sidkit.open(repo.path)
    assert project.build_shard(as_of, "2/2") is None
    again = forked_sidkit(*build, cwd=tmp_path)
    assert "shard 1/2" not in again.stdout
    sharded = tables_of(repo)
    project.build(as_of, rebuild=True)
    for name, table in tables_of(repo).items():
        assert sharded[name].equals(table), name
    assert not folder.exists()
