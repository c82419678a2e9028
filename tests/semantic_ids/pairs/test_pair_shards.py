"""Pairs mined in shards of users are those of one process, row for row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sidkit
from helpers.builders import DAY, START, forked_sidkit
from helpers.codebook_builders import AS_OF, CUT, ITEMS, bring, built_repo
from helpers.killed_workers import killing, run_advice
from helpers.places import PRESETS
from oracle.features import Event
from semantic_ids.fit_pairs import known_at, mine_shard, pairs_of_fit
from semantic_ids.fitting import CodebookSpec
from semantic_ids.pairs.mining import ItemPairs, PairSpec
from sidkit.core.errors import ArtifactMissingError, ConfigError, ProcessesError
from sidkit.core.repo import Repo
from sidkit.core.shards import Shard, ShardedWork

PRESET = PRESETS / "tiny_saviorrec.toml"
LEARNS = CodebookSpec(encoder="behaviour")
SPEC = PairSpec(rehearsal=0.3, targets_per_item=8, swing_users_per_item=9, swing_top=4, pairs_per_target=3)


def random_clicks(seed: int, rows: int = 500, users: int = 25) -> list[Event]:
    rng = np.random.default_rng(seed)
    names, items = rng.integers(users, size=rows), (14 * rng.random(rows) ** 2).astype(int)
    times = START + 8 * DAY + rng.integers(0, 300, rows) * DAY // 30
    return [
        Event(f"u{user}ö", list(ITEMS)[item], int(time), 1)
        for user, item, time in zip(names, items, times, strict=True)
    ]


def same(one: ItemPairs, other: ItemPairs) -> None:
    for name in ("trigger", "target", "weight", "clicks"):
        mine, others = getattr(one, name), getattr(other, name)
        assert mine.dtype == others.dtype
        np.testing.assert_array_equal(mine, others)
    assert one.mark() == other.mark(), "the backtest split too"


@pytest.mark.parametrize("of", range(1, 8))
def test_the_sum_of_the_shards_is_the_single_run(tmp_path: Path, of: int) -> None:
    repo = built_repo(tmp_path, clicks=random_clicks(of))
    for spec in (SPEC, PairSpec(sources=("swing",)), PairSpec(sources=("user_to_item",))) if of < 4 else (SPEC,):
        end_us, known = known_at(repo, CUT)
        single = pairs_of_fit(repo, "a", known, end_us, spec)
        assert len(single) > 20
        assert (single.backtest is not None) == bool(spec.rehearsal)
        for number in range(1, of + 1):
            assert mine_shard(repo, "a", LEARNS, spec, Shard(number, of), CUT)
        same(pairs_of_fit(repo, "a", known, end_us, spec, ShardedWork(of, merge=True)), single)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return built_repo(tmp_path_factory.mktemp("pairs"), clicks=random_clicks(0))


def test_a_missing_shard_is_refused_and_the_named_command_makes_it(repo: Repo) -> None:
    project = sidkit.open(repo.path)
    assert project.mine_shard("a", "1/2", str(PRESET), fit_end="2020-01-21T00:00:00Z")
    assert not project.mine_shard("a", "1/2", str(PRESET), fit_end="2020-01-21T00:00:00Z")
    with pytest.raises(
        ArtifactMissingError, match="2/2 missing; make them with `sidkit codebooks pairs a --preset"
    ) as caught:
        project.fit("a", str(PRESET), fit_end="2020-01-21T00:00:00Z", force=True, shards=2, merge=True)
    run_advice(str(caught.value))
    sharded = project.fit("a", str(PRESET), fit_end="2020-01-21T00:00:00Z", force=True, shards=2, merge=True)
    assert not (repo.data / "tmp" / "shards" / "pairs-a").exists()
    single = project.fit("b", str(PRESET), fit_end="2020-01-21T00:00:00Z", force=True)
    assert sharded.content_hash == single.content_hash


def test_shards_of_another_cut_off_or_log_never_merge(repo: Repo) -> None:
    _, known = known_at(repo, CUT)
    for number in (1, 2):
        mine_shard(repo, "c", LEARNS, SPEC, Shard(number, 2), CUT)
    with pytest.raises(ProcessesError, match="expected shard 1/2 .* cut-off differ"):
        pairs_of_fit(repo, "c", known, CUT - DAY, SPEC, ShardedWork(2, merge=True))
    bring(repo, ITEMS, AS_OF, clicks=random_clicks(9))
    with pytest.raises(ProcessesError, match="expected shard 1/2 .* log differ"):
        pairs_of_fit(repo, "c", known, CUT, SPEC, ShardedWork(2, merge=True))


def test_a_preset_without_pairs_needs_no_shards(repo: Repo) -> None:
    project = sidkit.open(repo.path)
    with pytest.raises(ConfigError, match="expected a codebook that learns from pairs of items, got encoder 'content'"):
        project.fit("d", "rqkmeans", shards=2)
    with pytest.raises(ConfigError, match="leave out --shards, or use a preset such as saviorrec"):
        project.mine_shard("d", "1/2", "rqkmeans")


def test_a_killed_worker_is_named_and_only_its_shard_is_made_again(tmp_path: Path) -> None:
    repo = built_repo(tmp_path, clicks=random_clicks(1))
    fit = ("codebooks", "fit", "a", "--preset", PRESET, "--force", "--shards", "2", "--repo", repo.path)
    died = forked_sidkit(*fit, cwd=tmp_path, expect=1, PYTHONPATH=killing(tmp_path / "site", "1/2"))
    assert "expected 2 workers to finish, but those of these shards did not: 1/2 (exit code -9)" in died.stderr
    assert [path.name for path in (repo.data / "tmp" / "shards" / "pairs-a").glob("[0-9]*")] == ["2-of-2"]
    project = sidkit.open(repo.path)
    assert not project.mine_shard("a", "2/2", str(PRESET))
    assert project.mine_shard("a", "1/2", str(PRESET))
    assert project.fit("a", str(PRESET), force=True, shards=2, merge=True).state == "fitted"
