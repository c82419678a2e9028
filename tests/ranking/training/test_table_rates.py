"""Which learning rate trains which part, and the settings of earlier versions."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from helpers.training_builders import CONTENT_DIM, SIZES
from ranking.data.numeric_features import feature_names
from ranking.models.ctr_model import CtrModel
from ranking.models.parts import parts_in
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec
from ranking.training.optimizers import make_optimizers
from ranking.training.spec import TrainingSpec

SHAPE = ItemShape(30, SIZES, CONTENT_DIM, residual_levels=2, numeric_dim=len(feature_names()))
RATES = TrainingSpec(learning_rate=0.1, table_learning_rate=0.01, code_table_learning_rate=0.02)
ID_TABLES = {"id.table", "rq_opq_gate.table"}


def model_of(*representations: str, **settings: object) -> CtrModel:
    torch.manual_seed(0)
    spec = ModelSpec.model_validate({"dim": 8, "hidden": (4,), **settings})
    return CtrModel(representations, SHAPE, len(feature_names()), spec)


def rates_of(model: nn.Module, spec: TrainingSpec) -> dict[int, float]:
    """Id of a parameter -> its learning rate."""
    groups = [group for optimizer in make_optimizers(model, spec) for group in optimizer.param_groups]
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("optimiser", ["adamw", "rowwise_adagrad"])
@pytest.mark.parametrize("history", ["target_attention", "bidirectional"])
@pytest.mark.parametrize(
    "representations", [("id", "sid"), ("id", "ngram"), ("id", "prefix_ngram"), ("id", "spm"), ("rq_opq_gate", "mba")]
)
def test_ids_codes_and_layers_have_rates_of_their_own(
    representations: tuple[str, ...], history: str, optimiser: str
) -> None:
    model = model_of(*representations, history=history)
    rates = rates_of(model, RATES.model_copy(update={"table_optimiser": optimiser}))
    tables = {part.name: part.module.weight for part in model.evaluated_parts() if part.kind == "table"}
    recency = {name for name in tables if name.endswith("recency")}
    assert recency
    expected = {name: 0.1 if name in recency else 0.01 if name in ID_TABLES else 0.02 for name in tables}
    assert {name: rates[id(weight)] for name, weight in tables.items()} == expected
    others = [parameter for parameter in model.parameters() if all(parameter is not each for each in tables.values())]
    assert {rates[id(parameter)] for parameter in others} == {0.1}
    assert len(rates) == len(list(model.parameters()))


def test_codes_train_like_ids_unless_they_have_a_rate() -> None:
    model = model_of("id", "sid")
    rates = rates_of(model, TrainingSpec(table_learning_rate=0.01))
    tables = [part.module.weight for part in model.evaluated_parts() if part.name in {"id.table", "sid.codes.table"}]
    assert [rates[id(weight)] for weight in tables] == [0.01, 0.01]


@pytest.mark.parametrize("name", ["sid", "ngram", "prefix_ngram", "spm", "rq_opq_gate"])
def test_tables_start_with_the_size_of_the_settings(name: str) -> None:
    def sizes(**settings: object) -> dict[str, float]:
        model = model_of("id", name, **settings) if name != "rq_opq_gate" else model_of(name, **settings)
        parts = [part for each in model.parts for part in parts_in(each, type(each).__name__)]
        return {part.name: float(part.module.weight.detach().std()) for part in parts if part.kind == "table"}

    before, after = sizes(), sizes(code_table_start=0.2, id_table_start=0.4)
    is_id = {"IdRepresentation.table", "RqOpqGateRepresentation.table"}
    for part, size in before.items():
        assert after[part] == pytest.approx(size * (40 if part in is_id else 20), rel=1e-3)


def test_the_corrections_of_mba_start_at_zero_whatever_the_settings_say() -> None:
    model = model_of("id", "mba", code_table_start=0.2)
    (corrections,) = (part.module.weight for part in model.evaluated_parts() if part.name == "mba.codes.table")
    assert (corrections == 0).all()


def test_settings_that_are_not_given_are_not_written_and_given_ones_are() -> None:
    later = {"attention", "attention_scale", "id_table_start", "code_table_start"}
    assert not later & set(ModelSpec().model_dump())
    assert "code_table_learning_rate" not in TrainingSpec().model_dump()
    assert TrainingSpec(code_table_learning_rate=0.1).model_dump()["code_table_learning_rate"] == 0.1
    written = ModelSpec(attention="cosine", attention_scale=3.0).model_dump()
    assert ModelSpec.model_validate(written) == ModelSpec(attention="cosine", attention_scale=3.0)
    assert written["attention_scale"] == 3.0


def test_an_arm_can_return_to_dot_products() -> None:
    arm = ArmSpec(representations=("id",), model=ModelSpec(attention="dot"))
    again = ArmSpec.model_validate(arm.model_dump(mode="json"))
    assert again.model_spec(ModelSpec(attention="cosine")).attention == "dot"
    assert ArmSpec(representations=("id",)).model_spec(ModelSpec(attention="cosine")).attention == "cosine"


@pytest.mark.parametrize(
    ("spec", "settings"),
    [(ModelSpec, {"attention": "sine"}), (ModelSpec, {"attention_scale": 0}), (ModelSpec, {"code_table_start": -1}),
     (ModelSpec, {"id_table_start": 0}), (TrainingSpec, {"code_table_learning_rate": 0})],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(
    spec: type[ModelSpec] | type[TrainingSpec], settings: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        spec.model_validate(settings)
