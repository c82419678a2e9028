"""Gates and attention of a trained model, as people look at them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_training_engine import DATA, SCALING, SHAPE, VOCABULARY

from helpers.training_builders import fitted_to
from ranking.data.batches import Batches
from ranking.data.numeric_features import feature_names
from ranking.experiments.comparison.explain import attention_maps, gate_values
from ranking.models.ctr_model import CtrModel
from ranking.models.spec import ModelSpec


def model_of(parts: tuple[str, ...], history: str, **changes: object) -> CtrModel:
    spec = ModelSpec(dim=4, hidden=(8,)).model_copy(update={"history": history, **changes})
    torch.manual_seed(0)
    return CtrModel(parts, SHAPE, len(feature_names()), spec, fitted_to(DATA, SHAPE, VOCABULARY, spec))


def tensors() -> Batches:
    return Batches(DATA, SCALING, VOCABULARY)


@pytest.mark.parametrize(
    ("history", "names"),
    [("target_attention", ["attention"]), ("bidirectional", ["modality", "behaviour"]), ("mean", [])],
)
def test_attention_sums_to_one_over_what_is_there(history: str, names: list[str]) -> None:
    maps = attention_maps(model_of(("id", "mba"), history), tensors())
    assert list(maps) == names
    there = DATA.history_items[DATA.history] != 0
    for weights in maps.values():
        assert weights.shape == (len(DATA), 2, DATA.history_items.shape[1])
        assert (weights[~np.broadcast_to(there[:, None], weights.shape)] == 0).all()
        assert weights.sum(axis=2) == pytest.approx(
            np.repeat(there.any(axis=1)[:, None], 2, axis=1).astype(float), abs=1e-5
        )


def test_a_gate_lies_between_codes_and_id_and_follows_its_row() -> None:
    gate = gate_values(model_of(("mba", "rq_opq_gate"), "mean"), tensors())
    assert gate is not None
    assert gate.shape == (len(DATA),)
    coded = DATA.items.codes[DATA.candidate][:, 0] >= 0
    assert ((gate > 0) & (gate < 1))[coded].all()
    assert (gate[~coded] == 1).all()
    assert len(np.unique(gate[coded])) > 50


def test_a_model_without_a_gate_has_no_gate_values() -> None:
    assert gate_values(model_of(("id", "mba"), "mean"), tensors()) is None
    assert gate_values(model_of(("rq_opq_gate",), "mean", gate_parts="opq"), tensors()) is None
