"""The main job: its JSON, its resumption, its refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.builders import FAST_PRESET, FinishedJob, copy_of, dies, forked_sidkit, run_fast_job
from helpers.commands import ask_well
from helpers.kill_points import Points
from ranking.pipeline.prepare import prepare_repo
from semantic_ids.catalog import Catalog
from sidkit.core.errors import ConfigError, RepoLockedError
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages

PROOF = bool(os.environ.get("SIDKIT_PROOF"))
"""Kill at every stage; without it at every second one."""
STAGES = [
    "synthetic", "ingest", "rows", "tables", "codebook", "publish", "hit_rate", "frame", "control:shuffled",
    "train:id:s0", "train:content:s0", "train:id_codes:s0", "train:shuffled_codes:s0", "train:gbdt:s0", "train:blend:s0",
    "evaluate", "materialize", "importance",
]  # fmt: skip


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinishedJob]:
    """A preset of few rows and one epoch, and its job done undisturbed. Tests only read it."""
    folder = tmp_path_factory.mktemp("brief")
    text = FAST_PRESET.read_text()
    for old, new in (("epochs = 2", "epochs = 1"), ("max_train_rows = 15000", "max_train_rows = 2000")):
        assert old in text
        text = text.replace(old, new)
    (folder / "fast.toml").write_text(text)
    return folder / "fast.toml", brief_job(folder / "repo", folder / "fast.toml")


def brief_job(path: Path, preset: Path, data: str = "synthetic") -> FinishedJob:
    return run_fast_job(path, preset, data, impressions=8_000)


def test_the_json_object_has_the_stated_shape(finished: FinishedJob) -> None:
    told = finished.output
    assert set(told) == {
        "data", "preset", "codebook", "arms", "log", "rows", "stages", "warnings", "without_auc", "peak_rss_mb", "artifacts",
        "conclusions", "report", "target", "calibrated", "calibration", "codebook_window",
    }  # fmt: skip
    assert told["warnings"] == []
    assert told["log"]["new"] == told["stages"][1]["rows"]
    assert {name: told["log"][name] for name in ("changed", "removed", "vanished", "merged", "rejected")} == {
        "changed": 0, "removed": 0, "vanished": 0, "merged": {}, "rejected": {},
    }  # fmt: skip
    assert set(told["codebook"]) == {
        "name", "quantizer", "levels", "utilisation", "perplexity", "collision_rate", "hit_rate_30", "hit_rate_30_reason",
    }  # fmt: skip
    assert (
        len(told["codebook"]["utilisation"]) == len(told["codebook"]["perplexity"]) == told["codebook"]["levels"] == 3
    )
    assert [arm["arm"] for arm in told["arms"]] == ["id", "content", "id_codes", "shuffled_codes", "gbdt", "blend"]
    for arm in told["arms"]:
        assert set(arm) == {
            "arm", "auc", "gauc", "logloss", "auc_cold", "auc_warm", "rows", "rows_cold", "oracle_auc", "ceiling_auc",
        }  # fmt: skip
        assert 0.5 < arm["auc"] < arm["ceiling_auc"] < arm["oracle_auc"] < 1, arm
    assert [stage["name"] for stage in told["stages"]] == STAGES
    for stage in told["stages"]:
        assert set(stage) == {"name", "rows", "seconds"}
    assert all(Path(told["artifacts"][name]).exists() for name in ("repo", "codebook", "tables", "rejects", "verdict"))


def test_json_is_all_that_is_on_stdout_and_a_second_run_keeps_everything(
    finished: FinishedJob, tmp_path: Path, elsewhere: Path
) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    before = files_of(repo)
    done = forked_sidkit(
        "run", "--data", "synthetic", "--repo", repo.path, "--preset", FAST_PRESET, "--impressions", 24_000, "--json",
        cwd=elsewhere,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert [line.split()[0] for line in done.stderr.splitlines() if "rows" in line] == ["reused"] * len(STAGES)
    for name in ("codebook", "arms", "stages"):
        assert told[name] == finished.output[name]
    assert changed_files(before, repo) == set()


def test_killed_at_every_stage_and_run_again_it_ends_as_an_undisturbed_run(
    brief: tuple[Path, FinishedJob], tmp_path: Path
) -> None:
    preset, undisturbed = brief
    path = tmp_path / "repo"
    for stage in STAGES if PROOF else STAGES[::2]:
        before = files_of(Repo(path)) if path.exists() else {}
        dies(killed_at, path, preset, stage)
        changed = changed_files(before, Repo(path))
        allowed = {".sidkit.lock", "data/catalog.sqlite", "data/registry.sqlite"}
        allowed |= {f"data/online.sqlite{suffix}" for suffix in ("", "-wal", "-shm")}
        assert changed <= allowed, f"killed at {stage}, the next run touched what was finished: {changed}"
    resumed = brief_job(path, preset)
    assert same_result(resumed, undisturbed)
    for arm in ("id", "gbdt"):
        left, right = (
            pq.read_table(job.repo.runs / "fast" / "predictions" / f"{arm}-s0.parquet")
            for job in (resumed, undisturbed)
        )
        np.testing.assert_array_equal(left["probability"].to_numpy(), right["probability"].to_numpy())


def test_promoting_a_ranker_that_is_killed_before_or_after_its_commit_leaves_one_serving(
    finished: FinishedJob, tmp_path: Path
) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    before, other = (
        next(record.name for record in Catalog.open(repo).rankers() if (record.state == "serving") is serves)
        for serves in (True, False)
    )
    for point, serving in (("before commit catalog.sqlite", before), ("after commit catalog.sqlite", other)):
        dies(promotes_until_killed, repo.path, other, point)
        assert [record.name for record in Catalog.open(repo).rankers() if record.state == "serving"] == [serving]
        Catalog.open(repo).set_ranker_state(before, "serving")
    ask_well("ranker", "promote", other, "--repo", repo.path)
    assert Catalog.open(repo).serving_ranker().name == other


def test_the_same_seed_and_data_give_the_same_codes_and_scores(brief: tuple[Path, FinishedJob], tmp_path: Path) -> None:
    preset, first = brief
    again = brief_job(tmp_path / "repo", preset)
    assert same_result(again, first)
    tables = [
        pq.read_table(job.repo.tables / f"item_sid_{job.output['codebook']['name']}.parquet").drop_columns(
            "assigned_at_us"
        )
        for job in (again, first)
    ]
    assert tables[0].equals(tables[1])
    hashes = [
        {
            path.name: json.loads((path / "manifest.json").read_text())["content_hash"]
            for path in job.repo.rankers.iterdir()
        }
        for job in (again, first)
    ]
    assert hashes[0] == hashes[1]


def test_two_runs_at_once_on_one_repo_are_refused(finished: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    with repo.locked():
        done = forked_sidkit("run", "--data", "synthetic", "--repo", repo.path, cwd=tmp_path, expect=1)
        assert f"pid {os.getpid()}" in done.stderr
        assert "is locked by another sidkit command" in done.stderr
    with repo.locked(), pytest.raises(RepoLockedError), Repo.open(repo.path).locked():
        pass


def test_a_repo_of_other_data_is_refused(finished: FinishedJob, tmp_path: Path) -> None:
    source = finished.repo.settings.source.url
    repo = prepare_repo(source, tmp_path / "repo")
    assert prepare_repo(source, repo.path).path == repo.path
    with pytest.raises(ConfigError, match=r"was created for .* got .*use another --repo"):
        prepare_repo("synthetic", repo.path)


def test_new_rows_in_the_source_are_taken_up_and_old_versions_stay(
    brief: tuple[Path, FinishedJob], tmp_path: Path
) -> None:
    preset, finished = brief
    source = tmp_path / "source"
    source.mkdir()
    origin = Path(finished.repo.settings.source.url)
    log = pq.read_table(origin / "interactions.parquet")
    for name in ("items", "item_embeddings"):
        pq.write_table(pq.read_table(origin / f"{name}.parquet"), source / f"{name}.parquet")
    pq.write_table(log.slice(0, 6_000), source / "interactions.parquet")
    first = brief_job(tmp_path / "repo", preset, str(source))
    pq.write_table(log, source / "interactions.parquet")
    second = brief_job(tmp_path / "repo", preset, str(source))
    assert second.output["stages"][0]["rows"] == len(log)
    assert first.output["codebook"]["name"] != second.output["codebook"]["name"]
    for name in (first.output["codebook"]["name"], second.output["codebook"]["name"]):
        assert (second.repo.codebooks / name / "manifest.json").exists()
    assert second.output["arms"][0]["rows"] != first.output["arms"][0]["rows"]


def files_of(repo: Repo) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file of the finished stages."""
    recorded = repo.runs / "fast" / "stages.json"
    if not recorded.exists():
        return {}
    found: dict[str, tuple[int, int]] = {}
    for stage in json.loads(recorded.read_text())["stages"].values():
        for name in stage["files"]:
            path = (recorded.parent / name).resolve()
            for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
                if file.is_file():
                    stat = file.stat()
                    found[str(file.relative_to(repo.path.resolve()))] = (stat.st_ino, stat.st_mtime_ns)
    return found


def changed_files(before: dict[str, tuple[int, int]], repo: Repo) -> set[str]:
    now = files_of(repo)
    return {name for name, stat in before.items() if now.get(name) != stat}


def same_result(left: FinishedJob, right: FinishedJob) -> bool:
    assert left.output["codebook"] == right.output["codebook"]
    assert left.output["arms"] == right.output["arms"]
    return (
        Path(left.output["artifacts"]["serving_ranker"]).name == Path(right.output["artifacts"]["serving_ranker"]).name
    )


def promotes_until_killed(path: Path, name: str, point: str) -> None:
    from sidkit.cli import build_app

    Points(path, point).watch()
    build_app()(["ranker", "promote", name, "--repo", str(path)], standalone_mode=False)


def killed_at(path: Path, preset: Path, stage: str) -> None:
    """Run the job until a stage's work is done, and die before that is recorded."""
    original = Stages.run

    def run(self: Stages, name: str, inputs: Any, work: Callable[[], Any], *more: Any) -> Any:
        def dying() -> Any:
            work()
            os.kill(os.getpid(), signal.SIGKILL)

        return original(self, name, inputs, dying if name == stage else work, *more)

    Stages.run = run  # type: ignore[method-assign]
    brief_job(path, preset)
