"""Weighted sums of rows against the formula, with their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data import gather_rows as module
from ranking.data.gather_rows import weighted_rows
from ranking.data.plain import plain_operations
from ranking.models.representations.base import Table

law = settings(max_examples=40, deadline=None, database=None)


@law
@given(st.integers(0, 10**6), st.integers(0, 9), st.integers(1, 4), st.integers(1, 5))
def test_weighted_rows_are_sums_over_the_index_and_so_is_their_gradient(
    seed: int, items: int, count: int, block: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, 6, (items, count), generator=generator)
    weight, told = torch.rand((items, count), generator=generator), torch.randn((items, 3), generator=generator)
    matrix = torch.randn((6, 3), generator=generator, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        summed = weighted_rows(matrix, index, weight)
        summed.backward(told)
    expected = torch.zeros(items, 3)
    gradient = torch.zeros(6, 3)
    for item in range(items):
        for place in range(count):
            expected[item] += weight[item, place] * matrix[index[item, place]].detach()
            gradient[index[item, place]] += weight[item, place] * told[item]
    torch.testing.assert_close(summed.detach(), expected)
    torch.testing.assert_close(matrix.grad, gradient)
    with plain_operations():
        torch.testing.assert_close(weighted_rows(matrix, index, weight).detach(), expected)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_table_sums_its_rows_with_either_kind_of_gradient_and_when_it_is_forced_to_zero(sparse: bool) -> None:
    torch.manual_seed(0)
    table = Table(5, 2)
    table.sparse = sparse
    index, weight = torch.tensor([[1, 2], [3, 3]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    summed = table.weighted(index, weight)
    torch.testing.assert_close(summed[1], table.weight[3])
    summed.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse == sparse
    assert table.weight.grad.to_dense()[:4, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    table.weight.data = table.weight.new_zeros(()).expand_as(table.weight)
    assert not table.weighted(index, weight).any()
