"""Runs on conversions, and on a log of positives: what is predicted, and whether scores are rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import FinishedJob, run_fast_job
from helpers.commands import ask_well
from ranking.data.dataset import read_rows
from ranking.data.labelled_rows import RowsFile, Window
from ranking.pipeline.evaluation import RunEvaluation
from ranking.pipeline.run import run_preset
from ranking.training.ranker import Ranker, RankerConfig
from sidkit.core.config import EngineSettings
from sidkit.core.errors import ConfigError, ContractError, SidkitWarning
from sidkit.core.files import read_json
from sidkit.core.records import record_of
from sidkit.datasets.synthetic import Sizes, write_world

PRESET = """
[codebook]
force = true
encoder = "content"
encoder_arguments = {dim = 8}
quantizer = "residual_kmeans"
levels = 2

[ranker]
serve = ["content"]

[ranker.model]
dim = 8
hidden = [16]

[ranker.training]
epochs = 1
learning_rate = 0.003
LINE

[arms.content]
representations = ["content"]
"""


def preset(folder: Path, line: str = "") -> Path:
    path = folder / "small.toml"
    path.write_text(PRESET.replace("LINE", line))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of impressions in which the conversion of some clicks is not known yet."""
    folder = tmp_path_factory.mktemp("source") / "world"
    write_world(folder, "strong", Sizes(30_000, users=150, items=300))
    log = pq.read_table(folder / "interactions.parquet").to_pandas()
    log["converted"] = log["converted"].astype("Int8")
    log.loc[log.index[log["label"] == 1][::10], "converted"] = pd.NA
    pq.write_table(pa.Table.from_pandas(log, preserve_index=False), folder / "interactions.parquet")
    return folder


