"""Rows of a request share one history: attention over it once has the values of attention row by row."""

from __future__ import annotations

import pytest
import torch

from ranking.data.gather_rows import is_shared
from ranking.models.attention import TargetAttention


@pytest.mark.parametrize("scale", [None, 8.0])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_history_that_all_rows_share_is_pooled_as_that_of_each_row(scale: float | None, length: int) -> None:
    torch.manual_seed(0)
    attention = TargetAttention(6, 2, 16, scale).eval()
    torch.nn.init.normal_(attention.key.weight)
    torch.nn.init.normal_(attention.recency.weight)
    candidate, items = torch.randn(9, 6), torch.randn(7, 6) * torch.rand(7, 1) * 3
    one = torch.randint(0, 7, (1, 5)), (torch.arange(5) < length)[None], torch.randint(0, 16, (1, 5))
    shared = [each.expand(9, 5) for each in one]
    assert all(map(is_shared, shared))
    with torch.no_grad():
        found = attention(candidate, items, *shared), attention.weights(candidate, items, *shared)
        expected = (
            attention(candidate, items, *(each.contiguous() for each in shared)),
            attention.weights(candidate, items, *(each.contiguous() for each in shared)),
        )
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, atol=1e-6, rtol=1e-6)
    if length > 1:
        assert expected[1].std(dim=2).max() > 0.01  # the weights are not uniform
