"""A frozen ranker is adapted to the newest rows, serves, scores online as offline, and gives way again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import sidkit
from helpers.builders import FinishedJob, copy_of, forked_sidkit, run_fast_job
from helpers.places import ROOT
from ranking.audit.artifacts import audit_artifacts
from ranking.data.dataset import Dataset, LabelledRows, read_rows
from ranking.data.frame_builder import build_dataset
from ranking.pipeline.feature_importance import IMPORTANCE, read_importance
from ranking.serving.golden import check_golden
from ranking.serving.scorer import Scorer
from ranking.training.adapted_ranker import AdaptedRanker
from ranking.training.adapters.base import AdapterRows
from ranking.training.blend_ranker import BlendRanker
from ranking.training.load_ranker import load_trained
from ranking.training.mixing import logits, probabilities
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso, parse_time
from sidkit.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ConfigError,
    FitError,
    LeakageError,
    SidkitError,
)
from sidkit.core.files import read_json, write_json
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import open_store

PRESET = ROOT / "tests" / "presets" / "adapters.toml"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    job = run_fast_job(tmp_path_factory.mktemp("adapters") / "repo", PRESET, impressions=12_000)
    Catalog.open(job.repo).set_ranker_state(frozen_name(job.repo, "id_content_bias"), "serving")
    return job


@pytest.fixture
def repo(job: FinishedJob, tmp_path: Path) -> Repo:
    return copy_of(job.repo, tmp_path / "repo")


def features(repo: Repo, ranker: AdaptedRanker, rows: LabelledRows) -> Dataset:
    record = Catalog.open(repo).codebook(ranker.config.codebook)
    return build_dataset(
        open_store(repo), ranker.config.service, Codebook.load(repo.codebooks / record.name), rows,
        rate=ranker.smoothing_rate, history_length=ranker.config.history_length, schema=ranker.config.schema,
    )  # fmt: skip


def request_of(repo: Repo, at_us: int, user: str, count: int = 40) -> LabelledRows:
    items = pq.read_table(repo.tables / "item_content.parquet", columns=["item_id"])["item_id"].unique().to_pylist()
    asked = [*items[:count], "nothing"]
    return LabelledRows(
        np.array([user] * len(asked), dtype=object), np.array(asked, dtype=object), np.full(len(asked), at_us),
        np.zeros(len(asked), np.int8),
    )  # fmt: skip


def users_of(repo: Repo) -> list[str]:
    return list(pq.read_table(repo.tables / "user_stats.parquet", columns=["user_id"])["user_id"].unique().to_pylist())


def frozen_name(repo: Repo, arm: str = "id_content") -> str:
    return next(record.name for record in Catalog.open(repo).rankers() if record.arm == arm)


def test_the_arm_that_serves_corrects_its_frozen_arm_and_records_it(job: FinishedJob) -> None:
    scorer = Scorer(job.repo)
    assert scorer.record.arm == "id_content_bias"
    assert isinstance(scorer.ranker, AdaptedRanker)
    manifest = read_manifest(job.repo.rankers / scorer.record.name)
    frozen = read_manifest(job.repo.rankers / frozen_name(job.repo))
    assert [parent["name"] for parent in manifest["parents"]] == [frozen["name"]]
    assert manifest["parents"][0]["content_hash"] == frozen["content_hash"]
    assert manifest["fit_end_us"] == frozen["fit_end_us"]
    assert frozen["fit_start_us"] < manifest["fit_start_us"] < manifest["fit_end_us"]
    assert audit_artifacts(job.repo).problems == ()
    assert job.result.rankers["gate_shuffled"] == (None,), "controls do not serve"
    of_blend = load_trained(job.repo.rankers / str(job.result.rankers["blend_bias"][0]))
    assert isinstance(of_blend, AdaptedRanker) and isinstance(of_blend.scorers[0], BlendRanker)


def test_a_served_arm_of_boosting_has_its_importance_once(job: FinishedJob) -> None:
    folder = job.repo.runs / PRESET.stem
    listed = read_importance(folder)
    assert "gbdt" in set(listed["arm"])
    assert not listed.duplicated(["arm", "feature", "slice"]).any()
    measured = listed[listed["arm"] == "gbdt"].to_dict("records")
    serving = {"arm": "gbdt", "importance": [{key: each[key] for key in each if key != "arm"} for each in measured]}
    held = read_json(folder / IMPORTANCE)
    try:  # as after a run that promotes boosting
        write_json(folder / IMPORTANCE, serving)
        again = read_importance(folder)
    finally:
        write_json(folder / IMPORTANCE, held)
    assert not again.duplicated(["arm", "feature", "slice"]).any()


@pytest.mark.parametrize("adapter", ["bias", "gate"])
@pytest.mark.parametrize("arm", ["id_content", "gbdt", "blend"])
def test_any_ranker_is_adapted_and_scores_online_as_offline(
    repo: Repo, job: FinishedJob, adapter: str, arm: str
) -> None:
    project = sidkit.open(repo.path)
    facts = project.adapt_ranker(adapter, arm=arm, days=5, promote=True)
    scorer = Scorer(repo)
    ranker = scorer.ranker
    assert isinstance(ranker, AdaptedRanker) and scorer.record.name == facts.name
    assert scorer.record.arm == f"{arm}_{adapter}"
    assert check_golden(repo, scorer) < 1e-9
    frozen = load_trained(repo.rankers / facts.scorer)
    for user in (users_of(repo)[0], "nobody"):
        asked = request_of(repo, job.result.as_of_us, user)
        data = features(repo, ranker, asked)
        before = frozen.score(data)
        expected = probabilities(ranker.adapter.logits(AdapterRows.of(data, logits(before))))
        found = scorer.score(user, asked.item_ids.tolist(), job.result.as_of_us)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert facts.fitted and len(set(np.round(found, 4))) > 10
        alone = ranker.score(data.take(np.array([3])))
        np.testing.assert_allclose(alone, ranker.score(data)[3:4], atol=1e-9)
    assert audit_artifacts(repo).problems == ()


def test_the_window_is_after_the_fit_and_labels_are_known_by_its_end(repo: Repo) -> None:
    project, catalog = sidkit.open(repo.path), Catalog.open(repo)
    frozen = catalog.ranker(frozen_name(repo))
    facts = project.adapt_ranker(days=1_000)
    rows = read_rows(repo.labelled_rows)
    delay = repo.settings.time.delay_us
    assert facts.scorer == frozen.name
    assert facts.fit_start == iso(frozen.fit_end_us)
    assert facts.rows == int((rows.at_us >= frozen.fit_end_us).sum())
    assert facts.fit_end == iso(int(rows.at_us.max()) + delay)
    end = frozen.fit_end_us + 86_400_000_000
    half = project.adapt_ranker(days=1_000, until=iso(end), promote=False)
    assert half.rows == int(((rows.at_us >= frozen.fit_end_us) & (rows.at_us + delay <= end)).sum())
    assert catalog.ranker(half.name).fit_end_us == end
    # Later rows evaluate it, and earlier ones are refused.
    assert project.evaluate(half.name).given.start == iso(end)
    with pytest.raises(LeakageError, match=half.name):
        project.evaluate(half.name, since=iso(frozen.fit_end_us))
    with pytest.raises(LeakageError, match=r"`sidkit tables rows`"):
        project.adapt_ranker(until=iso(frozen.fit_end_us), promote=False)


def test_fitting_again_gives_the_same_ranker_and_an_adapted_one_is_not_adapted(repo: Repo) -> None:
    project = sidkit.open(repo.path)
    first = project.adapt_ranker(days=3)
    before = Catalog.open(repo).rankers()
    again = project.adapt_ranker(days=3)
    assert first.serving and again.serving and again.before is None
    assert again.name == first.name and again.scorer == frozen_name(repo)
    assert Catalog.open(repo).rankers() == before
    named = project.adapt_ranker(ranker=first.name, days=3, promote=False)
    assert named.scorer == frozen_name(repo)


def test_a_command_that_was_killed_between_files_and_catalogue_is_repeated(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artefact is one rename, and the catalogue commits last."""
    project, serving = sidkit.open(repo.path), Catalog.open(repo).serving_ranker().name

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("add_ranker", "set_ranker_state"):
        with monkeypatch.context() as patched:
            patched.setattr(Catalog, step, killed)
            with pytest.raises(KeyboardInterrupt):
                project.adapt_ranker(days=3)
        assert Catalog.open(repo).serving_ranker().name == serving
    facts = project.adapt_ranker(days=3)
    assert Catalog.open(repo).serving_ranker().name == facts.name
    assert audit_artifacts(repo).problems == ()


