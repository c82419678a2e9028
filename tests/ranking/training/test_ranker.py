"""What a ranker leaves on disk: it scores as it did in memory, and whatever was edited is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from helpers.builders import DAY, FinishedJob
from helpers.training_builders import CONTENT_DIM, SIZES, random_set, ranker_config
from ranking.data.batch import MatchMoments
from ranking.data.batches import Vocabulary, seen_in
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.storage import load_dataset, save_dataset
from ranking.evaluation.metrics import auc
from ranking.models.representations import REPRESENTATIONS
from ranking.models.spec import ModelSpec
from ranking.training.predictions import read_predictions
from ranking.training.ranker import Ranker, fit_representations, make_model
from semantic_ids.catalog import Catalog
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError

DATA = random_set(300)


def untrained(parts: tuple[str, ...] = tuple(REPRESENTATIONS), **changes: object) -> Ranker:
    """A ranker with random weights; saving and loading need no more."""
    vocabulary = Vocabulary.fit(DATA.rows.item_ids)
    config = ranker_config(parts, ModelSpec(dim=4), Scaling.fit(DATA.features, 1 / 3), residual_levels=2)
    torch.manual_seed(0)
    fitted = fit_representations(
        config, vocabulary, seen_in(DATA, vocabulary, lambda codes: np.sin(1.0 + codes[:, 2:]))
    )
    model = make_model(config, vocabulary, fitted).eval()
    return Ranker(model, vocabulary, dataclasses.replace(config, **changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    untrained().save(tmp_path / "ranker", {"name": "ranker"}, {"best_epoch": 1})
    return tmp_path / "ranker"


@pytest.mark.parametrize("representations", [*((name,) for name in REPRESENTATIONS), tuple(REPRESENTATIONS)])
def test_a_loaded_ranker_scores_bit_by_bit_as_the_saved_one(tmp_path: Path, representations: tuple[str, ...]) -> None:
    ranker = untrained(representations)
    ranker.save(tmp_path / "ranker", {"name": "ranker"}, {})
    loaded = Ranker.load(tmp_path / "ranker")
    assert np.array_equal(loaded.score(DATA), ranker.score(DATA))
    assert loaded.vocabulary == ranker.vocabulary
    assert loaded.scaling == ranker.scaling
    assert loaded.config.sizes == SIZES
    told = [json.dumps(each.config.as_json(), sort_keys=True) for each in (loaded, ranker)]
    assert told[0] == told[1]


def test_a_ranker_comes_back_with_the_columns_that_it_matches_and_with_its_scales(tmp_path: Path) -> None:
    ranker = untrained(("content", "mba"), content_columns=(2, CONTENT_DIM))
    model = make_model(ranker.config, ranker.vocabulary, {})
    matches = torch.randn(50, len(model.match_mean), generator=torch.Generator().manual_seed(1))
    model.scale_matches(MatchMoments.of(matches))
    ranker = Ranker(model.eval(), ranker.vocabulary, ranker.config)
    ranker.save(tmp_path / "ranker", {"name": "ranker"}, {})
    loaded = Ranker.load(tmp_path / "ranker")
    assert loaded.config.content_columns == (2, CONTENT_DIM)
    assert torch.equal(loaded.model.match_scale, model.match_scale) and not (model.match_scale == 1).any()
    assert np.array_equal(loaded.score(DATA), ranker.score(DATA))


@pytest.mark.parametrize("name", ["tensors.safetensors", "config.json", "vocabulary.parquet", "metrics.json"])
@pytest.mark.parametrize("damage", ["one bit", "one byte more", "gone"])
def test_a_changed_file_is_refused_by_its_name(saved: Path, name: str, damage: str) -> None:
    file = saved / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if damage == "one bit" else file.read_bytes() + b" ")
    with pytest.raises(ArtifactCorruptError, match=name):
        Ranker.load(saved)


def test_an_edit_that_makes_sense_is_refused_too(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["codebook"] = "codes_v2"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactCorruptError, match=r"config\.json"):
        Ranker.load(saved)


def test_a_vocabulary_in_another_order_is_refused(saved: Path) -> None:
    ids = pq.read_table(saved / "vocabulary.parquet").column("item_id").to_pylist()
    pq.write_table(pa.table({"item_id": ids[::-1]}), saved / "vocabulary.parquet")
    with pytest.raises(ArtifactCorruptError, match=r"vocabulary\.parquet"):
        Ranker.load(saved)


def test_the_weights_of_another_ranker_are_refused(saved: Path, tmp_path: Path) -> None:
    untrained(("id",)).save(tmp_path / "other", {"name": "other"}, {})
    shutil.copy(tmp_path / "other" / "tensors.safetensors", saved / "tensors.safetensors")
    with pytest.raises(ArtifactCorruptError, match=r"tensors\.safetensors"):
        Ranker.load(saved)


@pytest.mark.parametrize("edit", ["gone", "no json", "another hash"])
def test_a_manifest_that_cannot_vouch_is_refused(saved: Path, edit: str) -> None:
    manifest = saved / "manifest.json"
    told = json.loads(manifest.read_text())
    told["files"]["config.json"] = "0" * 64
    text = {"no json": "{", "another hash": json.dumps(told)}.get(edit)
    manifest.unlink() if text is None else manifest.write_text(text)
    with pytest.raises(ArtifactCorruptError, match=r"manifest\.json"):
        Ranker.load(saved)


def test_a_ranker_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="nobody"):
        Ranker.load(tmp_path / "nobody")


def test_a_ranker_of_other_numeric_features_is_refused(tmp_path: Path) -> None:
    other = (*feature_names()[:-1], "moon_phase")
    untrained(numeric=other).save(tmp_path / "ranker", {"name": "ranker"}, {})
    with pytest.raises(ArtifactCorruptError, match="other numeric features"):
        Ranker.load(tmp_path / "ranker")


@pytest.mark.parametrize("change", [{"representations": ("id",)}, {"sizes": (9, 9, 9)}, {"content_dim": 2}])
def test_a_config_that_does_not_fit_its_weights_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    untrained(**change).save(tmp_path / "ranker", {"name": "ranker"}, {})
    with pytest.raises(ArtifactCorruptError, match="cannot be read"):
        Ranker.load(tmp_path / "ranker")


def test_every_file_opens_with_a_standard_tool(saved: Path) -> None:
    assert {file.name for file in saved.iterdir()} == {
        "tensors.safetensors", "config.json", "metrics.json", "vocabulary.parquet", "manifest.json",
    }  # fmt: skip
    weights = load_file(saved / "tensors.safetensors")
    assert weights["representations.0.table.weight"].shape[0] == len(pq.read_table(saved / "vocabulary.parquet")) + 2
    assert json.loads((saved / "metrics.json").read_text()) == {"best_epoch": 1}
    assert json.loads((saved / "config.json").read_text())["codebook"] == "codes_v1"


def test_the_score_of_a_row_is_the_same_alone_and_in_a_crowd() -> None:
    ranker = untrained()
    together = ranker.score(DATA)
    alone = [ranker.score(DATA.take(np.array([row])))[0] for row in range(0, 300, 17)]
    assert alone == pytest.approx(together[::17], abs=1e-6)


def test_items_that_training_never_saw_are_scored_alike_by_an_id_ranker() -> None:
    ranker = untrained(("id",))
    one = DATA.take(np.zeros(3, dtype=np.int64))
    ids = DATA.items.ids.copy()
    ids[[1, 2]] = ["born later", "born later still"]
    known = int(np.flatnonzero(np.isin(ids, ranker.vocabulary.ids))[0])
    data = dataclasses.replace(
        one, candidate=np.array([1, 2, known], dtype=np.int32), history=np.zeros(3, dtype=np.int32),
        items=dataclasses.replace(DATA.items, ids=ids),
    )  # fmt: skip
    first, second, other = ranker.score(data)
    assert first == pytest.approx(second, abs=1e-6)
    assert first != pytest.approx(other, abs=1e-5)


# The rankers of a finished job.


def parts_of(finished: FinishedJob) -> tuple[Dataset, Path]:
    folder = finished.repo.runs / "fast"
    data = load_dataset(folder / "frame")
    record = Catalog.open(finished.repo).ranker(finished.result.ranker)
    return data.take(np.flatnonzero(data.rows.at_us >= record.fit_end_us)), folder / "predictions"


@pytest.mark.parametrize("arm", ["id", "content", "id_codes"])
def test_the_artefact_scores_the_test_rows_bit_by_bit_as_the_job_did(finished: FinishedJob, arm: str) -> None:
    test, predictions = parts_of(finished)
    ranker = Ranker.load(finished.repo.rankers / finished.result.rankers[arm][0])
    told = ranker.score(test)
    assert np.array_equal(told, read_predictions(predictions / f"{arm}-s0.parquet"))
    stated = next(each["auc"] for each in finished.output["arms"] if each["arm"] == arm)
    assert auc(test.rows.label, told) == pytest.approx(stated)


def test_a_ranker_names_all_that_it_must_be_served_with(finished: FinishedJob) -> None:
    record = Catalog.open(finished.repo).codebook(finished.result.codebook.name)
    name = finished.result.rankers["id_codes"][0]
    config = Ranker.load(finished.repo.rankers / name).config
    assert (config.codebook, config.codebook_hash) == (record.name, record.content_hash)
    assert config.service == record.service_name
    assert config.sizes == record.sizes
    assert {"item_sid__codes", "user_history__item_ids", "item_stats__clicks_7d"} <= set(config.features)
    manifest = read_manifest(finished.repo.rankers / name)
    assert manifest["parents"] == [record.name]
    assert record.fit_end_us <= manifest["fit_end_us"]
    assert manifest["feature_settings"] == finished.repo.settings.feature_settings()


# Training frames on disk.


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"request_ids": np.array(["r1", "r2"] * 150, dtype=object)},
        {"had_before": np.arange(300) % 3 == 0},
        {"request_ids": np.array(["r1", None, "r2"] * 100, dtype=object)},
    ],
    ids=["plain", "requests", "had before", "some requests"],
)
def test_a_frame_comes_back_from_disk_as_it_was(tmp_path: Path, more: dict[str, np.ndarray]) -> None:
    data = dataclasses.replace(DATA, rows=dataclasses.replace(DATA.rows, **more))
    save_dataset(DATA.take(np.arange(5)), tmp_path / "frame")
    save_dataset(data, tmp_path / "frame")
    back = load_dataset(tmp_path / "frame")
    for name in ("numeric", "candidate", "history", "history_items", "history_us"):
        assert np.array_equal(getattr(back, name), getattr(data, name)), name
        assert getattr(back, name).dtype == getattr(data, name).dtype
    for name in ("ids", "codes", "content"):
        assert np.array_equal(getattr(back.items, name), getattr(data.items, name)), name
    for name in ("user_ids", "item_ids", "at_us", "label", "request_ids", "had_before"):
        was, now = getattr(data.rows, name), getattr(back.rows, name)
        assert (was is None) == (now is None), name
        assert was is None or np.array_equal(was, now), name
    assert [file.suffix for file in sorted((tmp_path / "frame").iterdir())] == [
        ".safetensors", ".parquet", ".json", ".parquet",
    ]  # fmt: skip
    assert back.rows.at_us[0] > 18_000 * DAY
