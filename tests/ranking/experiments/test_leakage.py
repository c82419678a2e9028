"""The price of leakage: what is leaked, what is not, and that the three figures are told of the right rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.builders import FAST_PRESET, FinishedJob
from helpers.commands import ask_well
from helpers.training_builders import set_with
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_columns
from ranking.data.storage import load_dataset
from ranking.evaluation.metrics import auc
from ranking.experiments.leakage import evaluate_leakage, is_aggregate, leaked_aggregates, measure_leakage
from semantic_ids.catalog import Catalog
from sidkit.core.errors import ArtifactMissingError, EvaluationError


@pytest.fixture(scope="module")
def sound(finished: FinishedJob) -> Dataset:
    return load_dataset(finished.repo.runs / "fast" / "frame")


@pytest.fixture(scope="module")
def leaked(finished: FinishedJob, sound: Dataset) -> Dataset:
    return leaked_aggregates(finished.repo, sound, Catalog.open(finished.repo).serving_codebook().service_name, 0.1)


def column(data: Dataset, name: str) -> np.ndarray:
    return data.numeric[:, numeric_columns().index(name)]


def test_leaked_counts_are_those_of_the_whole_log(finished: FinishedJob, leaked: Dataset) -> None:
    log = (
        pq.read_table(finished.repo.labelled_rows).group_by("item_id").aggregate([("label", "sum"), ("label", "count")])
    )
    clicks = dict(zip(log.column("item_id").to_pylist(), log.column("label_sum").to_pylist(), strict=True))
    shown = dict(zip(log.column("item_id").to_pylist(), log.column("label_count").to_pylist(), strict=True))
    told = column(leaked, "item_clicks_all")
    assert told == pytest.approx([clicks[item] for item in leaked.rows.item_ids], abs=0.01)
    told = column(leaked, "item_exposures_all")
    assert told == pytest.approx([shown[item] for item in leaked.rows.item_ids], rel=1e-4)


def test_nothing_but_counts_is_leaked(sound: Dataset, leaked: Dataset) -> None:
    for at, name in enumerate(numeric_columns()):
        same = np.array_equal(sound.numeric[:, at], leaked.numeric[:, at])
        assert same == (not is_aggregate(name)), name
    assert leaked.history is sound.history and leaked.items is sound.items and leaked.rows is sound.rows


def test_the_leak_promises_more_than_it_delivers_and_delivers_less_than_was_possible(
    finished: FinishedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--repo", finished.repo.path, "--preset", FAST_PRESET, "--arms", "gbdt,content", "--json")
    told = json.loads(ask_well("leakage", *arguments).out)
    assert set(told["arms"]) == {"gbdt", "content"}
    for rows in told["arms"].values():
        every = rows[0]
        assert every["slice"] == "all" and every["rows"] == finished.output["arms"][0]["rows"]
        assert every["promised"]["auc"] > every["possible"]["auc"]
        assert every["broken_promise"]["high"] < 0 and every["broken_promise"]["delta"] == pytest.approx(
            every["delivered"]["auc"] - every["promised"]["auc"], abs=1e-5
        )
        assert every["cost"]["delta"] == pytest.approx(every["delivered"]["auc"] - every["possible"]["auc"], abs=1e-5)
    # What was possible is what the job itself measured.
    job = {arm["arm"]: arm["auc"] for arm in finished.output["arms"]}
    assert told["arms"]["gbdt"][0]["possible"]["auc"] == pytest.approx(job["gbdt"], abs=1e-5)
    assert told["arms"]["content"][0]["possible"]["auc"] == pytest.approx(job["content"], abs=1e-5)
    assert not list(finished.repo.rankers.glob("*leak*"))


def test_figures_are_told_per_slice_of_point_in_time_counts() -> None:
    rng = np.random.default_rng(0)
    test = set_with([0] * 200 + [50] * 200)
    label = test.rows.label
    noise = rng.random(400)
    scores = {"promised": [label + 0.1 * noise], "delivered": [noise], "possible": [label + noise]}
    told = [row.as_json() for row in evaluate_leakage(test, scores)]
    assert [row["slice"] for row in told] == ["all", "cold", "warm"]
    assert [row["rows"] for row in told] == [400, 200, 200]
    for row, rows in zip(told, (slice(None), slice(0, 200), slice(200, None)), strict=True):
        assert row["promised"]["auc"] == 1.0
        assert row["delivered"]["auc"] == pytest.approx(auc(label[rows], noise[rows]), abs=1e-6)
        assert row["cost"]["verdict"] == "no evidence", "fewer than 500 positives"


def test_what_cannot_be_measured_is_refused_with_the_remedy(finished: FinishedJob, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has no arm x; it has id, content"):
        measure_leakage(finished.repo, str(FAST_PRESET), ["x"], 1)
    with pytest.raises(EvaluationError, match="got the blend blend; name its members instead"):
        measure_leakage(finished.repo, str(FAST_PRESET), ["blend"], 1)
    with pytest.raises(ArtifactMissingError, match="sidkit run --preset rqkmeans"):
        measure_leakage(finished.repo, "rqkmeans", ["gbdt"], 1)
