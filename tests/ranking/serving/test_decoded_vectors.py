"""A ranker on decoded codes is served without content vectors, online as offline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import FAST_PRESET, FinishedJob, copy_of, reseal
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.frame_builder import build_dataset
from ranking.experiments.evaluate import evaluate_ranker
from ranking.pipeline.saved_run import read_run
from ranking.serving.features import OnlineFeatures
from ranking.serving.scorer import Scorer
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import train_arm
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import EvaluationError, OnlineStoreError, ServingError
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import materialize, open_store

NAME = "codes_only"
ARM = ArmSpec(representations=("id", "mba"), vectors="decoded")


@pytest.fixture(scope="module")
def repo(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A copy of the finished job with a ranker on decoded codes."""
    made = copy_of(finished.repo, tmp_path_factory.mktemp("decoded") / "repo")
    with made.locked():
        context = dataclasses.replace(read_run(made, str(FAST_PRESET)), rankers=made.rankers)
        train_arm(context, NAME, ARM, 0, NAME)
        manifest = read_manifest(made.rankers / NAME)
        Catalog.open(made).add_ranker(
            NAME,
            content_hash=manifest["content_hash"],
            codebook=context.serving.codebook,
            service=context.serving.service,
            arm=NAME,
            fit_end_us=manifest["fit_end_us"],
        )
    return made


def without_vectors(repo: Repo) -> Repo:
    """Replace all content vectors of a repo by nulls, in the tables and in the online store."""
    path = repo.tables / "item_content.parquet"
    table = pq.read_table(path)
    for at, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            table = table.set_column(at, field, pa.nulls(len(table), field.type))
    pq.write_table(table, path)
    reseal(path)
    return repo


