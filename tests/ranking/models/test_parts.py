"""Parts of a model: all of them are listed, and one that is forced off leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.training_builders import random_set, ranker_config
from ranking.data.batches import Batches, Vocabulary, seen_in
from ranking.data.numeric_features import Scaling
from ranking.models.ctr_model import CtrModel
from ranking.models.histories import HISTORIES
from ranking.models.histories.base import History, Space
from ranking.models.laws import check_history, check_representation
from ranking.models.parts import Attention, Gate, Part, forced_off, listening, parts_in
from ranking.models.representations import REPRESENTATIONS, short_names
from ranking.models.representations.base import Representation
from ranking.models.spec import ModelSpec
from ranking.training.loop import predict
from ranking.training.ranker import fit_representations, make_model
from sidkit.core.errors import EvaluationError, PluginError

DATA = random_set(60)
VOCABULARY = Vocabulary.fit(DATA.rows.item_ids[:40])
SCALING = Scaling.fit(DATA.features, 0.5)
BASE = ModelSpec(dim=4, heads=2, hidden=(8,), table_rows=30, spm_pieces=12, neighbours=3, query_view_columns=2)


def model_of(representations: tuple[str, ...], **changes: object) -> CtrModel:
    """A model in evaluation mode whose tables are large enough to be seen in a score."""
    config = ranker_config(representations, BASE.model_copy(update=changes), SCALING, residual_levels=2)
    seen = seen_in(DATA.take(np.arange(40)), VOCABULARY, lambda codes: np.sin(1.0 + codes[:, 2:]).astype(np.float32))
    torch.manual_seed(0)
    model = make_model(config, VOCABULARY, fit_representations(config, VOCABULARY, seen))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    return model.eval()


def scores(model: CtrModel) -> np.ndarray:
    return predict(model, Batches(DATA, SCALING, VOCABULARY))


def part_of(model: CtrModel, name: str) -> Part:
    return next(part for part in model.evaluated_parts() if part.name == name)


PARTS = {
    ("id",): {"id.table": "table"},
    ("content",): {},
    ("graph_smoothed",): {"graph_smoothed.table": "table", "graph_smoothed.smoothing": "gate"},
    ("sid",): {"sid.codes.table": "table"},
    ("routed_sid",): {
        "routed_sid.codes.table": "table",
        "routed_sid.router": "gate",
        "routed_sid.history_router": "gate",
    },
    ("ngram",): {"ngram.table": "table"},
    ("prefix_ngram",): {"prefix_ngram.table": "table"},
    ("spm",): {"spm.table": "table"},
    ("mba",): {"mba.codes.table": "table"},
    ("code_queries",): {
        "code_queries.codes.table": "table",
        "code_queries.layers.0.among": "attention",
        "code_queries.layers.0.across": "attention",
        "code_queries.layers.1.among": "attention",
        "code_queries.layers.1.across": "attention",
    },
    ("rq_opq_gate",): {
        "rq_opq_gate.table": "table",
        "rq_opq_gate.rq.table": "table",
        "rq_opq_gate.opq.table": "table",
        "rq_opq_gate.candidate_gate": "gate",
        "rq_opq_gate.history_gate": "gate",
    },
    ("group_mean",): {
        "group_mean.table": "table",
        "group_mean.group_share": "gate",
        "group_mean.history_group_share": "gate",
    },
    ("kept_views",): {
        "kept_views.table": "table",
        "kept_views.rq.table": "table",
        "kept_views.opq.table": "table",
        "kept_views.candidate_gate": "gate",
        "kept_views.history_gate": "gate",
    },
}
HISTORY_PARTS = {
    "mean": {},
    "target_attention": {
        "target_attention.attention": "attention",
        "target_attention.attention.recency": "table",
    },
    "bidirectional": {
        "bidirectional.modality": "attention",
        "bidirectional.modality.recency": "table",
        "bidirectional.behaviour": "attention",
        "bidirectional.behaviour.recency": "table",
    },
    "anchors": {
        "anchors.pool": "attention",
        "anchors.attention": "attention",
        "anchors.attention.recency": "table",
    },
    "shared_gated": {
        "shared_gated.modality": "attention",
        "shared_gated.modality.recency": "table",
        "shared_gated.behaviour": "attention",
        "shared_gated.behaviour.recency": "table",
        "shared_gated.gate": "gate",
    },
}


def test_every_built_in_representation_is_in_the_inventory() -> None:
    assert {name for (name,) in PARTS} == set(REPRESENTATIONS)
    for representations, expected in PARTS.items():
        model = model_of(representations, history="mean")
        assert {part.name: part.kind for part in model.evaluated_parts()} == expected


def test_every_built_in_history_is_in_the_inventory() -> None:
    assert set(HISTORY_PARTS) == set(HISTORIES)
    for history, expected in HISTORY_PARTS.items():
        model = model_of(("id", "content"), history=history)
        assert {part.name: part.kind for part in model.evaluated_parts()} == {"id.table": "table", **expected}
    attentions = [part.name for part in model_of(("id", "sid"), sid_match="attention").evaluated_parts()]
    assert {"sid_match.attentions.0", "sid_match.attentions.1"} <= set(attentions)


def test_parts_that_another_arm_has_under_another_name_have_its_role() -> None:
    gated = {part.name: part.role for part in model_of(("rq_opq_gate",)).evaluated_parts()}
    plain = {part.role for part in model_of(("id", "sid")).evaluated_parts()}
    assert gated["rq_opq_gate.table"] == "id.table"
    assert {name for name, role in gated.items() if role not in plain} == {
        "rq_opq_gate.candidate_gate",
        "rq_opq_gate.history_gate",
    }


@pytest.mark.parametrize("name", ["id.table", "target_attention.attention", "target_attention.attention.recency"])
def test_a_part_is_restored_bit_by_bit_also_after_an_error(name: str) -> None:
    model = model_of(("id", "content"))
    before, state = scores(model), {key: tensor.clone() for key, tensor in model.state_dict().items()}
    changed = []

    def fail() -> None:
        with forced_off(part_of(model, name)):
            changed.append(not np.array_equal(scores(model), before))
            raise KeyError(name)

    with pytest.raises(KeyError):
        fail()
    assert changed == [True]
    np.testing.assert_array_equal(scores(model), before)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_an_attention_that_is_off_pools_by_the_mean() -> None:
    model = model_of(("id", "content"), history="bidirectional")
    seen: list[tuple[Tensor, Tensor]] = []
    part = part_of(model, "bidirectional.behaviour")
    with forced_off(part), listening(part, lambda weights, mask: seen.append((weights, mask))):
        off = scores(model)
    for weights, mask in seen:
        uniform = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        assert torch.allclose(weights, uniform[:, None].expand_as(weights))
    # The other attention is not affected.
    with forced_off(part), forced_off(part_of(model, "bidirectional.modality")):
        assert not np.array_equal(scores(model), off)


def test_a_gate_of_1_leaves_the_id_alone_and_a_gate_of_0_the_codes() -> None:
    model = model_of(("rq_opq_gate",), gate_parts="rq")
    gates = [part_of(model, f"rq_opq_gate.{name}") for name in ("candidate_gate", "history_gate")]
    assert [gate.off_values for gate in gates] == [(0.0, 1.0)] * 2
    batch = Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(len(DATA)))
    coded = (batch.candidate_codes >= 0).all(dim=1)
    part = model.parts[0]
    with torch.no_grad(), forced_off(gates[0], 1.0), forced_off(gates[1], 1.0):
        items, candidates = part.encode(batch)
    ids = model.state_dict()["representations.0.table.weight"]
    assert torch.allclose(candidates, ids[batch.candidate_index])
    assert torch.allclose(items, ids[batch.items.index])
    with torch.no_grad(), forced_off(gates[0], 0.0), forced_off(part_of(model, "rq_opq_gate.table")):
        _, codes_alone = part.encode(batch)
    with torch.no_grad(), forced_off(gates[0], 0.0):
        _, candidates = part.encode(batch)
    assert torch.equal(candidates[coded], codes_alone[coded])


def test_training_is_never_affected() -> None:
    model = model_of(("rq_opq_gate",), id_dropout=0.0, dropout=0.0)
    batch = Batches(DATA, SCALING, VOCABULARY).batch(torch.arange(len(DATA)))
    expected = model.train()(batch)
    with (
        pytest.raises(EvaluationError, match=r"in evaluation mode to force .* off"),
        forced_off(model.evaluated_parts()[0]),
    ):
        pass
    switches = [part for part in model.eval().evaluated_parts() if part.kind != "table"]
    assert len(switches) == 3
    for part in switches:
        with forced_off(part):
            assert torch.equal(model.train()(batch), expected)
            model.eval()


def test_sparse_tables_can_be_off() -> None:
    model = model_of(("id", "content"))
    part = part_of(model, "id.table")
    with forced_off(part):
        dense = scores(model)
    part.module.sparse = True  # type: ignore[assignment]
    with forced_off(part):
        np.testing.assert_allclose(scores(model), dense, rtol=1e-6)


class Undeclared(nn.Module):
    """A module of a user's own: tied tables, declared nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Embedding(3, 2), nn.Embedding(3, 2), nn.EmbeddingBag(3, 2)
        self.second.weight = self.first.weight


