"""Arms of a comparison: what each is trained on, what it leaves behind, and the control with shuffled codes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import SERVING, TRAINED_ON, random_set, seen_as
from ranking.data.control_codes import shuffled_codes
from ranking.data.dataset import Dataset
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import Scaling
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec, RankerSpec
from ranking.training.arms import ArmDetails, ArmResult, TrainingContext, train_arm
from ranking.training.predictions import read_predictions, write_predictions
from ranking.training.ranker import Ranker
from ranking.training.spec import TrainingSpec
from sidkit.core.artifact import read_manifest
from sidkit.core.progress import EpochDone, Progress, TreesGrown

law = settings(max_examples=40, deadline=None, database=None)
ID = ArmSpec(representations=("id",))
CODES = ArmSpec(representations=("id", "prefix_ngram"))
SHUFFLED = ArmSpec(representations=("id", "prefix_ngram"), shuffle_codes=True)
SPEC = RankerSpec(
    model=ModelSpec(dim=4, hidden=(8,), table_rows=100),
    training=TrainingSpec(epochs=2, batch_rows=64, learning_rate=0.01, table_learning_rate=0.05),
)


def context_of(folder: Path, **changes: Dataset) -> TrainingContext:
    parts = {
        "train": random_set(200, seed=1),
        "validation": random_set(100, seed=2),
        "test": random_set(80, seed=3),
    } | changes
    return TrainingContext(
        **parts,
        spec=SPEC,
        rate=float(parts["train"].rows.label.mean()),
        threads=1,
        trained_on=TRAINED_ON,
        serving=SERVING,
        rankers=folder,
    )  # fmt: skip


@st.composite
def item_tables(draw: st.DrawFn) -> ItemTable:
    """Items with up to three versions; a version may lack codes; padding first."""
    names = [f"i{number}" for number in range(draw(st.integers(1, 12)))]
    code = st.one_of(st.just([-1, -1]), st.lists(st.integers(0, 5), min_size=2, max_size=2))
    versions = [("", [-1, -1])] + [
        (name, each) for name in names for each in draw(st.lists(code, min_size=1, max_size=3))
    ]
    order = [0, *(number + 1 for number in draw(st.permutations(range(len(versions) - 1))))]
    ids = np.array([versions[at][0] for at in order], dtype=object)
    codes = np.array([versions[at][1] for at in order], dtype=np.int32)
    return ItemTable(ids, codes, np.zeros((len(order), 2), dtype=np.float32))


def first_codes(items: ItemTable) -> dict[str, tuple[int, ...]]:
    """Item -> the codes of its first version that has any."""
    found: dict[str, tuple[int, ...]] = {}
    for name, codes in zip(items.ids, items.codes.tolist(), strict=True):
        if codes[0] >= 0:
            found.setdefault(name, tuple(codes))
    return found


@law
@given(item_tables(), st.integers(0, 1000))
def test_shuffling_keeps_how_often_each_code_is_held_by_an_item(items: ItemTable, seed: int) -> None:
    shuffled = shuffled_codes(items, seed)
    assert Counter(first_codes(shuffled).values()) == Counter(first_codes(items).values())


@law
@given(item_tables(), st.integers(0, 1000))
def test_after_shuffling_all_versions_of_an_item_share_their_codes(items: ItemTable, seed: int) -> None:
    shuffled = shuffled_codes(items, seed)
    by_item: dict[str, set[tuple[int, ...]]] = {}
    for name, codes, before in zip(items.ids, shuffled.codes.tolist(), items.codes.tolist(), strict=True):
        if before[0] < 0:
            assert codes == before, "what had no codes gets none"
        else:
            by_item.setdefault(name, set()).add(tuple(codes))
    assert all(len(codes) == 1 for codes in by_item.values())


@law
@given(item_tables(), st.integers(0, 1000))
def test_shuffling_depends_on_the_seed_alone_and_leaves_the_table_as_it_was(items: ItemTable, seed: int) -> None:
    before = items.codes.copy()
    first, again = shuffled_codes(items, seed), shuffled_codes(items, seed)
    assert np.array_equal(first.codes, again.codes)
    assert np.array_equal(items.codes, before)
    assert first.ids is items.ids
    assert first.content is items.content


def many_items(count: int) -> ItemTable:
    ids = np.array(["", *(f"i{number:04d}" for number in range(count))], dtype=object)
    codes = np.arange(-1, count, dtype=np.int32)[:, None]
    return ItemTable(ids, codes, np.zeros((count + 1, 2), dtype=np.float32))


def test_shuffling_moves_nearly_all_codes_and_another_seed_moves_them_elsewhere() -> None:
    items = many_items(500)
    first, other = shuffled_codes(items, 0).codes, shuffled_codes(items, 1).codes
    assert (first == items.codes)[1:].mean() < 0.02
    assert (first == other)[1:].mean() < 0.02


@pytest.mark.parametrize("count", [2, 3, 10])
def test_no_item_keeps_its_own_codes(count: int) -> None:
    items = many_items(count)
    for seed in range(10):
        assert not (shuffled_codes(items, seed).codes == items.codes)[1:].any()


def test_a_neural_arm_leaves_a_ranker_that_says_what_the_arm_said(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    result = train_arm(context, "codes", CODES, 0, "ranker_v1")
    assert result.ranker == "ranker_v1"
    ranker = Ranker.load(tmp_path / "ranker_v1")
    assert np.array_equal(ranker.score(context.test), result.test)
    assert np.array_equal(ranker.score(context.validation), result.validation)
    assert result.validation_auc == max(result.details.validation_auc or ())
    assert ranker.config.arm == "codes"
    assert (ranker.config.codebook, ranker.config.service) == ("codes_v1", "ctr_codes_v1")
    manifest = read_manifest(tmp_path / "ranker_v1")
    assert (manifest["kind"], manifest["name"], manifest["seed"]) == ("ranker", "ranker_v1", 0)
    assert manifest["parents"] == ["codes_v1"]


def test_vocabulary_and_scaling_come_from_the_training_rows_alone(tmp_path: Path) -> None:
    context = context_of(tmp_path, train=random_set(200, seed=1).take(np.arange(6)))
    train_arm(context, "id", ID, 0, "few")
    ranker = Ranker.load(tmp_path / "few")
    assert set(ranker.vocabulary.ids) == set(context.train.rows.item_ids)
    assert ranker.scaling == Scaling.fit(context.train.features, context.rate)


@pytest.mark.parametrize("arm", [CODES, ArmSpec(kind="gbdt")], ids=["neural", "gbdt"])
def test_the_test_rows_move_nothing_but_their_own_scores(tmp_path: Path, arm: ArmSpec) -> None:
    test = random_set(80, seed=3)
    touched = dataclasses.replace(
        test, numeric=seen_as(test.features * 3), rows=dataclasses.replace(test.rows, label=1 - test.rows.label)
    )
    kept, changed = (
        train_arm(context_of(tmp_path / name, test=each), "arm", arm, 0, "r")
        for name, each in [("kept", test), ("changed", touched)]
    )
    assert kept.validation_auc == changed.validation_auc
    assert np.array_equal(kept.validation, changed.validation)
    assert not np.array_equal(kept.test, changed.test)
    if arm.kind == "neural":
        hashes = [read_manifest(tmp_path / name / "r")["content_hash"] for name in ("kept", "changed")]
        assert hashes[0] == hashes[1]


def test_the_seed_decides(tmp_path: Path) -> None:
    results = [
        train_arm(context_of(tmp_path / name), "id", ID, seed, "r").test
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_the_shuffled_control_keeps_no_ranker_and_has_as_many_parameters(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    control, arm = train_arm(context, "control", SHUFFLED, 0, "control"), train_arm(context, "codes", CODES, 0, "codes")
    assert control.ranker is None
    assert not (tmp_path / "control").exists()
    assert control.details.parameters == arm.details.parameters
    assert not np.array_equal(control.test, arm.test)


def test_shuffling_codes_does_nothing_to_an_arm_that_reads_none(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    shuffled = ArmSpec(representations=("id",), shuffle_codes=True)
    assert np.array_equal(train_arm(context, "a", ID, 0, "a").test, train_arm(context, "b", shuffled, 0, "b").test)


def test_the_boosted_arm_keeps_no_ranker_and_tells_its_trees(tmp_path: Path) -> None:
    result = train_arm(context_of(tmp_path), "gbdt", ArmSpec(kind="gbdt"), 0, "boosted")
    assert result.ranker is None
    assert not list(tmp_path.iterdir())
    assert result.details.trees is not None and result.details.trees >= 10
    assert (len(result.validation), len(result.test)) == (100, 80)


@law
@given(st.lists(st.floats(0, 1), max_size=20), st.lists(st.floats(0, 1), max_size=20))
def test_predictions_come_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, validation: list[float], test: list[float]
) -> None:
    path = tmp_path_factory.mktemp("predictions") / "arm.parquet"
    result = ArmResult(0.7, np.array(validation, dtype=float), np.array(test, dtype=float), None, ArmDetails(trees=30))
    write_predictions(path, result)
    assert read_predictions(path).tolist() == test
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"details"]) == {"trees": 30}


class Received(Progress):
    """Lists the events of training."""

    def __init__(self) -> None:
        self.events: list[EpochDone | TreesGrown] = []

    def epoch_finished(self, done: EpochDone) -> None:
        self.events.append(done)

    def trees_grown(self, done: TreesGrown) -> None:
        self.events.append(done)


def test_every_epoch_and_the_number_of_trees_are_reported(tmp_path: Path) -> None:
    context, received = context_of(tmp_path), Received()
    neural = train_arm(context, "id", ID, 3, "r", progress=received)
    curve = neural.details.validation_auc or ()
    epochs = [event for event in received.events if isinstance(event, EpochDone)]
    assert [(event.arm, event.seed, event.epoch, event.epochs) for event in epochs] == [
        ("id", 3, number, SPEC.training.epochs) for number in range(1, len(curve) + 1)
    ]
    assert [event.validation_auc for event in epochs] == list(curve)
    assert all(event.loss > 0 for event in epochs)
    boosted = train_arm(context, "gbdt", ArmSpec(kind="gbdt"), 0, "b", progress=received)
    (trees,) = [event for event in received.events if isinstance(event, TreesGrown)]
    assert (trees.trees, trees.validation_auc) == (boosted.details.trees, boosted.validation_auc)
    assert trees.trees <= trees.most
