"""The ranker as a function of its rows, and how it is trained."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import CONTENT_DIM, SIZES, fitted_to, random_set
from ranking.data.batches import Batch, Batches, Vocabulary
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.evaluation.metrics import auc
from ranking.models.ctr_model import CtrModel
from ranking.models.representations import REPRESENTATIONS
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.loop import Epoch, Trained, predict, train
from ranking.training.spec import TrainingSpec
from sidkit.core.errors import ConfigError, SidkitError

law = settings(max_examples=40, deadline=None, database=None)
EVERY = tuple(REPRESENTATIONS)
SMALL = ModelSpec(dim=6, heads=2, hidden=(16, 8), dropout=0.3, id_dropout=0.2, table_rows=30)
DATA = random_set(60)
VOCABULARY = Vocabulary.fit(DATA.rows.item_ids[:40])
SCALING = Scaling.fit(DATA.features, 0.5)
SHAPE = ItemShape(VOCABULARY.size, SIZES, CONTENT_DIM, residual_levels=2, numeric_dim=len(feature_names()))
FITTED = fitted_to(DATA, SHAPE, VOCABULARY, SMALL)
FAST = TrainingSpec(epochs=3, patience=3, batch_rows=32, learning_rate=0.01, table_learning_rate=0.01)


def model_of(representations: tuple[str, ...] = EVERY, spec: ModelSpec = SMALL, seed: int = 0) -> CtrModel:
    """A model whose embeddings are large enough to be seen in a score."""
    torch.manual_seed(seed)
    model = CtrModel(representations, SHAPE, len(feature_names()), spec, FITTED)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    return model.eval()


def tensors_of(data: Dataset) -> Batches:
    return Batches(data, SCALING, VOCABULARY)


def scores(model: CtrModel, data: Dataset) -> np.ndarray:
    return predict(model, tensors_of(data))


@pytest.mark.parametrize("representations", [("id",), ("content",), ("prefix_ngram",), EVERY])
@law
@given(chosen=st.lists(st.integers(0, len(DATA) - 1), min_size=1, max_size=30))
def test_a_score_does_not_depend_on_the_other_rows_of_its_batch(
    representations: tuple[str, ...], chosen: list[int]
) -> None:
    model = model_of(representations)
    rows = np.array(chosen)
    assert scores(model, DATA.take(rows)) == pytest.approx(scores(model, DATA)[rows], abs=1e-6)


@law
@given(st.permutations(range(20)))
def test_scores_follow_their_candidates_in_whatever_order_they_come(order: list[int]) -> None:
    model = model_of()
    page = DATA.take(np.arange(20))
    assert scores(model, page.take(np.array(order))) == pytest.approx(scores(model, page)[order], abs=1e-6)


@law
@given(st.integers(1, 70))
def test_a_score_does_not_depend_on_the_size_of_the_batch(size: int) -> None:
    model = model_of()
    tensors = tensors_of(DATA)
    with torch.inference_mode():
        told = torch.cat([torch.sigmoid(model(batch)) for batch in tensors.batches(size)]).numpy()
    assert told == pytest.approx(predict(model, tensors), abs=1e-6)


@law
@given(st.integers(1, 6))
def test_more_padding_changes_no_score(columns: int) -> None:
    model = model_of()
    wider = dataclasses.replace(
        DATA,
        history_items=np.pad(DATA.history_items, ((0, 0), (0, columns))),
        history_us=np.pad(DATA.history_us, ((0, 0), (0, columns))),
    )
    assert scores(model, wider) == pytest.approx(scores(model, DATA), abs=1e-6)


def test_scores_differ_between_candidates_between_histories_and_between_features() -> None:
    model = model_of()
    one = DATA.take(np.zeros(2, dtype=np.int64))
    for field, other in [("candidate", 3), ("history", 5)]:
        values = getattr(one, field).copy()
        values[1] = other if values[0] != other else other + 1
        first, second = scores(model, dataclasses.replace(one, **{field: values}))
        assert abs(first - second) > 1e-6, field
    numeric = one.numeric.copy()
    numeric[1] += 1
    first, second = scores(model, dataclasses.replace(one, numeric=numeric))
    assert abs(first - second) > 1e-6


def test_scores_are_probabilities_in_double_precision_and_repeat() -> None:
    model = model_of()
    told = scores(model, DATA)
    assert told.dtype == np.float64
    assert told.shape == (len(DATA),)
    assert ((told > 0) & (told < 1)).all()
    # Dropout never reaches a score, also when training was stopped in the middle.
    model.train()
    assert np.array_equal(scores(model, DATA), told)


def test_no_rows_give_no_scores() -> None:
    assert scores(model_of(), DATA.take(np.zeros(0, dtype=np.int64))).shape == (0,)


@pytest.mark.parametrize("representations", [("id",), ("content",), ("prefix_ngram",), EVERY])
def test_gradients_reach_every_parameter_and_are_finite(representations: tuple[str, ...]) -> None:
    model = model_of(representations).train()
    batch = tensors_of(DATA).batch(torch.arange(len(DATA)))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
    (loss + sum(model.auxiliary(batch).values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_rows_without_any_history_train_without_nan() -> None:
    data = dataclasses.replace(DATA, history=np.zeros(len(DATA), dtype=np.int32))
    model = model_of().train()
    batch = tensors_of(data).batch(torch.arange(len(data)))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert math.isfinite(loss.item())


def test_an_unknown_representation_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(
        ConfigError, match="out of id, graph_smoothed, content, prefix_ngram, .*got unknown 'telepathy'"
    ):
        model_of(("id", "telepathy"))
    with pytest.raises(ConfigError, match="id, graph_smoothed, content, prefix_ngram"):
        model_of(())


def trained(
    training: Dataset, validation: Dataset, spec: TrainingSpec = FAST, seed: int = 0, model: ModelSpec = SMALL
) -> Trained:
    return train(
        lambda: CtrModel(EVERY, SHAPE, len(feature_names()), model, FITTED),
        tensors_of(training), tensors_of(validation), spec, seed=seed, threads=1,
    )  # fmt: skip


def weights(result: Trained) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_same_seed_gives_the_same_weights_and_another_seed_gives_others() -> None:
    torch.manual_seed(99)
    first = trained(random_set(200, seed=1), random_set(100, seed=2))
    torch.rand(17)  # what happened before must not matter
    again = trained(random_set(200, seed=1), random_set(100, seed=2))
    other = trained(random_set(200, seed=1), random_set(100, seed=2), seed=1)
    assert same(weights(first), weights(again))
    assert first.validation_auc == again.validation_auc
    assert not same(weights(first), weights(other))


def test_training_learns_what_the_features_tell() -> None:
    training, validation = random_set(1500, seed=1), random_set(600, seed=2)
    result = trained(training, validation, FAST.model_copy(update={"epochs": 4}))
    assert result.validation_auc[result.best_epoch] > 0.8


def test_the_kept_model_is_that_of_the_epoch_with_the_best_validation_auc() -> None:
    training, validation = random_set(150, seed=3), random_set(150, seed=4)
    spec = FAST.model_copy(update={"epochs": 20, "patience": 3, "learning_rate": 0.05})
    result = trained(training, validation, spec)
    curve = result.validation_auc
    assert curve[result.best_epoch] == max(curve)
    assert result.best_epoch < len(curve) - 1, "the example must have later, worse epochs"
    reached = auc(validation.rows.label, predict(result.model, tensors_of(validation)))
    assert reached == max(curve)
    short = trained(training, validation, spec.model_copy(update={"epochs": result.best_epoch + 1}))
    assert same(weights(result), weights(short))
    assert not result.model.training


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_training_stops_after_so_many_epochs_without_a_better_one(
    patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter(np.linspace(0.9, 0.6, 20).tolist())
    monkeypatch.setattr("ranking.training.loop.auc", lambda *_: next(falling))
    spec = FAST.model_copy(update={"epochs": 20, "patience": patience})
    result = trained(random_set(100, seed=1), random_set(50), spec)
    assert result.best_epoch == 0
    assert len(result.validation_auc) == patience + 1


def test_training_does_not_stop_while_the_model_is_worse_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    late = iter([0.48, 0.47, 0.46, 0.45, 0.7, 0.69, 0.68, 0.67, 0.66])
    monkeypatch.setattr("ranking.training.loop.auc", lambda *_: next(late))
    result = trained(random_set(100, seed=1), random_set(50), FAST.model_copy(update={"epochs": 9, "patience": 2}))
    assert result.validation_auc == (0.48, 0.47, 0.46, 0.45, 0.7, 0.69, 0.68)
    assert result.best_epoch == 4


def test_training_runs_no_more_epochs_than_asked() -> None:
    assert len(trained(random_set(100), random_set(50), FAST.model_copy(update={"epochs": 2})).validation_auc) == 2


def test_validation_labels_choose_an_epoch_but_never_move_a_weight() -> None:
    training, validation = random_set(200, seed=1), random_set(100, seed=2)
    flipped = dataclasses.replace(
        validation, rows=dataclasses.replace(validation.rows, label=1 - validation.rows.label)
    )
    one_epoch = FAST.model_copy(update={"epochs": 1})
    left, right = (trained(training, each, one_epoch) for each in (validation, flipped))
    assert same(weights(left), weights(right))
    assert left.validation_auc[0] == pytest.approx(1 - right.validation_auc[0])


def test_validation_rows_of_one_class_are_refused_or_leave_a_trained_model() -> None:
    training, validation = random_set(200, seed=1), random_set(40, seed=2)
    ones = dataclasses.replace(validation, rows=dataclasses.replace(validation.rows, label=np.ones(40, dtype=np.int8)))
    torch.manual_seed(0)
    untrained = CtrModel(EVERY, SHAPE, len(feature_names()), SMALL).state_dict()
    try:
        result = trained(training, ones)
    except SidkitError:
        return
    assert not same(weights(result), untrained)


def test_tables_decay_by_their_own_strength() -> None:
    training, validation = random_set(60, seed=1), random_set(60, seed=2)
    spec = FAST.model_copy(update={"epochs": 1, "weight_decay": 0.0, "table_weight_decay": 0.0})
    decayed = spec.model_copy(update={"table_weight_decay": 20.0})
    unused = "representations.0.table.weight"  # rows of ids that no row of the set holds
    left, right = (weights(trained(training, validation, each))[unused][0] for each in (spec, decayed))
    steps = math.ceil(60 / FAST.batch_rows)
    assert right.numpy() == pytest.approx(left.numpy() * (1 - 0.01 * 20) ** steps, rel=1e-5)


class _Watched(CtrModel):
    """Notes for each call whether dropout was on and how many rows came."""

    calls: list[tuple[bool, int]]

    def forward(self, batch: Batch) -> torch.Tensor:
        self.calls.append((self.training, len(batch.label)))
        return super().forward(batch)


def test_dropout_is_on_for_every_training_batch_and_off_for_validation() -> None:
    model = _Watched(EVERY, SHAPE, len(feature_names()), SMALL)
    model.calls = []
    spec = FAST.model_copy(update={"epochs": 2, "batch_rows": 40})
    train(lambda: model, tensors_of(random_set(100)), tensors_of(random_set(70)), spec, seed=0, threads=1)
    assert model.calls == [(True, 40), (True, 40), (True, 20), (False, 70)] * 2


def test_the_seed_decides_the_order_of_the_rows() -> None:
    still = SMALL.model_copy(update={"dropout": 0.0, "id_dropout": 0.0})

    def ordered(seed: int) -> dict[str, torch.Tensor]:
        def same_start() -> CtrModel:
            torch.manual_seed(5)
            return CtrModel(EVERY, SHAPE, len(feature_names()), still)

        parts = tensors_of(random_set(100, seed=1)), tensors_of(random_set(50, seed=2))
        return weights(train(same_start, *parts, FAST.model_copy(update={"epochs": 1}), seed=seed, threads=1))

    assert same(ordered(0), ordered(0))
    assert not same(ordered(0), ordered(1))


def test_the_reported_loss_is_the_mean_over_rows_and_reporting_changes_no_weight() -> None:
    training, validation = random_set(100, seed=3), random_set(60, seed=4)
    # Steps too small to change a score: every batch, also the short last one, is scored by the same model.
    still = FAST.model_copy(update={"epochs": 2, "learning_rate": 1e-12, "table_learning_rate": 1e-12})
    calm = SMALL.model_copy(update={"dropout": 0.0, "id_dropout": 0.0})
    epochs: list[Epoch] = []

    def run(spec: TrainingSpec, model: ModelSpec, report: object = None) -> Trained:
        return train(
            lambda: CtrModel(("id",), SHAPE, len(feature_names()), model, FITTED),
            tensors_of(training), tensors_of(validation), spec, seed=0, threads=1, report=report,  # type: ignore[arg-type]
        )  # fmt: skip

    result = run(still, calm, epochs.append)
    p = predict(result.model, tensors_of(training))
    label = training.rows.label
    expected = -np.mean(np.where(label == 1, np.log(p), np.log1p(-p)))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert [epoch.loss for epoch in epochs] == pytest.approx([expected, expected], rel=1e-4)
    assert [epoch.validation_auc for epoch in epochs] == list(result.validation_auc)
    assert same(weights(run(FAST, SMALL)), weights(run(FAST, SMALL, epochs.append)))
