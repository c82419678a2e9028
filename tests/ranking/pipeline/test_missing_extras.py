"""A missing package ends every entry with one line, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.builders import FinishedJob
from helpers.commands import ask
from ranking.experiments.comparison.compare import compare_arms
from ranking.experiments.evaluate import evaluate_ranker
from ranking.experiments.leakage import measure_leakage
from ranking.pipeline.run import run_preset
from ranking.serving.scorer import Scorer
from sidkit.cli.app import _refusal
from sidkit.core.errors import MissingExtraError

ENTRIES: dict[str, Callable[[Path], object]] = {
    "run": lambda folder: run_preset(folder, "synthetic", "rqkmeans"),
    "compare": lambda folder: compare_arms(folder, "synthetic", ["id"]),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("module", ["torch", "faiss", "safetensors"])
def test_nothing_is_written_without_an_extra(
    entry: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"not installed; run: pip install 'sidkit\[rank\]'"):
        ENTRIES[entry](tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_the_command_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    done = ask("run", "--data", "synthetic", "--repo", tmp_path / "repo")
    assert done.code == 1
    assert done.err == (
        "sidkit: this preset needs faiss-cpu, which is not installed; run: pip install 'sidkit[rank]'\n"
    )
    assert done.out == ""


def test_scoring_evaluating_and_measuring_leakage_name_torch(
    finished: FinishedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, ranker = finished.repo, str(finished.result.ranker)
    monkeypatch.setitem(sys.modules, "torch", None)
    for work in (
        lambda: Scorer(repo),
        lambda: evaluate_ranker(repo, ranker, repo.labelled_rows),
        lambda: measure_leakage(repo, finished.result.preset, ["gbdt"], 1),
    ):
        with pytest.raises(
            MissingExtraError, match=r"needs torch, which is not installed; run: pip install 'sidkit\[rank\]'"
        ):
            work()


def test_an_import_that_no_entry_checks_is_named_instead_of_a_traceback() -> None:
    error = _refusal(ModuleNotFoundError("No module named 'safetensors'", name="safetensors"))
    assert "safetensors, which is not installed; run: pip install 'sidkit[" in str(error)
    assert _refusal(ModuleNotFoundError("No module named 'ranking.none'", name="ranking.none")) is None
