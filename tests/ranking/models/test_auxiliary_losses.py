"""SMILE's losses against numpy, their stop-gradients by looking at gradients, and what the batch makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.item_table import shown_items
from ranking.models.losses import directional_transfer, masked_info_nce
from ranking.models.representations.base import ItemShape
from ranking.models.representations.opq_neighbours import cell_keys, opq_neighbours
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.loop import train
from ranking.training.spec import TrainingSpec
from sidkit.core.errors import ConfigError

law = settings(max_examples=40, deadline=None, database=None)
SIZES = (4, 3, 5, 5)
SHAPE = ItemShape(vocabulary=9, sizes=SIZES, content_dim=2, residual_levels=2, numeric_dim=3)
CENTRES = np.random.default_rng(3).normal(size=(2, 5, 3)).astype(np.float32)


def flat_vectors(codes: np.ndarray) -> np.ndarray:
    return np.concatenate([CENTRES[0][codes[:, 2]], CENTRES[1][codes[:, 3]]], axis=1)


def softmax(values: np.ndarray) -> np.ndarray:
    grown = np.exp(values - values.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def vectors(seed: int, rows: int = 5, dim: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn((rows, dim), generator=generator, requires_grad=True) for _ in range(2))


@law
@given(st.integers(0, 10**6), st.floats(0.3, 3))
def test_the_transfer_is_the_weighted_sum_of_both_divergences(seed: int, temperature: float) -> None:
    own, shared = vectors(seed)
    gate = torch.rand(5, generator=torch.Generator().manual_seed(seed))
    p, q = (softmax(each.detach().numpy().astype(float) / temperature) for each in (own, shared))
    divergence = (p * np.log(p / q)).sum(axis=1)  # both terms are KL(id || RQ); they differ in who moves
    told = directional_transfer(own, shared, gate, temperature)
    assert told.detach().numpy() == pytest.approx(divergence, abs=1e-5)


def test_a_warm_id_moves_the_codes_and_a_cold_one_moves_to_them() -> None:
    own, shared = vectors(0)
    directional_transfer(own, shared, torch.ones(5)).sum().backward()
    assert own.grad is not None and (own.grad == 0).all(), "sg(id) stands still in the first term"
    assert shared.grad is not None and (shared.grad.abs().sum(dim=1) > 0).all()
    own, shared = vectors(0)
    directional_transfer(own, shared, torch.zeros(5)).sum().backward()
    assert shared.grad is not None and (shared.grad == 0).all(), "sg(RQ) stands still in the second term"
    assert own.grad is not None and (own.grad.abs().sum(dim=1) > 0).all()


@law
@given(st.integers(0, 10**6))
def test_the_terms_of_the_transfer_add_up_and_each_moves_one_side(seed: int) -> None:
    gate = torch.rand(5, generator=torch.Generator().manual_seed(seed))
    moved, losses = [], []
    for terms in ("codes", "ids", "both"):
        own, shared = vectors(seed)
        loss = directional_transfer(own, shared, gate, terms=terms)  # type: ignore[arg-type]
        loss.sum().backward()
        losses.append(loss.detach())
        moved.append([each.grad is not None and bool(each.grad.abs().sum() > 0) for each in (own, shared)])
    assert moved == [[False, True], [True, False], [True, True]]
    torch.testing.assert_close(losses[0] + losses[1], losses[2])


@pytest.mark.parametrize("warm", [True, False])
def test_the_gradient_is_that_of_the_divergence_with_one_side_fixed(warm: bool) -> None:
    own, shared = vectors(1)
    directional_transfer(own, shared, torch.full((5,), float(warm))).sum().backward()
    p, q = (softmax(each.detach().numpy().astype(float)) for each in (own, shared))
    log_ratio = np.log(p / q)
    expected = q - p if warm else p * (log_ratio - (p * log_ratio).sum(axis=1, keepdims=True))
    moved = shared.grad if warm else own.grad
    assert moved is not None
    assert moved.numpy() == pytest.approx(expected, abs=1e-5)


def test_the_gate_is_detached_in_the_transfer() -> None:
    own, shared = vectors(2)
    gate = torch.full((5,), 0.4, requires_grad=True)
    directional_transfer(own, shared, gate).sum().backward()
    assert gate.grad is None


@law
@given(st.integers(0, 10**6), st.floats(0.05, 2))
def test_info_nce_is_the_textbooks(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchor, positive = torch.randn((4, 3), generator=generator), torch.randn((4, 3), generator=generator)
    others, masked = torch.randn((6, 3), generator=generator), torch.rand((4, 6), generator=generator) < 0.4
    expected = []
    for at in range(4):
        a = anchor[at].numpy().astype(float)
        to = lambda b, a=a: np.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature)  # noqa: E731
        near = to(positive[at].numpy().astype(float))
        far = sum(to(each.numpy().astype(float)) for each, no in zip(others, masked[at], strict=True) if not no)
        expected.append(-np.log(near / (near + far)))
    told = masked_info_nce(anchor, positive, others, masked.nonzero(as_tuple=True), temperature)
    assert told.numpy() == pytest.approx(np.array(expected), abs=1e-4)


def test_what_is_no_negative_gets_no_gradient_and_an_anchor_without_negatives_none_at_all() -> None:
    generator = torch.Generator().manual_seed(0)
    anchor, positive, others = (
        torch.randn(size, 3, generator=generator, dtype=torch.float64, requires_grad=True) for size in (4, 4, 5)
    )
    masked = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [1, 0, 0, 0, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    masked_info_nce(anchor, positive, others, masked.nonzero(as_tuple=True), 0.5).sum().backward()
    found = [each.grad.clone() for each in (anchor, positive, others) if each.grad is not None]
    with torch.no_grad():  # the slope, by small steps of each number
        for tensor, told in zip((anchor, positive, others), found, strict=True):
            slope = torch.zeros_like(tensor)
            for at in np.ndindex(*tensor.shape):
                step = torch.zeros_like(tensor)
                step[at] = 1e-5
                up, down = (
                    masked_info_nce(
                        *(each + sign * step if each is tensor else each for each in (anchor, positive, others)),
                        masked.nonzero(as_tuple=True), 0.5,
                    ).sum()
                    for sign in (1, -1)
                )  # fmt: skip
                slope[at] = (up - down) / 2e-5
            torch.testing.assert_close(told, slope, atol=1e-6, rtol=1e-6)
    assert not found[0][0].any() and not found[2][0].any()
    assert found[0][1:].any() and found[2][1:].any()


def seen_of(codes: np.ndarray, at_us: np.ndarray, candidate: np.ndarray | None = None) -> Seen:
    candidate = np.arange(len(at_us)) if candidate is None else candidate
    return Seen(*shown_items(candidate, at_us, len(codes)), np.arange(len(codes)) % 7 + 2, codes, flat_vectors)


def random_codes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, count) for size in SIZES], axis=1)
    codes[rng.random(count) < 0.1] = -1
    return codes


@law
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_neighbours_are_the_nearest_other_opq_codes_that_training_rows_showed(seed: int, count: int) -> None:
    codes, rng = random_codes(20, seed), np.random.default_rng(seed)
    candidate, at_us = rng.integers(0, 15, 30), np.sort(rng.integers(0, 1000, 30))
    fitted = opq_neighbours(seen_of(codes, at_us, candidate), 2, SIZES, count)
    shown = sorted({tuple(codes[each][2:]) for each in candidate if codes[each][0] >= 0})
    assert [tuple(each) for each in fitted["cell_codes"].tolist()] == shown
    assert fitted["cells"].tolist() == sorted(fitted["cells"].tolist())
    unit = flat_vectors(np.array([[0, 0, *each] for each in shown]).reshape(-1, 4))
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    for place, cell in enumerate(shown):
        firsts = [at for each, at in zip(candidate, at_us, strict=True) if tuple(codes[each][2:]) == cell]
        assert fitted["born_us"][place] == min(firsts)
        listed = [each for each in fitted["neighbours"][place].tolist() if each >= 0]
        assert len(listed) == min(count, len(shown) // 2) and place not in listed
        cosine = unit @ unit[place]
        best = np.sort(np.delete(cosine, place))[::-1][: len(listed)]
        assert cosine[listed] == pytest.approx(best, abs=1e-6)


def test_neighbours_without_a_codebook_are_refused() -> None:
    seen = dataclasses.replace(seen_of(random_codes(5, 0), np.arange(5)), flat_vectors=None)
    with pytest.raises(ConfigError, match="quantizer"):
        opq_neighbours(seen, 2, SIZES, 3)


def gate_of(seen: Seen, **changes: object) -> RqOpqGateRepresentation:
    spec = ModelSpec(dim=4, neighbours=3, id_dropout=0.0).model_copy(update=changes)
    torch.manual_seed(0)
    part = RqOpqGateRepresentation.from_spec(SHAPE, spec, RqOpqGateRepresentation.fit(SHAPE, spec, seen))
    for module in part.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    return part


def batch_of(codes: np.ndarray, index: list[int], candidate: list[int], at_us: list[int], seed: int = 0) -> Batch:
    """A batch of rows without histories."""
    rows, generator = len(candidate), torch.Generator().manual_seed(seed)
    none = torch.zeros((rows, 1), dtype=torch.int64)
    items = ItemBatch(torch.tensor(index), torch.from_numpy(codes), torch.zeros(len(index), 2))
    return Batch(
        torch.randn((rows, 3), generator=generator), items, torch.tensor(candidate), none, none.bool(), none,
        torch.zeros(rows), torch.tensor(at_us),
    )  # fmt: skip


@law
@given(st.integers(0, 10**6))
def test_no_positive_was_unborn_at_the_moment_of_its_row(seed: int) -> None:
    codes, rng = random_codes(25, seed), np.random.default_rng(seed)
    at_us = np.sort(rng.integers(0, 100, 25))
    part = gate_of(seen_of(codes, at_us))
    coded = torch.from_numpy(codes[codes[:, 0] >= 0])
    moments = torch.from_numpy(rng.integers(-5, 105, len(coded)))
    torch.manual_seed(seed)
    place, near, found = part.positives(cell_keys(coded, 2, SIZES), moments)
    born, listed = part.fitted_born_us, part.fitted_neighbours
    for at in range(len(coded)):
        own = int(torch.searchsorted(part.fitted_cells, cell_keys(coded[at : at + 1], 2, SIZES)))
        neighbours = [each for each in listed[own].tolist() if each >= 0]
        eligible = [each for each in neighbours if born[each] <= moments[at]]
        assert bool(found[at]) == bool(eligible)
        assert not eligible or int(place[at]) in eligible
        assert {each for each in near[at].tolist() if each >= 0} == {
            int(part.fitted_cells[each]) for each in neighbours
        }


def test_every_eligible_neighbour_is_drawn_now_and_then() -> None:
    codes = np.array([[0, 0, a, b] for a in range(3) for b in range(3)])
    part = gate_of(seen_of(codes, np.zeros(9, dtype=np.int64)))
    keys = cell_keys(torch.from_numpy(codes[:1]), 2, SIZES).repeat(200)
    place, _, _ = part.positives(keys, torch.ones(200, dtype=torch.int64))
    assert set(place.tolist()) == set(part.fitted_neighbours[0].tolist())


def test_codes_that_no_training_row_showed_have_no_positive() -> None:
    part = gate_of(seen_of(np.array([[0, 0, 1, 1], [0, 0, 2, 2]]), np.zeros(2, dtype=np.int64)))
    keys = cell_keys(torch.tensor([[0, 0, 4, 4], [0, 0, 0, 0], [0, 0, 1, 1]]), 2, SIZES)
    assert part.positives(keys, torch.full((3,), 9))[2].tolist() == [False, False, True]


def test_a_head_item_counts_as_often_as_a_tail_item() -> None:
    codes = np.array([[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3], [3, 1, 4, 0]])
    part = gate_of(seen_of(codes, np.zeros(4, dtype=np.int64)), neighbours=1, gate_unknown=0.2)
    few = batch_of(codes, [2, 3, 4, 5], [0, 1, 2, 3], [9] * 4)
    many = batch_of(codes, [2, 3, 4, 5], [0] * 7 + [1, 2, 3], [9] * 10)
    same = torch.full((10, 3), 0.3)
    left = part.auxiliary(dataclasses.replace(few, numeric=same[:4]))
    right = part.auxiliary(dataclasses.replace(many, numeric=same))
    assert set(left) == {"transfer", "contrast"}
    for name in left:
        assert right[name].item() == pytest.approx(left[name].item(), rel=1e-5), name


def test_the_transfer_of_a_batch_weighs_each_distinct_item_by_its_mean_gate() -> None:
    codes = np.array([[0, 0, 1, 1], [1, 1, 2, 2], [-1, -1, -1, -1], [2, 2, 0, 0]])
    part = gate_of(seen_of(codes, np.zeros(4, dtype=np.int64)), transfer_weight=0.3)
    # Items: two known ones with codes, one without codes, one with an unknown id; the last two have no part in it.
    batch = batch_of(codes, [2, 3, 4, 1], [0, 0, 1, 2, 3, 0], [9] * 6)
    gate = part.gate(batch).detach().numpy()
    own = part.table.weight.detach()[[2, 3]]
    shared = part._rq(batch.items.codes[:2]).detach()
    mean = torch.tensor([gate[[0, 1, 5]].mean(), gate[2]])
    expected = 0.3 * directional_transfer(own, shared, mean).mean().item()
    assert part.auxiliary(batch)["transfer"].item() == pytest.approx(expected, rel=1e-5)


def test_the_contrast_of_a_batch_leaves_out_equals_and_neighbours() -> None:
    codes = np.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1], [2, 0, 2, 2], [3, 2, 3, 3]])
    part = gate_of(seen_of(codes, np.zeros(5, dtype=np.int64)), neighbours=1, contrast_weight=1.0)
    batch = batch_of(codes, [2, 3, 4, 5, 6], [0, 1, 2, 3, 4], [9] * 5)
    opq = part._opq(batch.items.codes).detach().numpy().astype(float)
    unit = opq / np.linalg.norm(opq, axis=1, keepdims=True)
    cell = [0, 0, 1, 2, 3]
    item = [0, 2, 3, 4]  # an item of each cell
    losses = []
    for at in range(5):
        (near,) = part.fitted_neighbours[cell[at]].tolist()
        positive = np.exp(unit[at] @ unit[item[near]] / 0.1)
        negative = sum(np.exp(unit[at] @ unit[n] / 0.1) for n in range(5) if cell[n] not in {cell[at], near})
        losses.append(-np.log(positive / (positive + negative)))
    assert part.auxiliary(batch)["contrast"].item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_large_batch_is_contrasted_with_some_of_its_items_only() -> None:
    codes = np.array([[0, 0, each % 5, each // 5] for each in range(25)])
    few, all_of_them = (
        gate_of(
            seen_of(codes, np.zeros(25, dtype=np.int64)), neighbours=1, contrast_weight=1.0, contrast_negatives=most
        )
        for most in (4, 25)
    )
    few.load_state_dict(all_of_them.state_dict())
    batch = batch_of(codes, [2 + each % 7 for each in range(25)], list(range(25)), [9] * 25)
    drawn = [few.auxiliary(batch)["contrast"].item() for _ in range(20)]
    assert len({round(each, 5) for each in drawn}) > 10
    assert max(drawn) < all_of_them.auxiliary(batch)["contrast"].item()


def test_an_item_of_several_rows_takes_a_positive_that_existed_at_the_first() -> None:
    codes = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    part = gate_of(seen_of(codes, np.array([0, 50])))
    late, early = (batch_of(codes, [2, 3], [0, 0], moments) for moments in ([60, 70], [60, 10]))
    assert part.auxiliary(late)["contrast"].item() >= 0
    part.opq_join.weight.grad = None
    part.auxiliary(early)["contrast"].backward()
    assert part.opq_join.weight.grad is None or (part.opq_join.weight.grad == 0).all()


def test_weights_of_zero_and_parts_left_out_have_no_loss() -> None:
    codes = random_codes(12, 0)
    seen = seen_of(codes, np.zeros(12, dtype=np.int64))
    batch = batch_of(codes, [number % 7 + 2 for number in range(12)], list(range(12)), [9] * 12)
    assert set(gate_of(seen, transfer_weight=0.0).auxiliary(batch)) == {"contrast"}
    assert set(gate_of(seen, contrast_weight=0.0).auxiliary(batch)) == {"transfer"}
    assert set(gate_of(seen, gate_parts="rq").auxiliary(batch)) == {"transfer"}
    assert set(gate_of(seen, gate_parts="opq").auxiliary(batch)) == {"contrast"}


def test_a_batch_without_codes_trains_without_nan() -> None:
    bare = np.full((3, 4), -1)
    part = gate_of(seen_of(random_codes(12, 0), np.zeros(12, dtype=np.int64)))
    losses = part.auxiliary(batch_of(bare, [2, 3, 1], [0, 1, 2], [9] * 3))
    sum(losses.values()).backward()
    assert all(each.item() == 0 for each in losses.values())
    assert all(torch.isfinite(each.grad).all() for each in part.parameters() if each.grad is not None)


def test_training_adds_the_losses_of_the_parts() -> None:
    from helpers.training_builders import CONTENT_DIM, fitted_to, random_set
    from helpers.training_builders import SIZES as SET_SIZES
    from ranking.data.batches import Batches, Vocabulary
    from ranking.data.numeric_features import Scaling, feature_names
    from ranking.models.ctr_model import CtrModel

    data = random_set(80)
    vocabulary, scaling = Vocabulary.fit(data.rows.item_ids), Scaling.fit(data.features, 0.5)
    shape = ItemShape(vocabulary.size, SET_SIZES, CONTENT_DIM, residual_levels=2, numeric_dim=len(feature_names()))

    def weights(weight: float) -> dict[str, torch.Tensor]:
        spec = ModelSpec(dim=4, hidden=(8,), dropout=0.0, transfer_weight=weight, contrast_weight=0.0)
        fitted = fitted_to(data, shape, vocabulary, spec)
        tensors = [Batches(data, scaling, vocabulary) for _ in range(2)]
        once = TrainingSpec(epochs=1, batch_rows=40)
        return train(
            lambda: CtrModel(("rq_opq_gate",), shape, len(feature_names()), spec, fitted),
            *tensors,
            once,
            seed=0,
            threads=1,
        ).model.state_dict()

    left, right = weights(0.0), weights(1.0)
    assert any(not torch.equal(left[name], right[name]) for name in left if "rq.table" in name)
