"""Parallel codes of learned projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.quantizer_builders import clustered
from ranking.models.representations.base import ItemShape
from ranking.models.representations.prefix_ngram import PrefixNgramRepresentation
from ranking.models.spec import ModelSpec
from semantic_ids.quantizers import ParallelAspects
from semantic_ids.quantizers.aspect_training import correlation
from sidkit.core.errors import ConfigError, FitError, TooFewPairsError

SIZES = (16, 16, 16)


def factors(items: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three independent factors of 12 values, mixed by a rotation and unequal scales; and the factors."""
    rng = np.random.default_rng(seed)
    values, centres = rng.integers(0, 12, (items, 3)), 1.5 * rng.normal(size=(3, 12, 8))
    apart = np.concatenate([centres[at][values[:, at]] for at in range(3)], axis=1) + 0.5 * rng.normal(size=(items, 24))
    rotation = np.linalg.qr(rng.normal(size=(24, 24)))[0] * np.linspace(0.5, 2, 24)
    return (apart @ rotation).astype(np.float32), values


def with_pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and pairs of items with the same first factor."""
    rows, values = factors(seed=seed)
    alike = [np.flatnonzero(values[:, 0] == value)[:100].reshape(-1, 2) for value in range(12)]
    return rows, np.concatenate(alike)


def perplexity(code: np.ndarray) -> float:
    share = np.bincount(code) / len(code)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("contrast", [0.0, 0.3])
def test_all_codes_of_every_aspect_are_used(seed: int, contrast: float) -> None:
    rows, pairs = with_pairs(seed)
    quantizer = ParallelAspects(SIZES, contrast=contrast, batch=256)
    codes = quantizer.fit(rows, pairs if contrast else None).encode(rows)
    assert all(perplexity(codes[:, at]) >= 0.6 * size for at, size in enumerate(SIZES))


def test_decorrelation_lowers_the_correlation_that_pairs_bring() -> None:
    rows, pairs = with_pairs(0)
    found = []
    for weight in (0.0, 1.0, 30.0):
        quantizer = ParallelAspects(SIZES, contrast=0.3, decorrelation=weight, batch=256).fit(rows, pairs)
        found.append(float(correlation(torch.from_numpy(quantizer._aspects(rows)))))
    assert found[0] > found[1] > found[2] and found[2] < 0.5 * found[0]


def test_pairs_move_the_items_of_a_pair_to_equal_codes() -> None:
    rows, values = factors()
    rng = np.random.default_rng(1)
    alike = [np.flatnonzero(values[:, 0] == value) for value in range(12)]  # the first factor alone makes pairs
    pairs = np.concatenate([rng.permutation(group)[: len(group) // 2 * 2].reshape(-1, 2) for group in alike])
    others = np.concatenate([rng.permutation(group)[: len(group) // 2 * 2].reshape(-1, 2) for group in alike])
    shares = []
    for contrast in (0.0, 1.0):
        quantizer = ParallelAspects(SIZES, contrast=contrast, epochs=40, batch=256)
        codes = quantizer.fit(rows, pairs if contrast else None).encode(rows)
        shares.append(float((codes[others[:, 0]] == codes[others[:, 1]]).mean()))
    assert shares[1] > 1.5 * shares[0]


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))
def test_the_correlation_is_that_of_a_loop(seed: int, count: int, width: int) -> None:
    aspects = np.random.default_rng(seed).normal(size=(9, count, width))
    squares = [
        np.corrcoef(aspects[:, a, i], aspects[:, b, j])[0, 1] ** 2
        for a in range(count) for b in range(count) if a != b for i in range(width) for j in range(width)
    ]  # fmt: skip
    assert float(correlation(torch.from_numpy(aspects))) == pytest.approx(
        np.mean(squares) if squares else 0.0, abs=1e-9
    )


def test_codes_are_unordered_and_prefixes_of_them_are_refused() -> None:
    quantizer = ParallelAspects(SIZES, epochs=1).fit(clustered())
    assert quantizer.residual_levels == 0
    shape = ItemShape(5, quantizer.sizes_, 2, residual_levels=quantizer.residual_levels)
    with pytest.raises(
        ConfigError, match=r"prefix_ngram needs codes that refine each other, got 3.*use the representation sid"
    ):
        PrefixNgramRepresentation.from_spec(shape, ModelSpec())
    codes = quantizer.encode(clustered())
    np.testing.assert_array_equal(quantizer.decode_flat(codes), quantizer.decode(codes))


def test_the_reconstruction_beats_the_mean() -> None:
    rows, _ = factors()
    quantizer = ParallelAspects(SIZES).fit(rows)
    error = ((quantizer.decode(quantizer.encode(rows)) - rows) ** 2).sum()
    assert error < 0.7 * ((rows - rows.mean(axis=0)) ** 2).sum()


def test_it_says_whether_it_needs_pairs_and_refuses_what_it_cannot_use() -> None:
    assert not ParallelAspects().needs_pairs and ParallelAspects(contrast=0.1).needs_pairs
    assert ParallelAspects.arguments_without_pairs({"contrast": 0.5, "width": 2}) == {"contrast": 0.0, "width": 2}
    rows = clustered(400)
    with pytest.raises(TooFewPairsError, match="contrast is above 0, which requires pairs"):
        ParallelAspects(SIZES, contrast=0.1).fit(rows)
    with pytest.raises(FitError, match="width must be at least 1, got -1"):
        ParallelAspects(SIZES, width=-1).fit(rows)
    with pytest.raises(FitError, match="contrast and decorrelation at least 0"):
        ParallelAspects(SIZES, decorrelation=-1.0).fit(rows)
    assert ParallelAspects((8, 8), width=20, epochs=1).fit(rows).codebooks_[0].shape == (8, 20), (
        "wider than the vectors"
    )