def test_the_command_promotes_and_says_how_to_go_back(repo: Repo) -> None:
    before = Catalog.open(repo).serving_ranker().name
    actual = json.loads(
        forked_sidkit(
            "ranker", "adapt", "--repo", repo.path, "--days", 3, "--arm", "id_content", "--json", cwd=repo.path
        ).stdout
    )
    assert actual["serving"] and actual["before"] == before and actual["adapter"] == "bias"
    assert parse_time(actual["fit_start"]) < parse_time(actual["fit_end"])
    said = forked_sidkit("ranker", "adapt", "--repo", repo.path, "--days", 2, "--adapter", "gate", cwd=repo.path)
    back = f"sidkit ranker promote {actual['name']}"
    assert f"go back with `{back}`" in said.stderr + said.stdout
    forked_sidkit(*back.split()[1:], "--repo", repo.path, cwd=repo.path)
    assert Catalog.open(repo).serving_ranker().name == actual["name"]


def test_a_scorer_that_changed_or_is_gone_is_noticed(repo: Repo) -> None:
    facts = sidkit.open(repo.path).adapt_ranker(days=3)
    folder, frozen = repo.rankers / facts.name, repo.rankers / facts.scorer
    other = next(
        each for each in repo.rankers.iterdir() if each.is_dir() and each.name not in {folder.name, frozen.name}
    )
    kept = frozen.with_name("kept")
    frozen.rename(kept)
    with pytest.raises(ArtifactMissingError, match=f"{frozen.name} does not exist, which {folder.name} corrects"):
        load_trained(folder)
    shutil.copytree(other, frozen)
    with pytest.raises(ArtifactCorruptError, match=r"fit the adapter again with `sidkit ranker adapt`"):
        load_trained(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adapter": "tilt"}, "no adapter named 'tilt'; available: bias, gate"),
        ({"arm": "gone"}, "no arm with a ranker named 'gone'; available: blend, gbdt, id_content"),
        ({"days": 0.0}, "expected a number of days above 0, got 0; one day is usual"),
        ({"arm": "id_content", "ranker": "x"}, "expected a ranker or an arm"),
        ({"other": "SERVING"}, "expected one ranker for the adapter 'bias', got a second one"),
    ],
)
def test_what_cannot_be_adapted_is_refused(job: FinishedJob, options: dict[str, object], said: str) -> None:
    serving = Catalog.open(job.repo).serving_ranker().name
    given = {name: serving if value == "SERVING" else value for name, value in options.items()}
    with pytest.raises(SidkitError, match=said):
        sidkit.open(job.repo.path).adapt_ranker(**given)  # type: ignore[arg-type]


