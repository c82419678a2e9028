"""The mean rows of an item's groups against plain loops, and what the groups promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_auxiliary_losses import SHAPE, SIZES, batch_of, random_codes, seen_of

from ranking.data.batch import ItemBatch
from ranking.experiments.comparison.arms import load_arms
from ranking.models.representations.group_mean import GroupMeanRepresentation, group_keys
from ranking.models.spec import ModelSpec

law = settings(max_examples=30, deadline=None, database=None)
REFINING = 2  # of SHAPE: two prefixes, then two codes of equal rank


def part_of(codes: np.ndarray, shown: np.ndarray, **changes: object) -> GroupMeanRepresentation:
    spec = ModelSpec(dim=3, id_dropout=0.0, prior_strength=4.0).model_copy(update=changes)
    seen = seen_of(codes, np.zeros(len(shown), dtype=np.int64), shown)
    part = GroupMeanRepresentation.from_spec(SHAPE, spec, GroupMeanRepresentation.fit(SHAPE, spec, seen))
    torch.manual_seed(1)
    torch.nn.init.normal_(part.table.weight)
    torch.nn.init.normal_(part.aspects)
    return part.eval()


def groups_of(code: np.ndarray) -> list[tuple[object, ...]]:
    return [("prefix", *code[:1]), ("prefix", *code[:2]), ("third", code[2]), ("fourth", code[3])]


@law
@given(st.integers(0, 10**6))
def test_it_is_the_weighted_mean_over_groups_by_loops(seed: int) -> None:
    codes, rng = random_codes(7, seed), np.random.default_rng(seed)
    shown = rng.integers(0, 7, 12)
    part = part_of(codes, shown)
    table, aspects = part.table.weight.detach().numpy().astype(float), part.aspects.detach().numpy().astype(float)
    trained = np.bincount(shown, minlength=7)
    new = random_codes(3, seed + 1)
    everything = np.concatenate([codes, new])
    index = [*range(2, 9), 1, 1, 1]
    items = ItemBatch(torch.tensor(index), torch.from_numpy(everything), torch.zeros(10, 2))
    actual = part(items).detach().numpy()
    for place, code in enumerate(everything):
        own, count = table[index[place]], trained[place] if place < 7 else 0
        means = []
        for group in groups_of(code) if code[0] >= 0 else []:
            members = [
                each for each in range(7) if trained[each] and codes[each][0] >= 0 and group in groups_of(codes[each])
            ]
            means.append(np.mean([table[2 + each] for each in members], axis=0) if members else None)
        used = [at for at, mean in enumerate(means) if mean is not None]
        expected = own
        if used:
            weight = np.exp(aspects[used]) / np.exp(aspects[used]).sum()
            mean = sum(each * means[at] for each, at in zip(weight, used, strict=True))
            expected = (count * own + 4.0 * mean) / (count + 4.0)
        assert actual[place] == pytest.approx(expected, abs=1e-5), place


def test_an_item_alone_in_all_its_groups_keeps_its_own_row() -> None:
    codes = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 2, 2, 2]])
    part = part_of(codes, np.array([0, 1, 1, 2]))
    items = ItemBatch(torch.tensor([2, 3, 4]), torch.from_numpy(codes), torch.zeros(3, 2))
    actual = part(items)
    assert actual[0].detach().numpy() == pytest.approx(part.table.weight[2].detach().numpy(), abs=1e-6)
    assert (actual[1] - part.table.weight[3]).abs().max() > 0.01


def test_a_new_item_has_the_rows_of_its_groups_and_without_any_that_of_the_unknown_id() -> None:
    codes = np.array([[0, 0, 0, 0], [0, 1, 1, 1]])
    part = part_of(codes, np.array([0, 1]))
    items = ItemBatch(torch.tensor([1, 1]), torch.tensor([[0, 2, 4, 4], [3, 2, 4, 4]]), torch.zeros(2, 2))
    actual = part(items).detach()
    assert actual[0].numpy() == pytest.approx(part.table.weight[2:4].mean(dim=0).detach().numpy(), abs=1e-6)
    assert torch.equal(actual[1], part.table.weight[1])


def test_a_group_keeps_its_most_trained_members_only() -> None:
    codes = np.array([[0, 0, each % 5, each % 4] for each in range(6)])
    part = part_of(codes, np.repeat(np.arange(6), [1, 5, 2, 9, 3, 1]), prior_neighbours=2)
    key = group_keys(torch.tensor([[0, 0, 0, 0]]), SIZES, REFINING)[0, 0]
    place = int((part.fitted_keys == key).nonzero())
    assert part.fitted_members[place].tolist() == [2 + 3, 2 + 1]


def test_numbers_of_groups_differ_where_groups_do() -> None:
    grid = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 4)
    keys = group_keys(torch.from_numpy(grid), SIZES, REFINING).numpy()
    groups = {
        (at, group): key
        for code, row in zip(grid, keys, strict=True)
        for at, (group, key) in enumerate(zip(groups_of(code), row, strict=True))
    }
    assert len(set(groups.values())) == len(groups)


def test_a_candidate_uses_its_interactions_as_of_the_row_and_the_control_other_groups() -> None:
    codes = random_codes(7, 3)
    shown = np.arange(7)
    part, control = part_of(codes, shown), part_of(codes, shown, prior_random=True)
    batch = batch_of(codes, [*range(2, 9)], [*range(7)], [9] * 7)
    items, candidates = part.encode(batch)
    assert torch.allclose(items, candidates, atol=1e-6), "no counts are known here: training rows decide"
    assert not torch.allclose(control.encode(batch)[1], candidates, atol=1e-3)
    arms = load_arms(["id_content_groups", "id_content_groups_random"])
    assert not arms["id_content_groups_random"].can_serve
    assert arms["id_content_groups"].can_serve
