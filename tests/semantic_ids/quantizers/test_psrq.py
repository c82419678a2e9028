"""PSRQ: residual levels that see the prefix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.quantizer_builders import clustered
from semantic_ids.quantizers import PrefixSemanticQuantizer, ResidualKMeans
from sidkit.core.errors import FitError

SIZES = (8, 6, 4)


def test_with_weight_0_it_is_residual_k_means() -> None:
    rows = clustered()
    plain, without = (
        kind.fit(rows) for kind in (ResidualKMeans(SIZES, force=True), PrefixSemanticQuantizer(SIZES, 0.0, force=True))
    )
    np.testing.assert_array_equal(without.encode(rows), plain.encode(rows))
    np.testing.assert_array_equal(without.decode(without.encode(rows)), plain.decode(plain.encode(rows)))


@given(st.integers(0, 10**6), st.sampled_from([0.25, 1.0]))
@settings(deadline=None, max_examples=20)
def test_codes_are_those_of_a_loop_over_residual_and_prefix(seed: int, weight: float) -> None:
    quantizer = PrefixSemanticQuantizer(SIZES, weight, force=True).fit(clustered(200))
    row = clustered(5, seed=seed)[3].astype(np.float64)
    codes = quantizer.encode(row[None].astype(np.float32))[0]
    residual, prefix = row, np.zeros_like(row)
    for level, book in enumerate(quantizer.codebooks_):
        seen = residual if level == 0 else np.concatenate([residual, weight * prefix])
        distance = ((book.astype(np.float64) - seen) ** 2).sum(axis=1)
        assert distance[codes[level]] <= distance.min() * (1 + 1e-5) + 1e-9
        word = book[codes[level], : len(row)].astype(np.float64)
        residual, prefix = residual - word, prefix + word
    np.testing.assert_allclose(quantizer.decode(codes[None])[0], prefix, rtol=1e-4, atol=1e-4)


def test_equal_residuals_under_different_prefixes_get_different_codes() -> None:
    books = {
        "codebook.0": np.array([[0.0], [10.0]], np.float32),
        "codebook.1": np.array([[1.0, 0.0], [1.1, 10.0]], np.float32),
    }
    quantizer = PrefixSemanticQuantizer((2, 2), 1.0).load_tensors(books)
    assert quantizer.encode([[1.0], [11.0]]).tolist() == [[0, 0], [1, 1]]
    blind = PrefixSemanticQuantizer((2, 2), 0.0).load_tensors(
        {**books, "codebook.1": books["codebook.1"][:, :1].copy()}
    )
    assert blind.encode([[1.0], [11.0]]).tolist() == [[0, 0], [1, 0]]
    assert quantizer.decode(np.array([[1, 1]])).tolist() == [[pytest.approx(11.1)]]
    assert quantizer.decode_prefix(np.array([[1, 1]]), 1).tolist() == [[10.0]]


def test_a_weight_below_0_is_refused() -> None:
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(FitError, match="expected prefix_weight of at least 0"):
            PrefixSemanticQuantizer(SIZES, weight, force=True).fit(clustered(100))
