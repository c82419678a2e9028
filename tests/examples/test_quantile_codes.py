"""The example of ``examples/``: a data set, a quantizer and a representation of one's own, from the log to a score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.builders import FinishedJob, forked_sidkit, run_fast_job
from helpers.places import EXAMPLES
from ranking.training.ranker import Ranker
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import PluginChangedError


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """A finished run on a copy of the example, which is then removed."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(EXAMPLES, folder / "examples")
    own = folder / "examples"
    done = run_fast_job(folder / "repo", own / "quantile_codes.toml", f"{own / 'toy_world.py'}:ToyWorld", 3000)
    shutil.rmtree(own)
    return done


def test_the_run_trains_and_serves_the_arm_of_ones_own(job: FinishedJob) -> None:
    assert {arm["arm"] for arm in job.output["arms"]} == {"id", "ordinal"}
    assert job.result.ranker.split("_s0_")[0].endswith("_ordinal")
    assert job.result.stages[0].name == "dataset"
    manifest = read_manifest(job.repo.rankers / job.result.ranker)
    (stated,) = manifest["plugins"]
    assert stated["reference"].startswith("quantile_codes.py:OrdinalCodes@")
    assert json.loads((job.repo.data / "dataset.json").read_text())["plugin"]["reference"].startswith(
        "toy_world.py:ToyWorld"
    )


def test_it_is_scored_from_another_folder_without_the_files_that_made_it(job: FinishedJob, tmp_path: Path) -> None:
    asked = (
        "score",
        "--repo",
        job.repo.path,
        "--user",
        "u1",
        "--items",
        "i1,i2,i3",
        "--at",
        "2024-02-01T00:00:00Z",
        "--json",
    )
    scores = json.loads(forked_sidkit(*asked, cwd=tmp_path).stdout)["scores"]
    assert set(scores) == {"i1", "i2", "i3"}
    assert len(set(scores.values())) > 1


def test_a_ranker_whose_plug_in_changed_is_refused(job: FinishedJob, tmp_path: Path) -> None:
    folder = tmp_path / "ranker"
    shutil.copytree(job.repo.rankers / job.result.ranker, folder)
    (stated,) = read_manifest(folder)["plugins"]
    Ranker.load(folder)
    (folder / stated["file"]).write_text("raise SystemExit\n")
    with pytest.raises(PluginChangedError, match=f"expected {stated['sha256']}, got"):
        Ranker.load(folder)
