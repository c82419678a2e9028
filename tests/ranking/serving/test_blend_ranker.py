"""A blend by counts is trained, registered and served: its scores online are those of its members offline."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.builders import FinishedJob, run_fast_job
from helpers.places import ROOT
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.disk_frame import DiskFrame
from ranking.data.frame_builder import build_dataset
from ranking.pipeline.presets import load_preset
from ranking.serving.scorer import Scorer
from ranking.training.blend_ranker import BlendRanker
from ranking.training.boosted_ranker import BoostedRanker
from ranking.training.count_gate import gate_features
from ranking.training.load_ranker import load_trained
from ranking.training.mixing import logits, probabilities
from ranking.training.predictions import read_predictions
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import ArtifactCorruptError, ConfigError
from sidkit.stores.feast_repo import open_store

PRESET = ROOT / "tests" / "presets" / "gates.toml"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    return run_fast_job(tmp_path_factory.mktemp("gates") / "repo", PRESET, impressions=12_000)


def request_rows(job: FinishedJob, ranker: BlendRanker, user: str, items: list[str]) -> Dataset:
    record = Catalog.open(job.repo).serving_ranker()
    rows = LabelledRows(
        np.array([user] * len(items), dtype=object), np.array(items, dtype=object),
        np.full(len(items), job.result.as_of_us), np.zeros(len(items), np.int8),
    )  # fmt: skip
    return build_dataset(
        open_store(job.repo), record.service, Codebook.load(job.repo.codebooks / record.codebook), rows,
        rate=ranker.smoothing_rate, history_length=ranker.config.history_length, schema=ranker.config.schema,
    )  # fmt: skip


def test_the_served_blend_scores_online_as_its_members_do_offline(job: FinishedJob) -> None:
    scorer = Scorer(job.repo)
    ranker = scorer.ranker
    assert isinstance(ranker, BlendRanker)
    assert scorer.record.arm == "blend_counts"
    members = ranker.members
    assert isinstance(members["gbdt"], BoostedRanker) and isinstance(members["id_content"], Ranker)
    users = pq.read_table(job.repo.tables / "user_stats.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    items = pq.read_table(job.repo.tables / "item_content.parquet", columns=["item_id"])["item_id"].unique().to_pylist()
    asked = [*items[:40], "nothing"]
    for user in (users[0], "nobody"):
        data = request_rows(job, ranker, user, asked)
        assert ranker.gate is not None
        share = ranker.gate.shares(gate_features(data))
        both = [logits(members[name].score(data)) for name in ("gbdt", "id_content")]
        expected = probabilities(share * both[0] + (1 - share) * both[1])
        np.testing.assert_allclose(scorer.score(user, asked, job.result.as_of_us), expected, atol=1e-6)
        assert len(set(np.round(expected, 4))) > 10


def test_its_scores_of_validation_rows_are_those_of_the_run(job: FinishedJob) -> None:
    """The saved gate and copies of the members give what the run measured."""
    ranker = Scorer(job.repo).ranker
    folder = job.repo.runs / PRESET.stem
    data = DiskFrame.load(folder / "frame").data
    kept = read_predictions(folder / "predictions" / "blend_counts-s0.parquet", "validation")
    scores = ranker.score(data)
    places = np.flatnonzero(np.isin(np.round(scores, 9), np.round(kept, 9)))
    assert len(places) >= len(kept)


def test_the_artefact_is_whole_without_its_members_and_verified(job: FinishedJob, tmp_path: Path) -> None:
    name = Catalog.open(job.repo).serving_ranker().name
    copy = tmp_path / name
    shutil.copytree(job.repo.rankers / name, copy)
    manifest = read_manifest(copy)
    assert manifest["kind"] == "blend_ranker" and set(manifest["members"]) == {"gbdt", "id_content"}
    assert isinstance(load_trained(copy), BlendRanker)
    trees = copy / "members" / "gbdt" / "trees.safetensors"
    trees.write_bytes(trees.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactCorruptError, match=r"trees\.safetensors"):
        load_trained(copy)


def test_arms_that_do_not_serve_are_saved_only_if_they_are_neural(job: FinishedJob) -> None:
    assert job.result.rankers["blend"] == (None,)
    assert job.result.rankers["gbdt"][0] is not None, "it is a member of the blend that serves"
    assert job.result.rankers["id_content"][0] is not None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('serve = ["blend_counts"]', 'serve = ["shuffled"]', r"arms that can serve \(id_content, .*got shuffled"),
        ('of = ["gbdt", "id_content"]\n\n', 'of = ["gbdt", "control"]\n\n', r"members that cannot serve \(control\)"),
        ('kind = "gbdt"\n', 'kind = "gbdt"\nvectors = "decoded"\n', "same item vectors, got gbdt reads decoded"),
    ],
)
def test_a_blend_that_cannot_serve_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = PRESET.read_text().replace("by_counts = true\n", "by_counts = true\n\n", 1)
    more = (
        '\n[arms.shuffled]\nkind = "blend"\nof = ["gbdt", "id_content"]\nby_counts = true\nshuffled_counts = true\n'
        '\n[arms.control]\nrepresentations = ["id", "content"]\nmodel = {prior_random = true}\n'
    )
    text = text.replace('of = ["gbdt", "id_content"]\nby_counts', 'of = ["gbdt", "id_content"]\n\nby_counts', 1)
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1) + more)
    with pytest.raises(ConfigError, match=said):
        load_preset(str(path))
