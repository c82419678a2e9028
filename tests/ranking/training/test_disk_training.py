"""Training rows that stay on disk: each once per epoch, in an order that a seed decides, for the same model."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import CONTENT_DIM, SERVING, SIZES, TRAINED_ON, fitted_to, random_set
from ranking.data.batch import Batch
from ranking.data.batches import Batches, Vocabulary, seen_in, vocabulary_of
from ranking.data.dataset import Dataset
from ranking.data.disk_batches import DiskBatches
from ranking.data.disk_dataset import DiskDataset, DiskDatasetWriter
from ranking.data.frame_rows import FrameRows
from ranking.data.numeric_features import Moments, Scaling, feature_names
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec, RankerSpec
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.loop import Trained, train
from ranking.training.ranker import Ranker
from ranking.training.spec import TrainingSpec

law = settings(max_examples=40, deadline=None, database=None)
DATA, VALIDATION = random_set(150, seed=1), random_set(60, seed=2)
VOCABULARY = Vocabulary.fit(DATA.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)
SHAPE = ItemShape(VOCABULARY.size, SIZES, CONTENT_DIM, residual_levels=2, numeric_dim=len(feature_names()))
PARTS = ("mba", "rq_opq_gate")
MODEL = ModelSpec(dim=4, hidden=(8,), dropout=0.3, id_dropout=0.2, history="bidirectional")
SPEC = TrainingSpec(epochs=3, patience=3, batch_rows=32, learning_rate=0.01, table_learning_rate=0.01)


def streamed(data: Dataset, folder: Path, group_rows: int, chunk_rows: int | None = None) -> DiskDataset:
    """The rows of a set on disk."""
    writer = DiskDatasetWriter(folder / "train.parquet", group_rows)
    whole = FrameRows(data.rows, data.numeric, data.candidate, data.history)
    step = chunk_rows or len(data)
    for start in range(0, len(data), step):
        writer.add(whole.take(np.arange(start, min(start + step, len(data)))))
    writer.close()
    return DiskDataset(folder / "train.parquet", data.history_items, data.history_us, data.items)


def numbered(rows: int) -> Dataset:
    """Rows that their time tells apart."""
    data = random_set(rows)
    return dataclasses.replace(data, rows=dataclasses.replace(data.rows, at_us=np.arange(rows)))


@cache
def on_disk(rows: int, group_rows: int) -> DiskDataset:
    return streamed(numbered(rows), Path(tempfile.mkdtemp(prefix="sidkit-test-")), group_rows)


def order_of(tensors: DiskBatches | Batches, size: int, generator: torch.Generator | None) -> list[list[int]]:
    return [batch.at_us.tolist() for batch in tensors.batches(size, generator)]


@law
@given(st.integers(1, 70), st.integers(1, 30), st.integers(1, 80), st.integers(1, 25), st.integers(0, 3))
def test_every_row_comes_once_per_epoch_in_full_batches(
    rows: int, group_rows: int, buffer_rows: int, size: int, seed: int
) -> None:
    tensors = DiskBatches(on_disk(rows, group_rows), SCALING, VOCABULARY, buffer_rows)
    assert len(tensors) == rows
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        batches = order_of(tensors, size, generator)
        assert sorted(itertools.chain(*batches)) == list(range(rows))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert 1 <= len(batches[-1]) <= size
    assert list(itertools.chain(*order_of(tensors, size, None))) == list(range(rows))


@law
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 60), st.integers(0, 3))
def test_a_batch_holds_what_its_rows_hold_in_memory(rows: int, group_rows: int, buffer_rows: int, seed: int) -> None:
    tensors = DiskBatches(on_disk(rows, group_rows), SCALING, VOCABULARY, buffer_rows)
    memory = Batches(numbered(rows), SCALING, VOCABULARY)
    for batch in tensors.batches(7, torch.Generator().manual_seed(seed)):
        assert same_batch(batch, memory.batch(batch.at_us))


def same_batch(left: Batch, right: Batch) -> bool:
    pairs = [
        (getattr(mine, each.name), getattr(other, each.name))
        for mine, other in ((left, right), (left.items, right.items))
        for each in dataclasses.fields(mine)
    ]
    return all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor) and b is not None
    )


def test_the_seed_decides_the_order_and_each_epoch_has_its_own() -> None:
    tensors = DiskBatches(on_disk(60, 7), SCALING, VOCABULARY, 20)
    first, again, other = (torch.Generator().manual_seed(seed) for seed in (0, 0, 1))
    epochs = [[order_of(tensors, 8, generator) for _ in range(2)] for generator in (first, again, other)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert epochs[0][0] != epochs[0][1]


def test_rows_of_one_group_part_and_rows_of_several_meet() -> None:
    tensors = DiskBatches(on_disk(70, 7), SCALING, VOCABULARY, 21)
    generator = torch.Generator().manual_seed(0)
    together = set()
    for _ in range(20):
        order = itertools.chain(*order_of(tensors, 7, generator))
        groups = [row // 7 for row in order]
        assert all(len(set(groups[start : start + 7])) > 1 for start in range(0, 63, 21))
        together |= {frozenset(groups[start : start + 21]) for start in range(0, 63, 21)}
    assert len(together) > 40, "which groups share a buffer is drawn anew each epoch"


def trained(
    training: Batches | DiskBatches, spec: TrainingSpec = SPEC, *, killed_at: int = -1, kept: Path | None = None
) -> Trained:
    class Fragile(CtrModel):
        calls = 0

        def forward(self, batch: Batch) -> torch.Tensor:
            self.calls += 1
            if self.calls == killed_at:
                raise KeyboardInterrupt
            return super().forward(batch)

    def made() -> CtrModel:
        return Fragile(PARTS, SHAPE, len(feature_names()), MODEL, fitted_to(DATA, SHAPE, VOCABULARY, MODEL))

    validation = Batches(VALIDATION, SCALING, VOCABULARY)
    return train(made, training, validation, spec, seed=0, threads=1, checkpoint=kept)


def test_with_all_rows_in_one_buffer_the_weights_are_those_of_training_in_memory(tmp_path: Path) -> None:
    """The same order and the same numbers; of the matches, which are standardised by a mean and a deviation that are summed in
    another order, the last digit may differ. Everything else is the same bit by bit.
    """
    ours = trained(DiskBatches(streamed(DATA, tmp_path, 40), SCALING, VOCABULARY)).model.state_dict()
    theirs = trained(Batches(DATA, SCALING, VOCABULARY)).model.state_dict()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_without_matches_one_buffer_gives_the_same_weights_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CtrModel, "scale_matches", lambda model, matches: None)
    ours = trained(DiskBatches(streamed(DATA, tmp_path, 40), SCALING, VOCABULARY)).model.state_dict()
    theirs = trained(Batches(DATA, SCALING, VOCABULARY)).model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("killed_at", [3, 9, 14])
def test_a_killed_streamed_training_ends_with_the_weights_it_would_have_had(tmp_path: Path, killed_at: int) -> None:
    # An epoch is five training batches, from four buffers, and one of validation.
    def tensors() -> DiskBatches:
        return DiskBatches(DiskDataset(data.path, data.history_items, data.history_us, data.items), SCALING,
                                 VOCABULARY, 40)  # fmt: skip

    data = streamed(DATA, tmp_path, 20)
    whole, kept = trained(tensors()), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(tensors(), killed_at=killed_at, kept=kept)
    resumed = trained(tensors(), kept=kept)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.validation_auc == whole.validation_auc


@law
@given(st.integers(2, 80), st.integers(1, 30), st.integers(0, 5))
def test_what_is_learned_of_the_rows_does_not_depend_on_where_they_lie(rows: int, group_rows: int, seed: int) -> None:
    memory = random_set(rows, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        disk = streamed(memory, Path(folder), group_rows)
        ours, theirs = (Scaling.fit_chunks(each.feature_chunks(), 0.5) for each in (disk, memory))
        assert theirs == Scaling.fit(memory.features, 0.5)
        assert np.array(ours.mean) == pytest.approx(np.array(theirs.mean), rel=1e-12, abs=1e-14)
        assert np.array(ours.scale) == pytest.approx(np.array(theirs.scale), rel=1e-10)
        assert vocabulary_of(disk) == vocabulary_of(memory) == Vocabulary.fit(memory.rows.item_ids)
        left, right = (seen_in(each, VOCABULARY) for each in (disk, memory))
        for name in ("shown", "first_us", "index", "codes"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert (disk.click_rate, disk.first_us) == (memory.click_rate, memory.first_us)


@law
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 100), st.sampled_from([0.0, 1e-3, 1e3]))
def test_moments_of_chunks_are_those_of_all_rows(sizes: list[int], seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    rows = (1000 + spread * rng.normal(size=(max(sum(sizes), 1), 3))).astype(np.float32)
    sizes = sizes if sum(sizes) else [1]
    found = Moments.of(np.split(rows, np.cumsum(sizes)[:-1]))
    exact = rows.astype(np.float64)
    assert found.rows.tolist() == [len(rows)] * 3
    assert found.mean == pytest.approx(exact.mean(axis=0), rel=1e-13)
    assert found.variance == pytest.approx(exact.var(axis=0), rel=1e-9, abs=1e-18)


@law
@given(st.integers(1, 80), st.integers(1, 30), st.data())
def test_some_rows_are_taken_from_disk_as_from_memory(rows: int, group_rows: int, draw: st.DataObject) -> None:
    index = np.array(sorted(draw.draw(st.sets(st.integers(0, rows - 1)))), dtype=np.int64)
    ours, theirs = on_disk(rows, group_rows).take(index), numbered(rows).take(index)
    assert_same_rows(ours, theirs)


def assert_same_rows(left: Dataset, right: Dataset) -> None:
    for name in ("numeric", "candidate", "history", "history_items", "history_us"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    for name in ("user_ids", "item_ids", "at_us", "label"):
        np.testing.assert_array_equal(getattr(left.rows, name), getattr(right.rows, name))


def context_of(folder: Path, train_rows: Dataset | DiskDataset) -> TrainingContext:
    return TrainingContext(
        train=train_rows, validation=VALIDATION, test=random_set(50, seed=3),
        spec=RankerSpec(model=MODEL.model_copy(update={"history": "target_attention"}), training=SPEC),
        rate=0.5, threads=1,
        trained_on=TRAINED_ON,
        serving=SERVING,
        rankers=folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        ArmSpec(representations=("id", "prefix_ngram")),
        ArmSpec(representations=("id", "prefix_ngram"), shuffle_codes=True),
        ArmSpec(kind="gbdt"),
    ],
)
def test_every_kind_of_arm_says_the_same_of_rows_on_disk(tmp_path: Path, spec: ArmSpec) -> None:
    disk = streamed(DATA, tmp_path, 40)
    ours, theirs = (
        train_arm(context_of(tmp_path / where, rows), "arm", spec, 0, "arm_s0")
        for where, rows in (("disk", disk), ("memory", DATA))
    )
    np.testing.assert_allclose(ours.test, theirs.test, rtol=1e-3, atol=1e-4)
    if ours.ranker is not None:
        kept = Ranker.load(tmp_path / "disk" / "arm_s0")
        np.testing.assert_array_equal(kept.score(random_set(50, seed=3)), ours.test)


def test_boosting_takes_a_sample_of_users_of_a_part_that_is_too_large(tmp_path: Path) -> None:
    disk = streamed(DATA, tmp_path, 40)
    spec = RankerSpec(training=SPEC.model_copy(update={"stream_rows": 70}))
    few = dataclasses.replace(context_of(tmp_path, disk), spec=spec).train_in_memory()
    assert 0 < len(few) < len(DATA)
    kept = set(few.rows.user_ids)
    assert (few.rows.user_ids == [user for user in DATA.rows.user_ids if user in kept]).all()


def test_a_run_that_was_kept_before_rows_could_be_streamed_is_still_the_same_run() -> None:
    assert "stream_rows" not in SPEC.model_dump(mode="json")
    assert TrainingSpec(stream_rows=7).stream_rows == 7


def parts_of(rows: Dataset, size: int) -> Iterator[Dataset]:
    for start in range(0, len(rows), size):
        yield rows.take(np.arange(start, min(start + size, len(rows))))


def test_rows_that_are_added_in_parts_lie_as_if_added_at_once(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, parts = streamed(DATA, tmp_path / "whole", 30), streamed(DATA, tmp_path / "parts", 30, 60)
    assert whole.group_rows == parts.group_rows == [30] * 5
    for left, right in zip(whole.chunks(), parts_of(DATA, 30), strict=True):
        assert_same_rows(left, right)
    assert_same_rows(parts.take(np.arange(150)), DATA)
