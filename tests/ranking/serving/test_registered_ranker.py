"""Rankers of a user's own: registered, verified, served and evaluated like the built-in ones."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sidkit
import sidkit.stores.feast_repo as feast_repo
from helpers import own_rankers
from helpers.builders import FinishedJob, copy_of, forked_sidkit
from helpers.commands import ask_well
from ranking import TorchInputs
from ranking.audit.artifacts import audit_artifacts
from ranking.data.project_dataset import ProjectDataset
from ranking.training.registered_ranker import RegisteredRanker
from semantic_ids.catalog import Catalog
from sidkit.api import Project
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import from_us
from sidkit.core.errors import (
    ArtifactCorruptError,
    ConfigError,
    LeakageError,
    LifeCycleError,
    PluginChangedError,
    PluginError,
)

SERVICE_FEATURES = feast_repo.service_features


@pytest.fixture(scope="module")
def project(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of a finished repository; tests register rankers of different names in it."""
    return sidkit.open(copy_of(finished.repo, tmp_path_factory.mktemp("registered") / "repo").path)


@pytest.fixture(scope="module")
def train(project: Project) -> ProjectDataset:
    return project.dataset(project.rows("train").head(1500))


@pytest.fixture(scope="module")
def linear(train: ProjectDataset) -> own_rankers.Linear:
    return own_rankers.Linear.fit(train)


@pytest.fixture(scope="module")
def registered(project: Project, train: ProjectDataset, linear: own_rankers.Linear) -> str:
    return project.register_ranker("linear", linear, trained_on=train).name


@pytest.fixture(scope="module")
def as_of(finished: FinishedJob) -> str:
    return from_us(finished.result.as_of_us).isoformat()


def request_rows(project: Project, as_of: str) -> pd.DataFrame:
    rows = project.rows("test")
    items = rows["item_id"].drop_duplicates().head(8)
    user = rows["user_id"].iloc[0]
    return pd.DataFrame({"user_id": user, "item_id": items.to_list(), "event_timestamp": pd.Timestamp(as_of)})


def test_a_scikit_learn_ranker_scores_online_as_offline(
    project: Project, registered: str, linear: own_rankers.Linear, train: ProjectDataset, as_of: str
) -> None:
    rows = request_rows(project, as_of)
    expected = linear.score(project.dataset(rows, rate=train.rate))
    scores = project.scorer(ranker=registered).score(rows["user_id"][0], rows["item_id"].to_list(), as_of)
    np.testing.assert_allclose(scores["score"], expected, atol=1e-6)
    assert scores.attrs["ranker"] == registered


def test_a_torch_ranker_brings_its_scaling_and_vocabulary(project: Project, train: ProjectDataset, as_of: str) -> None:
    data = train.to_torch()
    model = own_rankers.Torch(data.inputs, data.sizes[0], len(data.numeric_names))
    project.register_ranker("torch", model, trained_on=[train])
    rows = request_rows(project, as_of)
    scores = project.scorer("torch").score(rows["user_id"][0], rows["item_id"].to_list(), as_of)
    expected = model.score(project.dataset(rows, rate=train.rate))
    np.testing.assert_allclose(scores["score"], expected, atol=1e-6)


def test_inputs_are_read_as_they_were_written(train: ProjectDataset, tmp_path: Path) -> None:
    inputs = train.to_torch().inputs
    inputs.save(tmp_path / "inputs.parquet")
    assert TorchInputs.load(tmp_path / "inputs.parquet") == inputs
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        TorchInputs.load(tmp_path / "missing.parquet")


def test_the_record_states_codebook_window_and_class(project: Project, registered: str, train: ProjectDataset) -> None:
    record = Catalog.open(project.repo).ranker(registered)
    assert (record.state, record.arm, record.codebook) == ("fitted", "Linear", train.codebook.name)
    assert record.fit_end_us == max(int(train.data.rows.at_us.max()) + 1, train.codebook.fit_end_us)
    manifest = read_manifest(project.repo.rankers / registered)
    assert manifest["plugins"][0]["reference"].startswith("own_rankers.py:Linear@")
    assert manifest["feature_settings"] == project.settings.feature_settings()