def test_new_items_get_rows_of_the_frozen_id_table_and_known_ones_keep_theirs(repo: Repo, job: FinishedJob) -> None:
    project, frozen = sidkit.open(repo.path), frozen_name(repo)
    facts = project.adapt_ranker(days=5, reindex=True, promote=True)
    plain = load_trained(repo.rankers / frozen)
    assert isinstance(plain, Ranker)
    held = repo.rankers / facts.name / "reindexed.parquet"
    assert facts.fitted["error"] <= 1.0
    assert held.exists() == (facts.fitted["new_items"] > 0)
    ranker = Scorer(repo).ranker
    assert isinstance(ranker, AdaptedRanker)
    assert ranker.vocabulary.size == plain.vocabulary.size + facts.fitted["new_items"]
    asked = request_of(repo, job.result.as_of_us, "nobody", 4_000)
    data = features(repo, ranker, asked)
    expected = ranker.score(data)
    np.testing.assert_allclose(
        Scorer(repo).score("nobody", asked.item_ids.tolist(), job.result.as_of_us), expected, atol=1e-6
    )
    known = plain.vocabulary.numbers(asked.item_ids) > 1
    np.testing.assert_array_equal(ranker.scorers[0].score(data)[known], plain.score(data)[known])
    assert audit_artifacts(repo).problems == ()
    assert check_golden(repo, Scorer(repo)) < 1e-9
    with pytest.raises(FitError, match="expected a neural ranker with the representation id"):
        project.adapt_ranker(arm="gbdt", reindex=True)


