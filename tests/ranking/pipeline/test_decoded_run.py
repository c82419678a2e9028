"""A run and a comparison whose rankers read decoded codes, from the log to scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.builders import run_fast_job
from helpers.comparison_builders import arm_file, compare
from helpers.small_logs import write_log
from ranking.pipeline.feature_importance import read_importance
from ranking.serving.scorer import Scorer
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog

PRESET = """
[codebook]
encoder = "content"
quantizer = "residual_kmeans"
item_bytes = 2
[ranker]
serve = ["codes_only"]
[ranker.model]
dim = 4
hidden = [4]
[ranker.training]
epochs = 1
[arms.id]
representations = ["id"]
[arms.codes_only]
representations = ["content"]
vectors = "decoded"
[arms.codes_shuffled]
representations = ["content"]
vectors = "decoded"
shuffle_codes = true
[arms.boosted]
kind = "gbdt"
vectors = "decoded"
"""


def test_a_run_promotes_a_ranker_on_decoded_codes_and_explains_it(tmp_path: Path) -> None:
    (tmp_path / "codes.toml").write_text(PRESET)
    job = run_fast_job(
        tmp_path / "repo", tmp_path / "codes.toml", data=str(write_log(tmp_path / "source", 60, users=30))
    )
    record = Catalog.open(job.repo).serving_ranker()
    assert record.arm == "codes_only"
    assert Catalog.open(job.repo).codebook(record.codebook).sizes == (16, 16)
    assert Ranker.load(job.repo.rankers / record.name).config.vectors == "decoded"
    assert {(each.arm, each.over) for each in job.result.questions} >= {("codes_only", "shuffled codes")}
    assert {"codes_only", "boosted"} <= set(read_importance(job.result.folder)["arm"])
    scores = Scorer(job.repo).score("u1", ["i1", "i2", "nothing"], job.result.as_of_us)
    assert ((scores > 0) & (scores < 1)).all()


def test_a_comparison_probes_a_ranker_on_decoded_codes(tmp_path: Path) -> None:
    decoded = arm_file(tmp_path, "decoded", 'representations = ["content"]\nvectors = "decoded"\n')
    shuffled = arm_file(
        tmp_path, "decoded_shuffled", 'representations = ["content"]\nvectors = "decoded"\nshuffle_codes = true\n'
    )
    facts = compare(tmp_path / "repo", [decoded, shuffled], equal_budgets=False)[1]
    steps = facts["probes"]["mutation"]["decoded"]
    assert steps[0]["change"] > 0
    assert np.isfinite([each["change"] for each in steps]).all()
    assert "decoded_shuffled" not in facts["probes"]["mutation"], "a control is not saved"
    assert facts["arms"]["decoded"]["auc_by_seed"]["all"] != pytest.approx(
        facts["arms"]["decoded_shuffled"]["auc_by_seed"]["all"]
    )
