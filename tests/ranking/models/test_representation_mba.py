"""MBA: content plus a correction by code tables that start at zero (papers: SaviorRec, Figure 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape
from ranking.models.representations.mba import MbaRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.spec import TrainingSpec

SHAPE = ItemShape(vocabulary=5, sizes=(4, 3, 2), content_dim=5)


def part_of(seed: int = 0) -> MbaRepresentation:
    torch.manual_seed(seed)
    return MbaRepresentation.from_spec(SHAPE, ModelSpec(dim=4))


def items_of(codes: list[list[int]], seed: int = 0) -> ItemBatch:
    content = torch.randn((len(codes), 5), generator=torch.Generator().manual_seed(seed))
    return ItemBatch(torch.ones(len(codes), dtype=torch.int64), torch.tensor(codes), content)


CODES = [[0, 0, 0], [3, 2, 1], [1, 0, 1], [-1, -1, -1]]


def test_training_starts_exactly_at_the_content_ranker() -> None:
    part, items = part_of(), items_of(CODES)
    assert torch.equal(part(items), part.projection(items.content))
    assert torch.equal(part.fusion(torch.zeros(2, 12)), torch.zeros(2, 4))


def test_the_tables_of_the_codes_at_hand_get_a_gradient_at_the_first_step() -> None:
    part, items = part_of(), items_of(CODES)
    part(items).square().sum().backward()
    gradient = part.codes.table.weight.grad
    assert gradient is not None
    used = [1, 4, 2, 5, 7, 8, 9]  # row 0 is for items without codes, the levels follow each other
    assert (gradient[used].abs().sum(dim=1) > 0).all()
    unused = sorted(set(range(10)) - set(used))
    assert (gradient[unused] == 0).all()


def test_the_vector_is_content_plus_the_fusion_of_the_rows() -> None:
    part, items = part_of(), items_of(CODES)
    torch.nn.init.normal_(part.codes.table.weight)
    table = part.codes.table.weight.detach().numpy().astype(float)
    first, last = (part.fusion[at].weight.detach().numpy().astype(float) for at in (0, 2))
    weight, bias = (each.detach().numpy().astype(float) for each in (part.projection.weight, part.projection.bias))
    expected = items.content.numpy() @ weight.T + bias
    for place, (a, b, c) in enumerate(CODES):
        if a >= 0:
            hidden = first @ np.concatenate([table[1 + a], table[5 + b], table[8 + c]])
            expected[place] += last @ (hidden / (1 + np.exp(-hidden)))
    assert part(items).detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_an_item_without_codes_has_its_content_alone_for_ever() -> None:
    part, items = part_of(), items_of([[-1, -1, -1]])
    torch.nn.init.normal_(part.codes.table.weight)
    told = part(items)
    assert torch.equal(told, part.projection(items.content))
    told.sum().backward()
    assert part.codes.table.weight.grad is None or (part.codes.table.weight.grad == 0).all()


def test_one_step_of_training_moves_items_that_share_codes_together() -> None:
    from ranking.training.optimizers import make_optimizers

    part, items = part_of(), items_of([[1, 2, 0], [1, 2, 1], [3, 0, 0]])
    optimizer = make_optimizers(part, TrainingSpec(weight_decay=0.0, table_weight_decay=0.0, table_learning_rate=0.1))[
        0
    ]
    before = part(items).detach() - part.projection(items.content).detach()
    (part(items)[0] - 1).square().sum().backward()
    optimizer.step()
    moved = part(items).detach() - part.projection(items.content).detach() - before
    assert moved[0].abs().sum() > 0
    cosine = torch.nn.functional.cosine_similarity(moved[0], moved[1], dim=0)
    assert cosine > 0.5, "the correction is shared through two of three codes"