@pytest.fixture(scope="module")
def conversions(world: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    folder = tmp_path_factory.mktemp("conversions")
    return run_fast_job(folder / "repo", preset(folder, 'target = "converted"'), str(world))


@pytest.fixture(scope="module")
def positives(world: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """A run on the clicks of the log, without its other rows and conversions."""
    folder = tmp_path_factory.mktemp("positives")
    for name in ("items", "item_embeddings"):
        (folder / f"{name}.parquet").write_bytes((world / f"{name}.parquet").read_bytes())
    log = pq.read_table(world / "interactions.parquet").to_pandas().query("label == 1")
    pq.write_table(
        pa.Table.from_pandas(log.drop(columns="converted"), preserve_index=False), folder / "interactions.parquet"
    )
    return run_fast_job(folder.parent / "positives_repo", preset(folder), str(folder))


def test_a_run_on_conversions_trains_and_evaluates_them(conversions: FinishedJob, world: Path) -> None:
    log = pq.read_table(world / "interactions.parquet").to_pandas()
    known = log[(log["label"] == 0) | log["converted"].notna()]
    told = conversions.output
    assert (told["target"], told["calibrated"]) == ("converted", True)
    used = {name: counts["used"] for name, counts in told["rows"].items()}
    assert sum(used.values()) == len(known)
    verdict = read_json(conversions.result.folder / "verdict.json")
    test = known.sort_values("timestamp").iloc[-used["test"] :]
    assert verdict["target"] == "converted"
    assert verdict["rows"]["all"]["positives"] == test["converted"].fillna(0).sum()
    # The world's own probabilities are those of clicks.
    assert verdict["oracle"] is None and verdict["ceiling"] is None
    ranker = Ranker.load(conversions.repo.rankers / str(conversions.result.ranker))
    assert ranker.config.target == "converted"
    # Click rates of items are smoothed towards the click rate, whatever the target.
    train = known.sort_values("timestamp").iloc[: used["train"]]
    assert ranker.scaling.rate == pytest.approx(train["label"].mean())
    assert "Target: converted. Scores are rates" in conversions.result.report.read_text()


def test_scores_of_conversions_are_as_frequent_as_conversions(conversions: FinishedJob, world: Path) -> None:
    log = pq.read_table(world / "interactions.parquet").to_pandas()
    project = sidkit.open(conversions.repo.path)
    items = log["item_id"].unique()[:100].tolist()
    scores = project.scorer().score(str(log["user_id"].iloc[0]), items)
    assert (scores.attrs["target"], scores.attrs["calibrated"]) == ("converted", True)
    assert scores["score"].mean() < 0.5 * log["label"].mean()


def test_a_ranker_of_conversions_is_evaluated_on_conversions(conversions: FinishedJob) -> None:
    project = sidkit.open(conversions.repo.path)
    evaluated = project.evaluate()
    verdict = read_json(conversions.result.folder / "verdict.json")
    assert evaluated.target == "converted"
    assert evaluated.rows["all"].positives == verdict["rows"]["all"]["positives"]
    rows = project.rows("test")
    assert set(rows["converted"].dropna()) == {0, 1}
    with pytest.raises(ContractError, match='expected a column converted .* for the target "converted"'):
        project.evaluate(rows=rows.drop(columns="converted"))


def test_rows_of_unknown_conversion_are_left_out_in_memory_and_on_disk(
    conversions: FinishedJob, tmp_path: Path
) -> None:
    path = conversions.repo.labelled_rows
    raw = pq.read_table(path).to_pandas()
    rows = read_rows(path, target="converted")
    unknown = (raw["label"] == 1) & raw["converted"].isna()
    assert unknown.any()
    assert len(rows) == (~unknown).sum()
    assert rows.label.sum() == raw["converted"].sum()
    assert rows.clicked is not None and rows.clicked.sum() == raw["label"].sum() - unknown.sum()
    on_disk = RowsFile(path, EngineSettings(threads=1), tmp_path, "converted")
    assert on_disk.classes(Window()) == (rows.label.sum(), len(rows))
    np.testing.assert_array_equal(on_disk.read(Window(), None).label, rows.label)


def test_a_training_part_on_disk_has_the_labels_of_one_in_memory(
    conversions: FinishedJob, world: Path, tmp_path: Path
) -> None:
    lines = 'target = "converted"\nstream_rows = 5000'
    streamed = run_fast_job(tmp_path / "repo", preset(tmp_path, lines), str(world))
    assert (streamed.result.folder / "frame" / "train.parquet").exists()
    assert streamed.output["rows"] == conversions.output["rows"]
    assert streamed.result.evaluation.rows == conversions.result.evaluation.rows
    rankers = [Ranker.load(job.repo.rankers / str(job.result.ranker)) for job in (streamed, conversions)]
    assert rankers[0].scaling.rate == pytest.approx(rankers[1].scaling.rate)
    assert rankers[0].config.target == "converted"


def test_conversions_of_a_log_without_them_are_refused_before_any_work(positives: FinishedJob, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a log with conversions"):
        run_preset(positives.repo.path, positives.result.data, str(preset(tmp_path, 'target = "converted"')))


def test_every_output_says_that_scores_of_sampled_negatives_are_no_rates(positives: FinishedJob) -> None:
    result, repo = positives.result, positives.repo.path
    assert positives.output["calibrated"] is False
    assert "base_rate" in positives.output["calibration"]
    assert "Scores rank rows but are not rates" in result.report.read_text()
    assert read_json(result.folder / "verdict.json")["target"] == "clicked"
    project = sidkit.open(repo)
    user, item = project.rows().iloc[0][["user_id", "item_id"]]
    with pytest.warns(SidkitWarning, match="Scores rank rows but are not rates: negatives were sampled") as warned:
        scores = project.scorer().score(user, [item, "i1", "i2"])
    assert len(warned) == 1
    assert scores.attrs["calibrated"] is False
    answer = ask_well("score", "--repo", repo, "--user", user, "--items", f"{item},i1,i2", "--json")
    assert json.loads(answer.out)["calibrated"] is False
    assert answer.err.count("not rates") == 1
    evaluated = json.loads(ask_well("ranker", "evaluate", str(result.ranker), "--repo", repo, "--json").out)
    assert (evaluated["target"], evaluated["calibrated"]) == ("clicked", False)
    assert "sampled" in evaluated["calibration"]


def test_a_stated_base_rate_shifts_scores_without_training_again(positives: FinishedJob) -> None:
    repo = positives.repo.path
    project = sidkit.open(repo)
    user = project.rows().iloc[0]["user_id"]
    items = ["i1", "i2", "i3", "i4"]
    ask = (
        "score",
        "--repo",
        repo,
        "--user",
        user,
        "--items",
        ",".join(items),
        "--at",
        "2030-01-01T00:00:00Z",
        "--json",
    )
    raw = json.loads(ask_well(*ask).out)
    # Without the column sampled, rows count as exposures.
    rows = project.rows("test").drop(columns="sampled")
    before = project.evaluate(rows=rows)
    assert before.calibration.calibrated is False
    file = repo / "sidkit.toml"
    text = file.read_text()
    file.write_text(text.replace("[negatives]", "[negatives]\nbase_rate = 0.02"))
    try:
        answer = ask_well(*ask)
        shifted = json.loads(answer.out)
        assert shifted["calibrated"] is True and "not rates" not in answer.err
        assert sorted(items, key=raw["scores"].get) == sorted(items, key=shifted["scores"].get)
        odds = [each["scores"][item] / (1 - each["scores"][item]) for item in items for each in (raw, shifted)]
        trained = Ranker.load(repo / "artifacts" / "rankers" / raw["ranker"]).scaling.rate
        assert np.divide(odds[1::2], odds[::2]) == pytest.approx((0.02 / 0.98) / (trained / (1 - trained)))
        after = sidkit.open(repo).evaluate(rows=rows)
        assert after.calibration.calibrated is True
        assert after.slices["all"].auc == pytest.approx(before.slices["all"].auc)
        assert after.slices["all"].calibration != pytest.approx(before.slices["all"].calibration)
        again = run_fast_job(repo, Path(positives.result.preset), positives.result.data)
        assert again.output["calibrated"] is True
        assert again.result.ranker == positives.result.ranker
    finally:
        file.write_text(text)


def test_files_of_earlier_releases_predict_clicks(positives: FinishedJob) -> None:
    folder = positives.repo.rankers / str(positives.result.ranker)
    values = read_json(folder / "config.json")
    del values["target"]
    assert RankerConfig.of_json(values).target == "clicked"
    path = positives.result.folder / "verdict.json"
    old = {key: value for key, value in read_json(path).items() if key not in {"target", "ceiling"}}
    assert record_of(RunEvaluation, old, path).target == "clicked"
