"""A ranker of shared and private codes is served: its scores online are those of a point-in-time retrieval."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.builders import FinishedJob, run_fast_job
from helpers.places import ROOT
from ranking.data.dataset import LabelledRows
from ranking.data.frame_builder import build_dataset
from ranking.serving.scorer import Scorer
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog
from semantic_ids.code_stats import code_stats_of
from semantic_ids.codebook import Codebook
from sidkit.stores.feast_repo import open_store

PRESET = ROOT / "tests" / "presets" / "modalities.toml"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    return run_fast_job(tmp_path_factory.mktemp("modalities") / "repo", PRESET, impressions=8_000)


def test_scores_online_are_those_offline(job: FinishedJob) -> None:
    scorer, record = Scorer(job.repo), Catalog.open(job.repo).serving_ranker()
    ranker = scorer.ranker
    assert isinstance(ranker, Ranker) and record.arm == "all_parts"
    users = pq.read_table(job.repo.tables / "user_stats.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    items = pq.read_table(job.repo.tables / "item_content.parquet", columns=["item_id"])["item_id"].unique().to_pylist()
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
        expected = ranker.score(data)
        np.testing.assert_allclose(scorer.score(user, asked, job.result.as_of_us), expected, atol=1e-6)
        assert len(set(np.round(expected, 4))) > 10


def test_the_codebook_has_groups_by_modality_and_statistics_of_shared_prefixes_only(job: FinishedJob) -> None:
    name = Catalog.open(job.repo).serving_ranker().codebook
    groups = Codebook.load(job.repo.codebooks / name).code_groups
    assert [(group.name, group.start, group.stop) for group in groups] == [
        ("shared", 0, 2),
        ("image", 2, 3),
        ("text", 3, 4),
    ]
    stats = code_stats_of(job.repo, name)
    assert stats is not None and max(stats.depths) <= 2
