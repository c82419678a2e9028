"""Rankers as ONNX files: the same scores for any number of rows, facts inside, and no file that differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sidkit
from helpers.builders import FinishedJob, copy_of
from helpers.training_builders import SIZES, fitted_to, random_set, ranker_config
from ranking.data.batches import Batches, vocabulary_of
from ranking.data.numeric_features import Scaling
from ranking.data.plain import is_plain, plain_operations
from ranking.models.histories import HISTORIES
from ranking.models.representations import BEHAVIOUR, REPRESENTATIONS
from ranking.models.representations.spm_vocabulary import Pieces, learn_pieces
from ranking.models.spec import ModelSpec
from ranking.serving import onnx_graph
from ranking.serving.onnx_export import ExportedRanker, OnnxRanker, export_ranker
from ranking.serving.scorer import Scorer
from ranking.training.ranker import Ranker, make_model
from sidkit.core.errors import ArtifactCorruptError, ServingError, StorageError
from sidkit.core.repo import Repo
from sidkit.serve.model import ModelLoader


@pytest.fixture(scope="module")
def repo(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return copy_of(finished.repo, tmp_path_factory.mktemp("onnx") / "repo")


@pytest.fixture(scope="module")
def exported(repo: Repo, tmp_path_factory: pytest.TempPathFactory) -> ExportedRanker:
    return sidkit.open(repo.path).export_ranker(tmp_path_factory.mktemp("exported") / "ranker.onnx")


def torch_ranker(scorer: Scorer) -> Ranker:
    assert isinstance(scorer.ranker, Ranker)
    return scorer.ranker


def test_an_exported_ranker_gives_the_scores_of_the_ranker(
    repo: Repo, finished: FinishedJob, exported: ExportedRanker
) -> None:
    scorer = Scorer(repo)
    ranker = torch_ranker(scorer)
    read = OnnxRanker(exported.path, ranker)
    assert exported.ranker == scorer.record.name and exported.difference <= 1e-5 and exported.rows == 64
    for count in (1, 2, 60):
        data = Scorer(finished.repo).read("u1", [f"i{at}" for at in range(count)], finished.result.as_of_us).data
        np.testing.assert_allclose(read.score(data), ranker.score(data), atol=1e-5)
        assert count < 2 or np.ptp(ranker.score(data)) > 0


def test_the_file_says_what_it_is_and_what_it_takes(repo: Repo, exported: ExportedRanker) -> None:
    scorer = Scorer(repo)
    facts = OnnxRanker(exported.path, torch_ranker(scorer)).metadata
    assert facts["sidkit.ranker"] == scorer.record.name and facts["sidkit.codebook"] == scorer.record.codebook
    assert facts["sidkit.ranker_hash"] == scorer.record.content_hash
    inputs = {each["name"]: each for each in json.loads(facts["sidkit.inputs"])}
    assert inputs["numeric"]["shape"] == ["rows", len(json.loads(facts["sidkit.numeric"]))]
    assert inputs["history"]["shape"] == ["rows", "length"] and inputs["history"]["dtype"] == "int64"
    assert inputs["item_codes"]["shape"] == ["items", len(scorer.codebook.sizes)]
    assert all(each["meaning"] for each in inputs.values())


def test_scores_that_differ_leave_no_file(
    repo: Repo, exported: ExportedRanker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported.path.read_bytes()
    monkeypatch.setattr(onnx_graph, "graph_of", lambda *_: graph)
    scorer = Scorer(repo)
    with torch.no_grad():
        torch_ranker(scorer).model.last.bias += 0.01
    with pytest.raises(ServingError, match="expected scores of ranker .* within 1e-05"):
        export_ranker(repo, scorer, tmp_path / "differs.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_folder_is_refused_before_the_export(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "graph_of", lambda *_: pytest.fail("exported although it cannot be written"))
    with pytest.raises(StorageError, match="directory"):
        sidkit.open(repo.path).export_ranker(tmp_path)


def test_a_damaged_file_is_refused(repo: Repo, exported: ExportedRanker, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(exported.path.read_bytes()[:500])
    with pytest.raises(ArtifactCorruptError, match="sidkit ranker export"):
        OnnxRanker(path, torch_ranker(Scorer(repo)))


def test_a_ranker_without_a_torch_model_is_refused(repo: Repo, tmp_path: Path) -> None:
    class Elsewhere:
        def __init__(self, scorer: Scorer) -> None:
            self.record, self.ranker = scorer.record, object()

    other: Any = Elsewhere(Scorer(repo))
    with pytest.raises(ServingError, match="expected a ranker with a torch model, got .*sidkit ranker list"):
        export_ranker(repo, other, tmp_path / "other.onnx")


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_plain_operations_give_the_same_logits(name: str, history: str) -> None:
    """Those that a graph is made of; 300 rows are more than a block of the attention."""
    data = random_set(300)
    both = history in {"bidirectional", "shared_gated"}  # need both spaces
    parts = ("id", name) if both and name not in BEHAVIOUR else (name,)
    if both and parts == (name,):
        parts = (name, "content")
    count = data.features.shape[1]
    scaling = Scaling(0.5, (0.0,) * count, (1.0,) * count)
    spec = ModelSpec(history=history, sid_match="attention", dim=8, hidden=(16,), gate_parts="rq")
    vocabulary = vocabulary_of(data)
    config = ranker_config(parts, spec, scaling, residual_levels=2)
    torch.manual_seed(0)
    model = make_model(config, vocabulary, fitted_to(data, _shape(config, vocabulary), vocabulary, spec)).eval()
    [batch] = Batches(data, scaling, vocabulary).batches(300)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn_like(each))
        expected = model(batch)
        with plain_operations():
            assert is_plain()
            torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=0)
    assert not is_plain() and expected.std() > 0.01


def test_plain_operations_segment_codes_alike() -> None:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 60) for size in SIZES], axis=1)
    pieces = Pieces(SIZES, learn_pieces(codes, rng.integers(1, 9, 60), SIZES, 40))
    codes[::9] = -1
    expected = pieces.segment(torch.from_numpy(codes), pieces.tensors)
    with plain_operations():
        assert torch.equal(pieces.segment(torch.from_numpy(codes), pieces.tensors), expected)


def _shape(config: Any, vocabulary: Any) -> Any:
    from ranking.training import ranker

    return ranker._shape(config, vocabulary)


def test_the_service_scores_with_the_graph_if_asked(
    repo: Repo, exported: ExportedRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored graph is read again: it is exported once, though each materialization loads the model."""
    content, made = exported.path.read_bytes(), []
    monkeypatch.setattr(onnx_graph, "graph_of", lambda *_: made.append(1) or content)
    loader = ModelLoader(repo.path, engine="onnx")
    for _ in range(2):
        model = loader.load(loader.wanted())
        assert isinstance(model.scorer.ranker, OnnxRanker) and model.difference <= 1e-5
    assert len(made) == 1
    data = model.scorer.read("u1", ["i1", "i2", "i3"], model.scorer._newest_us).data
    np.testing.assert_allclose(model.scorer.probabilities(data), Scorer(repo).probabilities(data), atol=1e-5)
    [stored] = (repo.data / "serving").glob("*.onnx")
    stored.write_bytes(b"damaged")
    assert isinstance(loader.load(loader.wanted()).scorer.ranker, OnnxRanker) and len(made) == 2
