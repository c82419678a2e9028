"""A ranker with a joint re-ranker is trained, registered and served: one pass per request, with offline scores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.builders import FinishedJob, copy_of, run_fast_job
from helpers.http_service import running
from helpers.places import ROOT
from ranking.data.dataset import LabelledRows
from ranking.data.disk_frame import DiskFrame
from ranking.data.frame_builder import build_dataset
from ranking.pipeline.presets import load_preset
from ranking.serving.golden import check_golden
from ranking.serving.onnx_export import served_graph
from ranking.serving.scorer import Scorer
from ranking.training.arm_spec import ArmSpec
from ranking.training.load_ranker import load_trained
from ranking.training.mixing import logits
from ranking.training.predictions import read_details, read_predictions
from ranking.training.reranked_ranker import RerankedRanker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import parse_time
from sidkit.core.errors import ArtifactCorruptError, ServingError
from sidkit.stores.feast_repo import open_store

PRESET = ROOT / "tests" / "presets" / "joint.toml"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    return run_fast_job(tmp_path_factory.mktemp("joint") / "repo", PRESET, impressions=12_000)


def whole_change(scorer: Scorer) -> Scorer:
    """The scorer with changes of logits that are as large as logits, as after a long training."""
    import torch

    ranker = scorer.ranker
    assert isinstance(ranker, RerankedRanker)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in ranker.reranker.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return scorer


def test_the_served_ranker_scores_a_request_online_as_offline_in_any_order(job: FinishedJob) -> None:
    scorer = whole_change(Scorer(job.repo))
    ranker, record = scorer.ranker, scorer.record
    assert isinstance(ranker, RerankedRanker) and record.arm == "id_content_joint"
    tables = job.repo.tables
    users = pq.read_table(tables / "user_stats.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    items = pq.read_table(tables / "item_content.parquet", columns=["item_id"])["item_id"].unique().to_pylist()
    asked = [*items[:40], "nothing"]
    for user in (users[0], "nobody"):
        rows = LabelledRows(
            np.array([user] * len(asked), dtype=object), np.array(asked, dtype=object),
            np.full(len(asked), job.result.as_of_us), np.zeros(len(asked), np.int8),
        )  # fmt: skip
        data = build_dataset(
            open_store(job.repo), record.service, Codebook.load(job.repo.codebooks / record.codebook), rows,
            rate=ranker.smoothing_rate, history_length=ranker.config.history_length, schema=ranker.config.schema,
        )  # fmt: skip
        found = scorer.score(user, asked, job.result.as_of_us)
        np.testing.assert_allclose(found, ranker.score(data), atol=1e-6)
        np.testing.assert_allclose(scorer.score(user, asked[::-1], job.result.as_of_us)[::-1], found, atol=1e-6)
        base = ranker.base.score(data)
        assert np.abs(logits(found) - logits(base)).max() > 0.01, "the re-ranker acts"
        few = scorer.score(user, asked[:5], job.result.as_of_us)
        assert np.abs(logits(few) - logits(found[:5])).max() > 1e-4, "the other candidates matter"


def test_the_golden_rows_of_the_loaded_ranker_are_those_of_training(job: FinishedJob) -> None:
    scorer = Scorer(job.repo)
    for _ in range(2):  # written, and read again
        assert check_golden(job.repo, scorer) < 1e-6


def test_the_service_answers_with_the_joint_scores(job: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(job.repo, tmp_path / "repo")
    items = [f"i{number}" for number in range(12)]
    with running(repo.path) as service:
        answer = service.rank(user_id="u1", item_ids=items)
        assert answer.status == 200
        by_item = {each["item_id"]: each["score"] for each in answer.json["items"]}
    expected = Scorer(repo).score("u1", items, parse_time(answer.json["at"]))
    np.testing.assert_allclose([by_item[item] for item in items], expected, atol=1e-6)


def test_scores_of_the_run_are_those_of_the_artefact_and_details_are_stated(job: FinishedJob) -> None:
    folder = job.repo.runs / PRESET.stem
    path = folder / "predictions" / "id_content_joint-s0.parquet"
    details = read_details(path)
    assert details["reranker_parameters"] > 0 and len(details["reranked"]) >= 2
    assert job.result.rankers["id_content_joint_shuffled"] == (None,), "a control does not serve"
    ranker = load_trained(job.repo.rankers / str(job.result.rankers["id_content_joint"][0]))
    data = DiskFrame.load(folder / "frame").data
    validation = data.rows.at_us
    split = job.result.split
    mask = (validation >= split.train_end_us) & (validation < split.validation_end_us)
    kept = read_predictions(path, "validation")
    if mask.sum() == len(kept):
        np.testing.assert_allclose(ranker.score(data.take(np.flatnonzero(mask))), kept, atol=1e-6)
    base = read_predictions(folder / "predictions" / "id_content-s0.parquet", "validation")
    assert len(base) == len(kept)


def test_a_damaged_re_ranker_is_refused_and_an_artefact_is_whole(job: FinishedJob, tmp_path: Path) -> None:
    name = Catalog.open(job.repo).serving_ranker().name
    copy = tmp_path / name
    shutil.copytree(job.repo.rankers / name, copy)
    assert read_manifest(copy)["kind"] == "reranked_ranker"
    assert isinstance(load_trained(copy), RerankedRanker)
    tensors = copy / "reranker.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactCorruptError, match=r"reranker\.safetensors"):
        load_trained(copy)


def test_it_has_no_graph_of_single_rows(job: FinishedJob) -> None:
    with pytest.raises(ServingError, match="expected a ranker with a torch model.*export another one"):
        served_graph(job.repo, Scorer(job.repo))


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"kind": "gbdt", "reranker": "joint"}, "only a neural arm has 'reranker'"),
        ({"representations": ["id"], "reranker": "jiont"}, "no reranker named 'jiont'; available: joint"),
        ({"representations": ["id"], "reranker": "joint", "rerank": {"heads": 0}}, "greater than or equal to 1"),
        (
            {"representations": ["id"], "rerank": {"dim": 8}},
            "rerank has settings of a re-ranker, got none; set reranker",
        ),
    ],
)
def test_a_re_ranker_that_cannot_be_trained_is_refused(arm: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ArmSpec.model_validate(arm)


def test_arms_without_a_re_ranker_are_written_as_before() -> None:
    """Results of earlier versions stay valid."""
    written = ArmSpec.model_validate({"representations": ["id"]}).model_dump()
    assert not {"reranker", "rerank", "adapter", "days", "shuffled_items"} & set(written)
    joint = load_preset(str(PRESET)).arms["id_content_joint"]
    assert ArmSpec.model_validate(joint.model_dump()) == joint
    assert joint.uses_codes(load_preset(str(PRESET)).ranker.model)
