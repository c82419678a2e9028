"""SMILE's item vector: the gate, what it sees, and what it is held to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_auxiliary_losses import SHAPE, batch_of, gate_of, seen_of

from ranking.data.batch import Batch, ItemBatch
from ranking.models.representations.base import ItemShape
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation
from ranking.models.spec import ModelSpec
from sidkit.core.errors import ConfigError

CODES = np.array([[0, 0, 1, 1], [1, 2, 0, 4], [3, 1, 2, 2], [-1, -1, -1, -1], [2, 0, 3, 0]])
INDEX = [2, 3, 1, 5, 6]  # the third item has an unknown id, the fourth no codes
SEEN = seen_of(CODES, np.zeros(7, dtype=np.int64), np.array([0, 0, 0, 1, 3, 4, 4]))


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def case(**changes: object) -> tuple[RqOpqGateRepresentation, Batch]:
    return gate_of(SEEN, **changes).eval(), batch_of(CODES, INDEX, [0, 1, 2, 3, 4, 0], [9] * 6)


def by_hand(part: RqOpqGateRepresentation, gate: np.ndarray, places: list[int]) -> np.ndarray:
    """``T id + (1 - T) RQ + lambda OPQ`` of some items, in double precision."""
    weights = {name: each.detach().numpy().astype(float) for name, each in part.named_parameters()}
    rows = []
    for t, place in zip(gate, places, strict=True):
        own = weights["table.weight"][INDEX[place]]
        a, b, c, d = CODES[place]
        if a < 0:
            rows.append(own)
            continue
        rq, opq = weights["rq.table.weight"], weights["opq.table.weight"]
        shared = weights["fuse.weight"] @ np.concatenate([rq[1 + a], rq[5 + b]]) + weights["fuse.bias"]
        apart = weights["opq_join.weight"] @ np.concatenate([opq[1 + c], opq[6 + d]])
        rows.append(t * own + (1 - t) * shared + 0.5 * apart)
    return np.array(rows)


def test_a_candidate_is_the_gated_mixture_plus_its_opq_part() -> None:
    part, batch = case()
    first, last = part.gate_net[0], part.gate_net[2]
    weight, bias, out, start = (
        each.detach().numpy().astype(float) for each in (first.weight, first.bias, last.weight, last.bias)
    )
    hidden = np.maximum(batch.numeric.numpy().astype(float) @ weight.T + bias, 0)
    gate = sigmoid(hidden @ out[0] + start[0])
    gate[2] = min(gate[2], 0.01)  # unknown id
    gate[3] = 1.0  # no codes
    assert part.gate(batch).detach().numpy() == pytest.approx(gate, abs=1e-6)
    _, candidates = part.encode(batch)
    assert candidates.detach().numpy() == pytest.approx(by_hand(part, gate, [0, 1, 2, 3, 4, 0]), abs=1e-5)


def test_the_same_item_in_two_rows_has_the_gate_of_each_row() -> None:
    part, batch = case()
    gate = part.gate(batch)
    assert gate[0] != gate[5]
    _, candidates = part.encode(batch)
    assert not torch.equal(candidates[0], candidates[5])


def test_a_history_item_is_gated_by_how_often_its_id_was_trained() -> None:
    part, batch = case(gate_evidence=3.0)
    count = np.array([3, 1, 0, 1, 2])  # training rows per id; the unknown id has none
    gate = count / (count + 3.0)
    items, _ = part.encode(batch)
    assert items.detach().numpy() == pytest.approx(by_hand(part, gate, [0, 1, 2, 3, 4]), abs=1e-5)
    assert torch.equal(items, part(batch.items))


def test_an_unknown_id_never_counts_for_more_than_it_may() -> None:
    for limit in (0.0, 0.05):
        part, batch = case(gate_unknown=limit, gate_bias=20.0)
        gate = part.gate(batch).tolist()
        assert gate[2] == pytest.approx(limit)
        assert gate[0] > 0.99


def test_a_dropped_id_is_treated_as_unknown() -> None:
    part, batch = case(gate_bias=20.0, gate_unknown=0.0, id_dropout=0.999999)
    part.train()
    torch.manual_seed(0)
    items, candidates = part.encode(batch)
    with torch.no_grad():
        shared = part._rq(batch.items.codes) + 0.5 * part._opq(batch.items.codes)
    assert candidates[0].detach().numpy() == pytest.approx(shared[0].numpy(), abs=1e-5)
    assert items[1].detach().numpy() == pytest.approx(shared[1].numpy(), abs=1e-5)


def test_the_gate_starts_in_favour_of_the_codes() -> None:
    part, _ = case()
    assert torch.sigmoid(part.gate_net[2].bias).item() < 0.5


def test_the_gate_learns_from_clicks() -> None:
    part, batch = case()
    part.encode(batch)[1].square().sum().backward()
    for parameter in part.gate_net.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_the_losses_of_the_item_never_move_the_gate() -> None:
    part, batch = case()
    sum(part.auxiliary(batch).values()).backward()
    assert all(parameter.grad is None for parameter in part.gate_net.parameters())
    assert part.log_evidence.grad is None


def test_counts_are_of_training_rows_and_the_unknown_id_has_none() -> None:
    part, _ = case()
    # seen_of numbers the ids 2, 3, 4, ... in the order of the items.
    assert part.fitted_counts.tolist() == [0, 0, 3, 1, 0, 1, 2, 0, 0]


def test_without_a_gate_the_vector_is_the_id_and_the_opq_part() -> None:
    part, batch = case(gate_parts="opq")
    items, candidates = part.encode(batch)
    expected = part.table.weight[batch.items.index] + 0.5 * part._opq(batch.items.codes)
    assert torch.allclose(items, expected)
    assert torch.allclose(candidates, expected[batch.candidate])
    assert (part.gate(batch) == 1).all()
    assert not hasattr(part, "gate_net")


def test_without_opq_the_vector_is_the_mixture() -> None:
    part, batch = case(gate_parts="rq")
    gate = part.gate(batch)[:, None]
    own, shared = part.table.weight[batch.items.index], part._rq(batch.items.codes)
    expected = gate * own[batch.candidate] + (1 - gate) * shared[batch.candidate]
    coded = batch.items.codes[batch.candidate][:, 0] >= 0
    assert torch.allclose(part.encode(batch)[1][coded], expected[coded], atol=1e-6)
    assert not hasattr(part, "opq")
    assert part.fitted_cells.numel() == 0


def test_the_mean_of_the_rows_is_another_way_to_fuse_them() -> None:
    part, batch = case(gate_fuse="mean")
    table = part.rq.table.weight
    assert torch.allclose(part._rq(batch.items.codes)[0], (table[1] + table[5]) / 2)


@pytest.mark.parametrize(
    ("levels", "parts", "said"),
    [(None, "rq_opq", 'gate_parts = "rq"'), (None, "opq", "quantizer rq_opq"), (0, "rq", 'gate_parts = "opq"')],
)
def test_codes_that_lack_a_part_are_refused(levels: int | None, parts: str, said: str) -> None:
    shape = ItemShape(9, SHAPE.sizes, 2, levels, 3)
    with pytest.raises(ConfigError, match=said):
        RqOpqGateRepresentation.from_spec(shape, ModelSpec().model_copy(update={"gate_parts": parts}))


def test_items_without_codes_leave_the_codes_tables_alone() -> None:
    part, _ = case()
    bare = ItemBatch(torch.tensor([2, 1]), torch.full((2, 4), -1), torch.zeros(2, 2))
    part(bare).sum().backward()
    for table in (part.rq.table, part.opq.table):
        assert table.weight.grad is None or (table.weight.grad == 0).all()
