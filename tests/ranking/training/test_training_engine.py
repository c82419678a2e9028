"""Resuming a killed training, the device it runs on, and the optimizer of large tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.training_builders import CONTENT_DIM, SIZES, fitted_to, random_set
from ranking.data.batch import Batch
from ranking.data.batches import Batches, Vocabulary
from ranking.data.numeric_features import Scaling, feature_names
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.base import ItemShape, Table
from ranking.models.spec import ModelSpec
from ranking.training.device import training_device
from ranking.training.loop import Trained, predict, train
from ranking.training.optimizers import RowwiseAdagrad, make_optimizers
from ranking.training.spec import TrainingSpec
from sidkit.core.errors import ConfigError

DATA, VALIDATION = random_set(120, seed=1), random_set(60, seed=2)
VOCABULARY = Vocabulary.fit(DATA.rows.item_ids)
SCALING = Scaling.fit(DATA.features, 0.5)
SHAPE = ItemShape(VOCABULARY.size, SIZES, CONTENT_DIM, residual_levels=2, numeric_dim=len(feature_names()))
PARTS = ("mba", "rq_opq_gate")
MODEL = ModelSpec(dim=4, hidden=(8,), dropout=0.3, id_dropout=0.2, history="bidirectional")
SPEC = TrainingSpec(epochs=4, patience=4, batch_rows=30, learning_rate=0.01, table_learning_rate=0.01)


class Fragile(CtrModel):
    """A model whose process is killed at a given call."""

    calls = 0
    killed_at = -1

    def forward(self, batch: Batch) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.killed_at:
            raise KeyboardInterrupt
        return super().forward(batch)


def trained(
    spec: TrainingSpec = SPEC, *, seed: int = 0, checkpoint: Path | None = None, killed_at: int = -1
) -> Trained:
    def made() -> CtrModel:
        model = Fragile(PARTS, SHAPE, len(feature_names()), MODEL, fitted_to(DATA, SHAPE, VOCABULARY, MODEL))
        model.killed_at = killed_at
        return model

    parts = [Batches(part, SCALING, VOCABULARY) for part in (DATA, VALIDATION)]
    return train(made, *parts, spec, seed=seed, threads=1, checkpoint=checkpoint)


def test_the_head_sees_matches_by_the_mean_and_deviation_of_the_training_rows() -> None:
    model = trained().model
    parts = [Batches(part, SCALING, VOCABULARY) for part in (DATA, VALIDATION)]
    with torch.no_grad():
        matches = [torch.cat([model.matches(batch) for batch in part.batches(7)]).double() for part in parts]
    mean, deviation = matches[0].mean(dim=0), matches[0].std(dim=0, correction=0)
    seen: list[torch.Tensor] = []
    start = model.deep[0].in_features - len(mean) - len(feature_names())
    model.deep.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, start : start + len(mean)]))
    predict(model, parts[1])
    expected = ((matches[1] - mean) / deviation.clamp(min=1e-6)).clamp(-5, 5)
    # A match that is the same for all training rows says nothing.
    torch.testing.assert_close(
        torch.cat(seen).double(), torch.where(deviation > 1e-6, expected, 0), atol=1e-5, rtol=1e-5
    )
    assert (deviation > 1e-6).any()


def same(left: Trained, right: Trained) -> bool:
    ours, theirs = left.model.state_dict(), right.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and left.validation_auc == right.validation_auc


@pytest.mark.parametrize("optimizer", ["adamw", "rowwise_adagrad"])
@pytest.mark.parametrize("killed_at", [3, 8, 18])
def test_a_killed_training_ends_with_the_weights_it_would_have_had(
    tmp_path: Path, killed_at: int, optimizer: str
) -> None:
    # An epoch is four training batches and one of validation.
    spec = SPEC.model_copy(update={"table_optimiser": optimizer})
    file = tmp_path / "run.safetensors"
    whole = trained(spec)
    with pytest.raises(KeyboardInterrupt):
        trained(spec, checkpoint=file, killed_at=killed_at)
    assert file.exists() == (killed_at > 5)
    torch.rand(killed_at)  # another process has other random numbers behind it
    resumed = trained(spec, checkpoint=file)
    assert same(resumed, whole)
    assert not file.exists()


def test_resuming_does_not_train_finished_epochs_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "run.safetensors", killed_at=12)
    resumed = trained(checkpoint=tmp_path / "run.safetensors")
    assert isinstance(resumed.model, Fragile)
    assert resumed.model.calls == 10, "two of four epochs were left"


@pytest.mark.parametrize("change", [{"seed": 1}, {"spec": SPEC.model_copy(update={"learning_rate": 0.02})}])
def test_the_checkpoint_of_another_run_is_not_taken_up(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=file, killed_at=8)
    assert same(trained(checkpoint=file, **change), trained(**change))  # type: ignore[arg-type]


def test_auto_takes_a_gpu_where_there_is_one_and_cuda_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_device("auto").type == training_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        training_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device("auto").type == training_device("cuda").type == "cuda"
    assert training_device("cpu").type == "cpu"


def test_bfloat16_trains_nearly_the_same_model_in_float32_weights() -> None:
    plain, half = trained(), trained(SPEC.model_copy(update={"bf16": True}))
    assert all(each.dtype == torch.float32 for each in half.model.parameters())
    assert not same(plain, half)
    tensors = Batches(VALIDATION, SCALING, VOCABULARY)
    assert np.abs(predict(half.model, tensors) - predict(plain.model, tensors)).max() < 0.1


def test_a_trained_model_scores_other_rows_of_other_sets() -> None:
    # What was kept for the training rows must not be taken for the rows of another model.
    parts = [Batches(part, SCALING, VOCABULARY) for part in (DATA, VALIDATION)]
    spec = ModelSpec(dim=4, hidden=(8,))
    first = train(lambda: CtrModel(("content",), SHAPE, len(feature_names()), spec), *parts, SPEC, seed=0, threads=1)
    other = CtrModel(("sid",), SHAPE, len(feature_names()), spec)
    fresh = Batches(VALIDATION, SCALING, VOCABULARY)
    assert np.array_equal(predict(other, parts[1]), predict(other, fresh))
    assert np.array_equal(predict(first.model, parts[1]), predict(first.model, fresh))


def test_rowwise_adagrad_follows_the_formula_on_the_rows_of_the_batch() -> None:
    table = Table(6, 3)
    table.sparse = True
    start = table.weight.detach().numpy().astype(float)
    optimizer = RowwiseAdagrad([table.weight], lr=0.1, weight_decay=0.5)
    total, expected = np.zeros(6), start.copy()
    for rows in ([1, 3, 3], [3, 4], [1]):
        target = np.arange(3.0)
        gradient = np.zeros((6, 3))
        for row in rows:
            gradient[row] += 2 * (expected[row] - target)
        touched = sorted(set(rows))
        total[touched] += (gradient[touched] ** 2).mean(axis=1)
        move = gradient[touched] / np.sqrt(total[touched])[:, None] + 0.5 * expected[touched]
        expected[touched] -= 0.1 * move
        optimizer.zero_grad()
        (table.rows(torch.tensor(rows)) - torch.arange(3.0)).square().sum().backward()
        assert table.weight.grad is not None and table.weight.grad.is_sparse
        optimizer.step()
    assert table.weight.detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(table.weight.detach().numpy()[[0, 2, 5]], start[[0, 2, 5]].astype(np.float32))


def test_a_rare_row_does_not_jump_again_and_again() -> None:
    """Adam forgets: a row seen every hundredth step moves by its full step each time. Adagrad's steps shrink."""

    def steps(make: type[torch.optim.Optimizer], sparse: bool) -> list[float]:
        table = Table(2, 1)
        table.sparse = sparse
        optimizer = make([table.weight], lr=0.1)  # type: ignore[call-arg]
        moved = []
        for step in range(301):
            before = table.weight[1].item()
            optimizer.zero_grad(set_to_none=True)
            table.rows(torch.tensor([int(step % 100 == 0)])).sum().backward()
            optimizer.step()
            if step % 100 == 0:
                moved.append(abs(table.weight[1].item() - before))
        return moved

    adagrad, adam = steps(RowwiseAdagrad, True), steps(torch.optim.Adam, False)
    assert adagrad == sorted(adagrad, reverse=True)
    assert adagrad[-1] < 0.6 * adagrad[0]
    assert adam[-1] > 0.8 * adam[0]


def test_large_tables_have_sparse_gradients_and_everything_is_trained_once() -> None:
    model = CtrModel(PARTS, SHAPE, len(feature_names()), MODEL, fitted_to(DATA, SHAPE, VOCABULARY, MODEL))
    spec = SPEC.model_copy(update={"table_optimiser": "rowwise_adagrad"})
    optimizers = make_optimizers(model, spec)
    trained_by = [id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]]
    assert sorted(trained_by) == sorted(id(each) for each in model.parameters())
    batch = Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(30))
    sum(model.auxiliary(batch).values(), start=model(batch).sum()).backward()
    tables = [module.weight for module in model.modules() if isinstance(module, Table)]
    assert len(tables) == 4
    assert all(each.grad is not None and each.grad.is_sparse for each in tables)


@pytest.mark.parametrize("place", [0.001, 0.3, 0.6, 0.9])
def test_a_damaged_checkpoint_is_discarded_and_the_training_begins_anew(
    tmp_path: Path, place: float, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=file, killed_at=8)
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 16
    file.write_bytes(data)
    assert same(trained(checkpoint=file), trained())
    assert "run.safetensors: the checkpoint is damaged; discarding and rebuilding it" in capsys.readouterr().err
