"""Rankers as MLflow runs, through Feast's integration; the messages need no MLflow."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import sidkit
from conftest import MLFLOW_ABSENT
from helpers.builders import FinishedJob
from helpers.commands import ask
from helpers.served_builders import own_copy
from ranking.pipeline.mlflow_log import log_rankers_if_enabled
from semantic_ids.catalog import Catalog
from sidkit.core.errors import SidkitWarning
from sidkit.core.repo import Repo

HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None
REASON = f"{MLFLOW_ABSENT}: pip install mlflow-skinny"


@pytest.fixture
def repo(finished: FinishedJob, tmp_path: Path) -> Repo:
    return own_copy(finished.repo, tmp_path / "repo")


def enable(repo: Repo, uri: str) -> str:
    """Let ``feature_store.yaml`` name a tracking server; returns the serving ranker."""
    path = repo.path / "feature_store.yaml"
    path.write_text(f"{path.read_text()}\nmlflow:\n  enabled: true\n  tracking_uri: {uri}\n")
    return Catalog.open(repo).serving_ranker().name


def test_what_is_missing_is_named(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Catalog.open(repo).serving_ranker().name
    off = ask("ranker", "log", name, "--repo", repo.path)
    assert off.code == 1 and "mlflow: {enabled: true" in off.err
    log_rankers_if_enabled(repo, [name])  # nothing to do, and no warning
    enable(repo, "http://127.0.0.1:9")
    monkeypatch.setattr("sidkit.core.extras._installed", lambda module: module != "mlflow")
    missing = ask("ranker", "log", name, "--repo", repo.path)
    assert missing.code == 1 and "pip install 'sidkit[mlflow]'" in missing.err
    with pytest.warns(SidkitWarning, match=rf"sidkit ranker log {name}"):
        log_rankers_if_enabled(repo, [name, "another"])


@pytest.mark.skipif(not HAS_MLFLOW, reason=REASON)
def test_a_ranker_is_one_run_with_its_artefact_and_features(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    name = enable(repo, (tmp_path / "mlruns").as_uri())
    project = sidkit.open(repo.path)
    run_id = project.log_ranker(name)
    assert project.log_ranker(name) == run_id, "a second time changes nothing"
    record = Catalog.open(repo).ranker(name)
    client = project.store().mlflow.client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == name
    assert run.data.tags["feast.feature_service"] == record.service
    assert run.data.tags["sidkit.ranker_hash"] == record.content_hash and run.data.params["arm"] == record.arm
    assert 0 < run.data.metrics["validation_auc"] < 1
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    assert "item_stats:clicks_7d" in json.loads((folder / "feast_features.json").read_text())
    kept = repo.rankers / name
    assert {path.name for path in (folder / "ranker").iterdir()} == {path.name for path in kept.iterdir()}