def test_commands_score_evaluate_and_promote_it(
    project: Project, registered: str, as_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = request_rows(project, as_of)
    asked = ("--repo", project.path, "--user", rows["user_id"][0], "--items", rows["item_id"][0], "--at", as_of)
    assert rows["item_id"][0] in ask_well("score", "--ranker", registered, *asked).out
    assert registered in ask_well("ranker", "list", "--repo", project.path).out
    assert "AUC" in ask_well("ranker", "evaluate", registered, "--repo", project.path).out
    before = Catalog.open(project.repo).serving_ranker().name
    ask_well("ranker", "promote", registered, "--repo", project.path)
    assert project.scorer().record.name == registered
    project.promote_ranker(before)


def test_the_audit_finds_nothing_wrong_with_it(project: Project, registered: str) -> None:
    assert not [problem for problem in audit_artifacts(project.repo).problems if problem.artifact == registered]


def test_it_is_not_evaluated_on_rows_that_it_has_seen(project: Project, registered: str, train: ProjectDataset) -> None:
    with pytest.raises(LeakageError, match=registered):
        project.evaluate(registered, since=from_us(int(train.data.rows.at_us.min())))


def test_it_is_served_without_the_file_of_its_class(
    project: Project, train: ProjectDataset, as_of: str, tmp_path: Path
) -> None:
    file = tmp_path / "moved.py"
    shutil.copy(own_rankers.__file__, file)
    spec = importlib.util.spec_from_file_location("moved", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["moved"] = module
    spec.loader.exec_module(module)
    project.register_ranker("moved", module.Linear.fit(train), trained_on=train)
    file.unlink()
    rows = request_rows(project, as_of)
    asked = ("--user", rows["user_id"][0], "--items", rows["item_id"][0], "--at", as_of)
    done = forked_sidkit("score", "--repo", project.path, "--ranker", "moved", *asked, cwd=tmp_path)
    assert rows["item_id"][0] in done.stdout


def test_changed_files_are_refused_before_they_are_read(project: Project, registered: str, tmp_path: Path) -> None:
    record = Catalog.open(project.repo).codebook(Catalog.open(project.repo).ranker(registered).codebook)
    source, model = tmp_path / "source", tmp_path / "model"
    for folder in (source, model):
        shutil.copytree(project.repo.rankers / registered, folder)
    (path,) = (source / "plugins").iterdir()
    path.write_text("raise SystemExit('executed')\n")
    with pytest.raises(PluginChangedError):
        RegisteredRanker.load(source, record)
    (model / "model" / "model.npz").write_bytes(b"changed")
    with pytest.raises(ArtifactCorruptError, match=r"model\.npz"):
        RegisteredRanker.load(model, record)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (own_rankers.Forgetful, "expected Forgetful.load to restore the model, but its scores differ by up to"),
        (own_rankers.Unsaved, "Unsaved.save wrote no file; write everything"),
        (own_rankers.Broken, r"Broken.load\(.*\) raised KeyError: 'weights'; it must read what save wrote"),
        (own_rankers.Logits, "probabilities from 0 to 1, got 3 to 3; apply the sigmoid"),
        (own_rankers.TwoColumns, r"got the shape \(200, 2\); return one probability per row"),
        (own_rankers.Ranks, "expected Ranks.score to score each row on its own, but scores change by up to"),
        (
            own_rankers.Outer.Inner,
            "Outer.Inner is not at the top level of an imported module; write the class in a file",
        ),
    ],
)
def test_a_class_that_cannot_be_served_is_refused(
    kind: type[own_rankers.Linear], message: str, project: Project, train: ProjectDataset, linear: own_rankers.Linear
) -> None:
    with pytest.raises(PluginError, match=message):
        project.register_ranker("refused", kind(linear.weights, linear.bias), trained_on=train)
    assert not (project.repo.rankers / "refused").exists()


def test_other_models_names_and_rows_are_refused(
    project: Project, registered: str, train: ProjectDataset, linear: own_rankers.Linear
) -> None:
    with pytest.raises(PluginError, match="derives from ranking.ExternalRanker, got a dict; wrap the model"):
        project.register_ranker("new", {}, trained_on=train)  # type: ignore[arg-type]
    with pytest.raises(LifeCycleError, match="never overwritten; register it under a new name"):
        project.register_ranker(registered, linear, trained_on=train)
    with pytest.raises(ConfigError, match="cannot name a ranker"):
        project.register_ranker("../linear", linear, trained_on=train)
    unlabelled = project.dataset(project.rows("train").head(3).drop(columns="label"))
    for parts in ([], unlabelled):
        with pytest.raises(ConfigError, match="expected trained_on= with the labelled rows"):
            project.register_ranker("new", linear, trained_on=parts)
    other = project.dataset(project.rows("train").head(3), rate=0.5)
    with pytest.raises(ConfigError, match="with one codebook and one rate, got .* with rate 0.5"):
        project.register_ranker("new", linear, trained_on=[train, other])


def test_a_class_of_a_script_is_refused(
    project: Project, train: ProjectDataset, linear: own_rankers.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_rankers.Linear, "__module__", "__main__")  # executing its file would train again
    with pytest.raises(PluginError, match="Linear is not at the top level of an imported module"):
        project.register_ranker("script", linear, trained_on=train)


def test_a_feature_that_no_ranker_reads_may_leave_the_service(
    project: Project, train: ProjectDataset, linear: own_rankers.Linear, as_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            feast_repo,
            "service_features",
            lambda *given, **how: {**SERVICE_FEATURES(*given, **how), "item_sid__assigned_at_us": "Int64"},
        )
        project.register_ranker("earlier", linear, trained_on=train)
    rows = request_rows(project, as_of)
    assert len(project.scorer("earlier").score(rows["user_id"][0], rows["item_id"].to_list(), as_of)) == len(rows)


def test_a_lost_record_is_recreated_from_the_files(project: Project, registered: str, tmp_path: Path) -> None:
    copied = copy_of(project.repo, tmp_path / "repo")
    before = Catalog.open(copied).ranker(registered)
    catalog = copied.data / "catalog.sqlite"
    catalog.unlink()
    sidkit.open(copied.path).repair_catalog()
    after = Catalog.open(copied).ranker(registered)
    assert (after.content_hash, after.fit_end_us, after.arm) == (before.content_hash, before.fit_end_us, before.arm)