def rows_of(repo: Repo, at_us: int, count: int = 40) -> tuple[str, list[str], LabelledRows]:
    """A user with a history, and candidates of whom one is unknown."""
    users = pq.read_table(repo.tables / "user_history.parquet", columns=["user_id"])["user_id"]
    items = pq.read_table(repo.tables / "item_content.parquet", columns=["item_id"])["item_id"].unique().to_pylist()
    asked = [*items[:count], "nothing"]
    user = users[len(users) // 2].as_py()
    times = np.full(len(asked), at_us)
    rows = LabelledRows(
        np.full(len(asked), user, dtype=object), np.array(asked, object), times, np.zeros(len(asked), np.int8)
    )
    return user, asked, rows


def offline(repo: Repo, rows: LabelledRows, vectors: str = "decoded") -> Dataset:
    record = Catalog.open(repo).ranker(NAME)
    config = Ranker.load(repo.rankers / NAME).config
    return build_dataset(
        open_store(repo),
        record.service,
        Codebook.load(repo.codebooks / record.codebook),
        rows,
        rate=config.scaling.rate,
        history_length=config.history_length,
        schema=config.schema,
        vectors=vectors,  # type: ignore[arg-type]
    )


def test_online_scores_are_the_offline_ones(repo: Repo, finished: FinishedJob) -> None:
    user, items, rows = rows_of(repo, finished.result.as_of_us)
    expected = Ranker.load(repo.rankers / NAME).score(offline(repo, rows))
    scores = Scorer(repo, NAME).score(user, items, finished.result.as_of_us)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert len(set(np.round(scores, 4))) > 10


def test_the_vectors_of_candidates_and_histories_are_those_of_their_codes(repo: Repo, finished: FinishedJob) -> None:
    _, _, rows = rows_of(repo, finished.result.as_of_us)
    items = offline(repo, rows).items
    codebook = Codebook.load(repo.codebooks / Catalog.open(repo).ranker(NAME).codebook)
    coded = (items.codes >= 0).all(axis=1)
    assert coded.sum() > 40 and not coded.all()
    np.testing.assert_array_equal(items.content[coded], codebook.quantizer.decode(items.codes[coded]))
    assert not items.content[~coded].any()


def test_scores_do_not_change_without_any_content_vector(repo: Repo, finished: FinishedJob, tmp_path: Path) -> None:
    as_of = finished.result.as_of_us
    user, items, rows = rows_of(repo, as_of)
    before = Scorer(repo, NAME).score(user, items, as_of)
    blank = without_vectors(copy_of(repo, tmp_path / "blank"))
    for path in (blank.path / "data").glob("online*"):
        path.unlink()
    materialize(blank, as_of)
    record = Catalog.open(blank).ranker(NAME)
    codebook = Codebook.load(blank.codebooks / record.codebook)
    stored = OnlineFeatures(open_store(blank), record.service, codebook)
    content = stored.request(user, items, as_of, rate=0.1, history_length=50).data.items.content
    assert not content.any(), "the online store has no content vectors"
    np.testing.assert_array_equal(Scorer(blank, NAME).score(user, items, as_of), before)
    np.testing.assert_allclose(Ranker.load(blank.rankers / NAME).score(offline(blank, rows)), before, atol=1e-6)


def test_a_request_reads_no_content_vectors(repo: Repo, finished: FinishedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("content was encoded")

    scorer = Scorer(repo, NAME)
    user, items, _ = rows_of(repo, finished.result.as_of_us)
    monkeypatch.setattr(Codebook, "vectors", refuse)
    read: list[str] = []
    for reader in (scorer._features._item, scorer._features._content):
        views = reader.read({"item_id": items}, finished.result.as_of_us)
        read += [name for view in views.values() for name in view.table.column_names]
    assert "item_content__created_at_us" in read and "item_sid__codes" in read
    assert not {"item_content__text", "item_content__image"} & set(read)
    assert len(scorer.score(user, items, finished.result.as_of_us)) == len(items)


def test_it_is_evaluated_on_decoded_vectors(repo: Repo, finished: FinishedJob) -> None:
    metrics = evaluate_ranker(repo, NAME, repo.labelled_rows).slices["all"]
    assert metrics.auc is not None and 0.4 < metrics.auc < 1


def test_the_artefact_states_its_vectors_and_needs_no_content_from_the_service(repo: Repo) -> None:
    config = Ranker.load(repo.rankers / NAME).config
    assert config.vectors == "decoded"
    assert "item_sid__codes" in config.features and "item_content__created_at_us" in config.features
    assert not {"item_content__text", "item_content__image"} & set(config.features)


def test_a_ranker_refuses_rows_with_other_vectors(repo: Repo, finished: FinishedJob) -> None:
    _, _, rows = rows_of(repo, finished.result.as_of_us)
    content = offline(repo, rows, "content")
    with pytest.raises(EvaluationError, match='expected a dataset with vectors="decoded".*got "content"'):
        Ranker.load(repo.rankers / NAME).score(content)


def test_content_vectors_can_stay_out_of_the_online_store(repo: Repo, finished: FinishedJob, tmp_path: Path) -> None:
    as_of = finished.result.as_of_us
    user, items, _ = rows_of(repo, as_of)
    before = Scorer(repo, NAME).score(user, items, as_of)
    small = copy_of(repo, tmp_path / "small")
    online = small.path / "data" / "online.sqlite"
    size = online.stat().st_size
    yaml = small.path / "feature_store.yaml"
    listed = "online_store:\n  offline_only: [item_content:text, item_content:image]\n"
    yaml.write_text(yaml.read_text().replace("online_store:\n", listed))
    for path in online.parent.glob("online*"):
        path.unlink()
    materialize(small, as_of)
    assert online.stat().st_size < size
    np.testing.assert_array_equal(Scorer(small, NAME).score(user, items, as_of), before)
    other = next(each.name for each in Catalog.open(small).rankers() if each.name != NAME)
    with pytest.raises(ServingError, match="expected item_content__text, item_content__image in the online store"):
        Scorer(small, other)
    yaml.write_text(yaml.read_text().replace("item_content:image", "item_content:imgae"))
    with pytest.raises(
        OnlineStoreError, match=r"expected online_store.offline_only with features of item_content .*imgae"
    ):
        materialize(small, as_of)
