"""Liveness of a trained model: what each part contributes, and how far training moved the tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from helpers.training_builders import CONTENT_DIM, SERVING, TRAINED_ON, random_set, ranker_config
from ranking.data.batches import Batches, vocabulary_of
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling
from ranking.models.attention import TargetAttention
from ranking.models.ctr_model import CtrModel
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec, RankerSpec, losses_of, without_loss
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.liveness import PartLiveness, TableChange
from ranking.training.loop import Trained, predict, train
from ranking.training.measure_liveness import liveness_rows, measure_liveness
from ranking.training.ranker import make_model
from ranking.training.spec import TrainingSpec
from ranking.training.table_changes import TableTrace
from sidkit.core.errors import ConfigError
from sidkit.core.records import record_json, record_of

DATA = random_set(300, seed=1, items=40, users=30)
VOCABULARY = vocabulary_of(DATA)
SCALING = Scaling.fit(DATA.features, 0.5)
SPEC = ModelSpec(dim=CONTENT_DIM, heads=1, hidden=(8,), dropout=0.0, id_dropout=0.0)
FAST = TrainingSpec(epochs=1, batch_rows=64, table_learning_rate=0.01)


def model_of(*representations: str, spec: ModelSpec = SPEC) -> CtrModel:
    torch.manual_seed(0)
    return make_model(ranker_config(representations, spec, SCALING, residual_levels=2), VOCABULARY)


def tensors_of(data: Dataset) -> Batches:
    return Batches(data, SCALING, VOCABULARY)


def measured(
    model: CtrModel, tables: dict[str, TableChange] | None = None, data: Dataset = DATA
) -> dict[str, PartLiveness]:
    return {part.name: part for part in measure_liveness(model, tensors_of(data), tables)}


def labelled_by(model: CtrModel) -> Dataset:
    """The rows with labels that the model predicts without error."""
    scores = predict(model, tensors_of(DATA))
    label = (scores > np.median(scores)).astype(np.int8)
    return dataclasses.replace(DATA, rows=dataclasses.replace(DATA.rows, label=label))


def attending(sharpness: float) -> CtrModel:
    """A model whose scores follow the attended history, which is the most similar one for a high sharpness."""
    model = model_of("content")
    attention = model.get_submodule("history.attention")
    assert isinstance(attention, TargetAttention)
    with torch.no_grad():
        for module in (attention.query, attention.key, model.parts[0].projection):
            nn.init.eye_(module.weight)
        attention.query.weight.mul_(sharpness)
        model.deep[0].weight[:, CONTENT_DIM : 3 * CONTENT_DIM] *= 20
    return model.eval()


def test_a_uniform_attention_has_entropy_1_and_changes_nothing() -> None:
    model = attending(0.0)
    part = measured(model, data=labelled_by(model))["target_attention.attention"]
    assert part.entropy_over_log_n == pytest.approx(1)
    assert part.auc == 1
    assert part.auc_off == (1.0,)
    assert part.delta_auc == (0.0,)


def test_a_sharp_attention_that_matters_has_low_entropy_and_loses_auc_without_it() -> None:
    model = attending(20.0)
    part = measured(model, data=labelled_by(model))["target_attention.attention"]
    assert part.entropy_over_log_n is not None and part.entropy_over_log_n < 0.3
    assert part.delta_auc[0] < -0.02
    assert part.auc is not None and part.auc_off[0] == pytest.approx(part.auc + part.delta_auc[0])


def test_histories_of_one_item_say_nothing_about_an_attention() -> None:
    short = dataclasses.replace(DATA, history_items=DATA.history_items[:, :1], history_us=DATA.history_us[:, :1])
    assert measured(attending(5.0), data=short)["target_attention.attention"].entropy_over_log_n is None


def test_a_table_at_its_start_has_size_1_and_has_not_moved() -> None:
    model = model_of("id", "mba")
    tables = TableTrace(model).changes(model, [])
    parts = measured(model.eval(), tables)
    ids, corrections = parts["id.table"], parts["mba.codes.table"]
    assert (ids.size_over_start, ids.moved) == (1, 0)
    assert ids.size == ids.start == pytest.approx(0.01, rel=0.2)
    # Zero-initialised: there is no start to compare with, and zeros instead of zeros change nothing.
    assert (corrections.size, corrections.start) == (0, 0)
    assert (corrections.size_over_start, corrections.moved) == (None, None)
    assert corrections.delta_auc == (0.0,)


def trained(spec: TrainingSpec) -> tuple[Trained, CtrModel]:
    """A model trained for an epoch on the first rows, and the same before training."""
    torch.manual_seed(3)
    start = make_model(ranker_config(("id", "content"), SPEC, SCALING, residual_levels=2), VOCABULARY)
    result = train(
        lambda: make_model(ranker_config(("id", "content"), SPEC, SCALING, residual_levels=2), VOCABULARY),
        tensors_of(DATA.take(np.arange(20))),
        tensors_of(DATA),
        spec,
        seed=3,
        threads=1,
        trace_tables=True,
    )
    return result, start


@pytest.mark.parametrize("optimiser", ["adamw", "rowwise_adagrad"])
def test_only_the_rows_that_training_saw_are_measured(optimiser: str) -> None:
    result, start = trained(FAST.model_copy(update={"table_optimiser": optimiser}))
    batch = tensors_of(DATA).batch(torch.arange(20))
    seen = torch.unique(torch.cat([batch.candidate_index, batch.history_index[batch.mask]]))
    before, after = (model.state_dict()["representations.0.table.weight"] for model in (start, result.model))
    assert len(seen) < len(before)
    change = result.tables["id.table"]
    for stated, expected in (
        (change.start, before[seen]),
        (change.size, after[seen]),
        (change.change, after[seen] - before[seen]),
    ):
        assert stated == pytest.approx(float(expected.double().square().mean().sqrt()), rel=1e-6)
    assert change.change > 0


def test_tables_are_traced_only_on_request_and_tracing_changes_no_weight() -> None:
    result, _ = trained(FAST)
    plain = train(
        lambda: make_model(ranker_config(("id", "content"), SPEC, SCALING, residual_levels=2), VOCABULARY),
        tensors_of(DATA.take(np.arange(20))),
        tensors_of(DATA),
        FAST,
        seed=3,
        threads=1,
    )
    assert plain.tables == {}
    assert all(torch.equal(plain.model.state_dict()[name], each) for name, each in result.model.state_dict().items())


def test_a_gate_has_one_auc_for_0_and_one_for_1() -> None:
    parts = measured(model_of("rq_opq_gate"))
    for name in ("rq_opq_gate.candidate_gate", "rq_opq_gate.history_gate"):
        assert (parts[name].kind, len(parts[name].auc_off), len(parts[name].delta_auc)) == ("gate", 2, 2)
    assert parts["rq_opq_gate.table"].role == "id.table"


def test_the_rows_are_whole_users_the_same_in_every_call() -> None:
    sample = liveness_rows(DATA, 120)
    assert 60 < len(sample) <= 120
    users = set(sample.rows.user_ids)
    assert len(sample) == sum(user in users for user in DATA.rows.user_ids)
    np.testing.assert_array_equal(liveness_rows(DATA, 120).rows.at_us, sample.rows.at_us)
    assert liveness_rows(DATA, 300) is DATA
    one_class = dataclasses.replace(
        DATA, rows=dataclasses.replace(DATA.rows, label=(np.arange(len(DATA)) == 0).astype(np.int8))
    )
    some = [liveness_rows(one_class, most) for most in (20, 60, 120)]
    assert all(rows.rows.label.mean() > 0 for rows in some), "all rows if the sample has one class"


def test_an_arm_is_measured_without_changing_its_predictions() -> None:
    arm = ArmSpec(representations=("rq_opq_gate",), model=ModelSpec(gate_parts="rq"))
    plain = TrainingContext(
        train=random_set(200, seed=1),
        validation=random_set(100, seed=2),
        test=random_set(80, seed=3),
        spec=RankerSpec(model=SPEC, training=FAST),
        rate=0.5,
        threads=1,
        trained_on=TRAINED_ON,
        serving=dataclasses.replace(SERVING, residual_levels=2),
        rankers=None,
    )
    result = train_arm(dataclasses.replace(plain, liveness=True), "smile", arm, 0, "smile")
    unmeasured = train_arm(plain, "smile", arm, 0, "smile")
    np.testing.assert_array_equal(result.test, unmeasured.test)
    assert unmeasured.liveness is None
    assert result.liveness is not None
    for part in result.liveness:
        assert part.auc == pytest.approx(result.validation_auc, abs=1e-6)
        assert (part.size is not None) == (part.kind == "table")
        assert record_of(PartLiveness, record_json(part), __file__) == part  # type: ignore[arg-type]


def test_losses_of_an_arm_follow_its_parts_and_weights() -> None:
    smile = ArmSpec(representations=("rq_opq_gate", "mba"))
    assert list(losses_of(smile, SPEC)) == ["rq_opq_gate.transfer", "rq_opq_gate.contrast"]
    assert list(losses_of(smile, SPEC.model_copy(update={"gate_parts": "rq"}))) == ["rq_opq_gate.transfer"]
    assert list(losses_of(smile, SPEC.model_copy(update={"transfer_weight": 0.0}))) == ["rq_opq_gate.contrast"]
    assert losses_of(ArmSpec(representations=("id", "mba")), SPEC) == {}
    assert losses_of(ArmSpec(kind="gbdt"), SPEC) == {}


def test_an_arm_without_a_loss_differs_in_its_weight_alone() -> None:
    smile = ArmSpec(representations=("rq_opq_gate",), model=ModelSpec(gate_bias=2.0))
    without = without_loss(smile, SPEC, "rq_opq_gate.contrast")
    assert without.model_spec(SPEC) == smile.model_spec(SPEC).model_copy(update={"contrast_weight": 0.0})
    assert without.model.model_fields_set == {"gate_bias", "contrast_weight"}
    assert list(losses_of(without, SPEC)) == ["rq_opq_gate.transfer"]
    with pytest.raises(ConfigError, match=r"one of rq_opq_gate.transfer, rq_opq_gate.contrast, got 'contrast'"):
        without_loss(smile, SPEC, "contrast")
