"""Codes assigned in shards are those of one process, row for row; a killed worker's shard is made again, no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.builders import DAY, forked_sidkit
from helpers.codebook_builders import AS_OF, BARE, CUT, ITEMS, SPEC, bring, build, built_repo, online, rows
from helpers.killed_workers import killing, run_advice
from semantic_ids import lifecycle
from semantic_ids.assign_shards import assign_shard
from semantic_ids.catalog import table_path
from sidkit.core.errors import ArtifactMissingError, LifeCycleError, ProcessesError
from sidkit.core.repo import Repo
from sidkit.core.shards import Shard, ShardedWork


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    repo = built_repo(tmp_path_factory.mktemp("sharded"))
    lifecycle.fit(repo, "a", SPEC, CUT)
    lifecycle.publish(repo, "a")
    return repo


def without_moment(repo: Repo) -> dict[Any, dict[str, Any]]:
    """The rows but the moment when a code was computed."""
    return {key: {**row, "assigned_at_us": None} for key, row in rows(repo, "a").items()}


def forget_codes(repo: Repo) -> None:
    for suffix in (".parquet", ".json"):
        table_path(repo, "a").with_suffix(suffix).unlink()


def assign_all(repo: Repo, of: int) -> list[int | None]:
    return [assign_shard(repo, "a", Shard(number, of)) for number in range(1, of + 1)]


@pytest.mark.parametrize("world", range(3))
def test_the_union_of_the_shards_is_the_single_run(published: Repo, world: int) -> None:
    rng = np.random.default_rng(world)
    bring(
        published, ITEMS, AS_OF + (world + 1) * DAY, edition=dict.fromkeys(rng.permutation(list(ITEMS))[:20], world + 1)
    )
    forget_codes(published)
    lifecycle.refresh(published, "a")
    single = without_moment(published)
    assert len(single) > len(ITEMS)
    assert any(row["codes"] is None for row in single.values())
    for of in range(1, 8):
        forget_codes(published)
        assert sum(count or 0 for count in assign_all(published, of)) == len(single)
        (report,) = lifecycle.refresh(published, "a", ShardedWork(of, merge=True))
        assert report.new_rows == len(single)
        assert without_moment(published) == single
        assert not (published.data / "tmp" / "shards" / "codes-a").exists()


def test_shards_extend_a_table_by_the_rows_it_lacks(published: Repo) -> None:
    bring(published, ITEMS, AS_OF + 10 * DAY)
    lifecycle.refresh(published, "a")
    before = rows(published, "a")
    edition = {"i003": 7, "i010": 7, "i020": 7}
    bring(published, ITEMS, AS_OF + 11 * DAY, edition=edition)
    assert sum(count or 0 for count in assign_all(published, 3)) == 3
    (report,) = lifecycle.refresh(published, "a", ShardedWork(3, merge=True))
    assert report.new_rows == 3
    after = rows(published, "a")
    assert {key: after[key] for key in before} == before
    assert {item for item, _ in set(after) - set(before)} == set(edition)


def test_a_missing_shard_is_refused_and_the_named_command_makes_it(published: Repo) -> None:
    forget_codes(published)
    assign_shard(published, "a", Shard(1, 2))
    with pytest.raises(
        ArtifactMissingError, match="expected 2 shards .* 2/2 missing; make them with `sidkit codebooks assign a"
    ) as caught:
        lifecycle.refresh(published, "a", ShardedWork(2, merge=True))
    run_advice(str(caught.value))
    (report,) = lifecycle.refresh(published, "a", ShardedWork(2, merge=True))
    assert report.rows == report.new_rows


def test_shards_of_tables_that_changed_since_are_refused_and_made_again(published: Repo) -> None:
    forget_codes(published)
    assign_all(published, 2)
    bring(published, ITEMS, AS_OF + 20 * DAY, edition={"i005": 9})
    with pytest.raises(ProcessesError, match="expected shard 1/2 .* content differ; make it again with") as caught:
        lifecycle.refresh(published, "a", ShardedWork(2, merge=True))
    assert assign_shard(published, "a", Shard(2, 2)) is not None
    run_advice(str(caught.value))
    lifecycle.refresh(published, "a", ShardedWork(2, merge=True))


def test_a_shard_of_a_retired_codebook_is_refused(tmp_path: Path) -> None:
    repo = built_repo(tmp_path)
    lifecycle.fit(repo, "a", SPEC, CUT)
    lifecycle.retire(repo, "a")
    with pytest.raises(LifeCycleError, match="codes are assigned by a fitted codebook only"):
        assign_shard(repo, "a", Shard(1, 2))


def test_a_killed_worker_is_named_and_only_its_shard_is_made_again(tmp_path: Path) -> None:
    repo = build(built_repo(tmp_path))
    lifecycle.fit(repo, "a", SPEC, CUT)
    publish = ("codebooks", "publish", "a", "--shards", "2", "--repo", repo.path)
    died = forked_sidkit(*publish, cwd=tmp_path, expect=1, PYTHONPATH=killing(tmp_path / "site", "2/2"))
    assert "expected 2 workers to finish, but those of these shards did not: 2/2 (exit code -9)" in died.stderr
    assert not table_path(repo, "a").exists()
    finished = {
        path.name: path.stat().st_mtime_ns for path in (repo.data / "tmp" / "shards" / "codes-a").glob("[0-9]*")
    }
    assert set(finished) == {"1-of-2"}
    assert assign_shard(repo, "a", Shard(1, 2)) is None
    assert "sidkit codebooks assign a" in died.stderr

    again = forked_sidkit(*publish, cwd=tmp_path)
    assert again.stderr.count("was finished before") == 0
    assert not (repo.data / "tmp" / "shards" / "codes-a").exists()
    sharded = without_moment(repo)
    forget_codes(repo)
    lifecycle.refresh(repo, "a")
    assert without_moment(repo) == sharded
    assert online(repo, "a", ["i003", *BARE])["i003"] is not None