def test_embedding_tables_need_no_declaration_and_shared_ones_are_listed_once() -> None:
    assert [part.name for part in parts_in(Undeclared(), "own")] == ["own.first", "own.other"]


def test_plug_ins_have_short_names_unless_two_have_the_same() -> None:
    assert short_names(("id", "a/first.py:Codes@0123")) == ("id", "Codes")
    assert short_names(("first.py:Codes@0123", "second.py:Codes@4567")) == (
        "first.py:Codes@0123",
        "second.py:Codes@4567",
    )


class Stubborn(Attention):
    """An attention that does not let itself be forced off."""

    def forward(self, weights: Tensor, mask: Tensor) -> Tensor:
        weights = torch.softmax(weights.masked_fill(~mask, -1e9), dim=1) * mask
        self.observe(weights[:, None], mask)
        return weights


class StubbornHistory(History):
    """A history whose attention ignores that it is off."""

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        self.dim = modality_dim
        self.attention = Stubborn()

    def forward(self, modality: Space, behaviour: Space, batch: object) -> Tensor:
        past = modality.history(batch)  # type: ignore[arg-type]
        weights = self.attention(past[:, :, 0], batch.mask)  # type: ignore[attr-defined]
        return (weights[:, None] @ past).squeeze(1)


class Sticky(Gate):
    """A gate that remembers what it was forced to."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.ones(()))

    def forward(self, values: Tensor) -> Tensor:
        if self.forced is not None:
            self.last = torch.tensor(self.forced)
        return values * self.last


class StickyRepresentation(Representation):
    """A representation whose gate is not restored."""

    def __init__(self) -> None:
        super().__init__(6)
        self.gate = Sticky()

    @classmethod
    def from_spec(cls, shape: object, spec: ModelSpec, fitted: object = None) -> StickyRepresentation:  # type: ignore[override]
        return cls()

    def forward(self, items: object) -> Tensor:
        content: Tensor = self.gate(items.content)  # type: ignore[attr-defined]
        return content


def test_the_laws_refuse_a_plug_in_that_cannot_be_forced_off() -> None:
    with pytest.raises(PluginError, match=r"StubbornHistory.attention must be uniform while it is off"):
        check_history(StubbornHistory)
    with pytest.raises(PluginError, match=r"StickyRepresentation.gate off must not change the state"):
        check_representation(StickyRepresentation)


class Weightless(StickyRepresentation):
    """A representation whose declared loss ignores its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()  # type: ignore[assignment]

    @classmethod
    def losses(cls, spec: ModelSpec) -> dict[str, str]:
        return {"own": "options.own_weight"}

    def auxiliary(self, batch: object) -> dict[str, Tensor]:
        return {"own": torch.ones((), requires_grad=True)}


def test_the_laws_refuse_a_declared_loss_without_a_weight() -> None:
    with pytest.raises(PluginError, match=r"own must be 0 or absent if options.own_weight is 0"):
        check_representation(Weightless)