def test_rows_that_are_predicted_well_are_added(repo: Repo, job: FinishedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id table of a short run follows little from content; one that does is extended, saved and loaded."""
    import ranking.training.reindex as module

    fitted = module.reindex

    def trained(ranker: Ranker, known: np.ndarray, ids: np.ndarray, new: np.ndarray) -> module.Reindexed:
        mapped = np.random.default_rng(0).normal(size=(known.shape[1], ranker.config.model.dim))
        table = module.id_table(ranker)
        with torch.no_grad():
            before = table.weight.clone()
            table.weight[2:] = torch.from_numpy((known @ mapped).astype(np.float32))
            found = fitted(ranker, known, ids, new)
            table.weight.copy_(before)
        return found

    monkeypatch.setattr(module, "reindex", trained)
    facts = sidkit.open(repo.path).adapt_ranker(days=5, reindex=True, promote=True)
    assert facts.fitted["new_items"] > 0 and facts.fitted["error"] < 0.2
    scorer = Scorer(repo)
    assert isinstance(scorer.ranker, AdaptedRanker)
    new = pq.read_table(repo.rankers / facts.name / "reindexed.parquet").column("item_id").to_pylist()
    assert (scorer.ranker.vocabulary.numbers(np.array(new, dtype=object)) > 1).all()
    asked = [*new[:10], "nothing"]
    found = scorer.score("nobody", asked, job.result.as_of_us)
    plain = Scorer(repo, frozen_name(repo)).score("nobody", asked, job.result.as_of_us)
    assert (found[:-1] != plain[:-1]).all() and found[-1] == pytest.approx(plain[-1], abs=1e-9)


def test_a_gate_of_two_rankers_reads_both(repo: Repo) -> None:
    project, name = sidkit.open(repo.path), frozen_name(repo)
    facts = project.adapt_ranker("gate", ranker=name, other=name, days=5, promote=True)
    assert facts.other == facts.scorer == name
    rows = request_of(repo, int(read_rows(repo.labelled_rows).at_us.max()), users_of(repo)[0])
    ranker = Scorer(repo).ranker
    assert isinstance(ranker, AdaptedRanker)
    data = features(repo, ranker, rows)
    np.testing.assert_allclose(ranker.score(data), load_trained(repo.rankers / name).score(data), atol=1e-9)


def test_rankers_that_read_other_items_or_codes_are_not_mixed(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    import ranking.serving.adapt as module

    name, load = frozen_name(repo), module.load_ranker
    loaded = iter(["content", "decoded"])

    def other_vectors(*arguments: object) -> object:
        ranker = load(*arguments)  # type: ignore[arg-type]
        ranker.config = dataclasses.replace(ranker.config, vectors=next(loaded))  # type: ignore[misc,type-var]
        return ranker

    monkeypatch.setattr(module, "load_ranker", other_vectors)
    with pytest.raises(ConfigError, match="expected a second ranker with the vectors of .*'content', got 'decoded'"):
        sidkit.open(repo.path).adapt_ranker("gate", ranker=name, other=name)
