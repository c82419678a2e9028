"""Residual k-means with a grid as the last level."""

from __future__ import annotations

import json
from itertools import pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.quantizer_builders import clustered, squared_error
from semantic_ids.quantizers import ResidualKMeansFSQ, roundtrip_share
from semantic_ids.quantizers.rk_fsq import grid_of
from sidkit.core.errors import FitError


@given(
    seed=st.integers(0, 10**6),
    last=st.integers(2, 40),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    dim=st.integers(1, 6),
)
@settings(deadline=None, max_examples=40)
def test_the_last_code_of_every_decoded_code_is_the_code_itself(seed: int, last: int, scale: float, dim: int) -> None:
    rows = (np.random.default_rng(seed).normal(size=(60, dim)) * scale).astype(np.float32)
    quantizer = ResidualKMeansFSQ((3, 2, last), force=True).fit(rows)
    assert quantizer.sizes_ == (3, 2, last)
    codes = np.array(list(product(range(3), range(2), range(last))), dtype=np.int32)
    decoded, before = quantizer.decode(codes), quantizer.decode_prefix(codes, 2)
    assert np.isfinite(decoded).all()
    np.testing.assert_array_equal(quantizer.cells(decoded - before), codes[:, 2])
    assert len(np.unique(quantizer.cells(decoded - before))) == last, "no code is dead"


def test_codes_of_data_survive_decoding() -> None:
    rows = clustered()
    quantizer = ResidualKMeansFSQ((8, 8, 16), force=True).fit(rows)
    codes = quantizer.encode(rows)
    assert roundtrip_share(quantizer, codes) > 0.99
    np.testing.assert_array_equal(quantizer.decode_prefix(codes, 3), quantizer.decode(codes))


def test_the_grid_lowers_the_error_and_so_do_more_levels() -> None:
    rows = clustered()
    spread = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
    errors = [
        squared_error(ResidualKMeansFSQ(sizes, force=True).fit(rows), rows).mean()
        for sizes in ((8, 8), (8, 64), (8, 8, 64))
    ]
    assert all(later < 0.97 * earlier for earlier, later in pairwise([spread, *errors]))


@given(st.integers(2, 400), st.integers(1, 6))
def test_a_grid_has_as_many_cells_as_codes_and_no_more_axes_than_columns(size: int, axes: int) -> None:
    grid = grid_of(size, axes)
    assert prod(grid) == size and len(grid) <= axes and list(grid) == sorted(grid, reverse=True)
    primes = [factor for factor in grid if factor > 8]
    assert axes < 6 or all(all(each % divisor for divisor in range(2, each)) for each in primes)


def test_a_cell_is_an_equal_part_of_tanh() -> None:
    quantizer = ResidualKMeansFSQ((2, 5), force=True).fit(clustered(200))
    axis, spread = quantizer.axes_[:, 0], float(quantizer.spread_[0])
    scaled = np.linspace(-3, 3, 200)
    found = quantizer.cells((scaled[:, None] * spread * axis).astype(np.float32))
    borders = np.arctanh(np.array([-0.6, -0.2, 0.2, 0.6]))
    clear = np.abs(scaled[:, None] - borders).min(axis=1) > 1e-3
    np.testing.assert_array_equal(found[clear], (scaled[:, None] > borders).sum(axis=1)[clear])


def test_constant_rows_and_a_restored_quantizer() -> None:
    rows = np.full((40, 3), 7.0, np.float32)
    quantizer = ResidualKMeansFSQ((2, 8), force=True).fit(rows)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(rows)), rows, rtol=1e-3)
    again = ResidualKMeansFSQ(**json.loads(json.dumps(quantizer.config()))).load_tensors(quantizer.tensors())
    np.testing.assert_array_equal(again.encode(rows), quantizer.encode(rows))


def test_a_grid_alone_is_refused() -> None:
    with pytest.raises(FitError, match=r"expected a level of k-means before the grid, got sizes \(8,\); add one"):
        ResidualKMeansFSQ((8,), force=True).fit(clustered(100))
