"""Golden rows: stored once with the offline scores, and compared whenever a model is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.builders import FinishedJob, copy_of
from ranking.serving.explain import explain
from ranking.serving.golden import check_golden, golden_path, golden_rows, read_golden
from ranking.serving.scorer import Scorer
from sidkit.core.errors import ArtifactCorruptError, ServingError
from sidkit.core.repo import Repo


@pytest.fixture
def repo(finished: FinishedJob, tmp_path: Path) -> Repo:
    return copy_of(finished.repo, tmp_path / "repo")


def test_stored_rows_are_those_of_a_point_in_time_retrieval(repo: Repo) -> None:
    scorer = Scorer(repo)
    assert check_golden(repo, scorer) == 0
    data, scores = read_golden(golden_path(repo, scorer.record.name, scorer.record.content_hash), scorer)
    anew = golden_rows(repo, scorer)
    np.testing.assert_array_equal(data.numeric, anew.numeric)
    np.testing.assert_array_equal(data.items.content, anew.items.content)
    np.testing.assert_array_equal(data.history_items, anew.history_items)
    np.testing.assert_array_equal(scores, scorer.ranker.score(anew))
    assert check_golden(repo, scorer) == 0 and len(np.unique(scores)) > 10


def test_a_model_with_other_scores_is_refused(repo: Repo) -> None:
    scorer = Scorer(repo)
    check_golden(repo, scorer)
    assert check_golden(repo, scorer, lambda data: scorer.ranker.score(data) + 9e-6) < 1e-5
    with pytest.raises(ServingError, match=r"expected scores .* within 1e-05 .* got a difference of 2e-05"):
        check_golden(repo, scorer, lambda data: scorer.ranker.score(data) + 2e-5)
    with pytest.raises(ServingError, match="got a difference of nan"):
        check_golden(repo, scorer, lambda data: np.full(len(data), np.nan))


def test_a_damaged_file_is_refused(repo: Repo) -> None:
    scorer = Scorer(repo)
    check_golden(repo, scorer)
    path = golden_path(repo, scorer.record.name, scorer.record.content_hash)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactCorruptError, match="delete the file"):
        check_golden(repo, scorer)


def test_an_explanation_is_zero_where_a_group_does_not_matter(repo: Repo, finished: FinishedJob) -> None:
    scorer = Scorer(repo, Path(finished.output["artifacts"]["rankers"]["content"][0]).name)
    data = scorer.read("u1", [f"i{number}" for number in range(20)], finished.result.as_of_us).data
    changes = explain(data, scorer.ranker.score)
    assert {"content", "codes", "history", "counts of the item"} <= set(changes)
    assert np.abs(changes["content"]).max() > 0.01
    np.testing.assert_array_equal(changes["codes"], 0)  # an arm without codes
    assert all(len(change) == 20 and np.isfinite(change).all() for change in changes.values())
