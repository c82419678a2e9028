"""`sidkit ranker train` in two processes: one of them killed, started again, and reused by `sidkit run`."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from helpers.builders import FAST_PRESET, SIDKIT, few_trees, one_thread
from helpers.training_processes import torchrun, two_forks
from ranking.pipeline.arm_stages import ArmStages
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.pipeline.run import run_preset
from ranking.pipeline.train import train_preset
from sidkit.core.errors import ConfigError
from sidkit.core.progress import SILENT, Progress, StageDone
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages

WITH_GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
IMPRESSIONS = 6000


def command(repo: Path, preset: Path) -> list[str]:
    given = ["ranker", "train", "--data", "synthetic", "--impressions", str(IMPRESSIONS), "--arm", "id", "--json"]
    return [*given, "--repo", str(repo), "--preset", str(preset)]


@pytest.mark.skipif(not WITH_GLOO, reason="gloo absent: torch cannot train in several processes")
def test_all_processes_end_with_a_killed_one_and_the_same_command_goes_on(tmp_path: Path) -> None:
    preset = tmp_path / "longer.toml"
    preset.write_text(
        FAST_PRESET.read_text().replace("epochs = 2", "epochs = 15").replace("patience = 2", "patience = 15")
    )
    two, one = tmp_path / "two", tmp_path / "one"
    for path in (two, one):
        one_thread(prepare_repo("synthetic", path))
    running = two_forks(tmp_path, SIDKIT, *command(two, preset))
    while running.processes[1].poll() is None and not list(two.glob("artifacts/rankers/.checkpoint-*")):
        time.sleep(0.05)
    running.processes[1].kill()
    (status, killed), (said, _) = running.ended()
    assert killed == -signal.SIGKILL
    assert status == 1
    assert "sidkit: expected an answer of every training process, but one stopped" in said
    assert not list(two.glob("artifacts/rankers/*/manifest.json"))
    assert list(two.glob("artifacts/rankers/.checkpoint-*"))

    done = torchrun("-m", "sidkit", *command(two, preset))
    assert done.returncode == 0, done.stderr
    (trained,) = json.loads(done.stdout)
    assert f"train:{trained['arm']}:s0" in done.stderr

    alone = train_preset(one, "synthetic", str(preset), arms=["id"], impressions=IMPRESSIONS)
    assert alone is not None
    assert trained["ranker"] == alone["id"][0].ranker, "its name does not depend on the number of processes"
    assert trained["validation_auc"] == pytest.approx(alone["id"][0].validation_auc, abs=1e-3)
    assert reused_by_run(two, preset) == {"train:id:s0"}


def reused_by_run(repo: Path, preset: Path) -> set[str]:
    """Stages of training that `sidkit run` takes over."""
    finished: list[StageDone] = []

    class Noted(Progress):
        def stage_finished(self, done: StageDone) -> None:
            finished.append(done)

    with few_trees():
        run_preset(Repo.open(repo), "synthetic", str(preset), impressions=IMPRESSIONS, progress=Noted())
    return {each.name for each in finished if each.reused and each.name.startswith("train:")}


def test_run_refuses_torchrun_and_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="expected `sidkit run` in one process, got 2.*-m sidkit ranker train`"):
        run_preset(tmp_path / "repo", "synthetic", "rqkmeans")
    assert not (tmp_path / "repo").exists()


def test_an_arm_that_the_preset_lacks_is_refused(tmp_path: Path) -> None:
    nothing, preset = cast("Any", None), load_preset(str(FAST_PRESET))
    arms = ArmStages(nothing, Stages(tmp_path / "stages.json"), tmp_path, preset, 1, "codes", nothing, SILENT)
    with pytest.raises(ConfigError, match="expected arms of the preset .*id.*, got idd; correct the name"):
        arms.train([], ["idd"])
