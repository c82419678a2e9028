"""The quality figures of codes against plain counting."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.metrics import code_quality, collision_rate, perplexity, reconstruction_error, utilisation
from semantic_ids.quantizers import ResidualKMeans

Codes = npt.NDArray[np.int32]


@st.composite
def codes_and_sizes(draw: st.DrawFn) -> tuple[Codes, tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(2, 6), min_size=1, max_size=3)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=30))
    return np.array(rows, dtype=np.int32), sizes


@settings(deadline=None)
@given(codes_and_sizes())
def test_figures_equal_plain_counting(drawn: tuple[Codes, tuple[int, ...]]) -> None:
    codes, sizes = drawn
    rows = [tuple(row) for row in codes.tolist()]
    assert collision_rate(codes) == pytest.approx(1 - len(set(rows)) / len(rows))
    for level, size in enumerate(sizes):
        counts = Counter(row[level] for row in rows)
        assert utilisation(codes, sizes)[level] == pytest.approx(len(counts) / size)
        bits = -sum(count / len(rows) * math.log2(count / len(rows)) for count in counts.values())
        assert perplexity(codes, sizes)[level] == pytest.approx(2**bits / size)


def test_figures_of_codes_that_are_all_used_alike() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    assert utilisation(codes, (2, 2)) == [1, 1]
    assert perplexity(codes, (2, 2)) == pytest.approx([1, 1])
    assert collision_rate(codes) == 0


def test_figures_of_codes_that_collapsed() -> None:
    codes = np.zeros((8, 2), dtype=np.int32)
    assert utilisation(codes, (4, 2)) == [0.25, 0.5]
    assert perplexity(codes, (4, 2)) == pytest.approx([0.25, 0.5])
    assert collision_rate(codes) == pytest.approx(7 / 8)


def test_no_items_do_not_collide() -> None:
    assert collision_rate(np.zeros((0, 3), dtype=np.int32)) == 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 20), st.floats(0, 3))
def test_the_reconstruction_error_is_relative_to_the_spread(seed: int, rows: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(5, 2, size=(rows, 3)).astype(np.float32)
    decoded = (vectors + noise * rng.normal(size=vectors.shape)).astype(np.float32)
    missed = sum(math.dist(x, y) ** 2 for x, y in zip(vectors.tolist(), decoded.tolist(), strict=True))
    mean = np.mean(vectors.astype(float), axis=0)
    spread = sum(math.dist(x, mean) ** 2 for x in vectors.tolist())
    assert reconstruction_error(vectors, decoded) == pytest.approx(missed / spread, rel=1e-3, abs=1e-6)


def test_the_mean_has_error_one_and_the_vectors_themselves_have_none() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert reconstruction_error(vectors, vectors) == 0
    assert reconstruction_error(vectors, np.tile(vectors.mean(axis=0), (50, 1))) == pytest.approx(1)


def test_the_quality_of_a_codebook_is_json_of_these_figures() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    quantizer = ResidualKMeans((5, 3), force=True).fit(vectors)
    codes = quantizer.encode(vectors)
    buckets = Counter(map(tuple, codes.tolist()))
    quality = json.loads(json.dumps(code_quality(quantizer, vectors, codes)))
    assert quality == {
        "items": 200,
        "utilisation": utilisation(codes, (5, 3)),
        "perplexity": perplexity(codes, (5, 3)),
        "collision_rate": collision_rate(codes),
        "largest_bucket": max(buckets.values()),
        "reconstruction_error": reconstruction_error(vectors, quantizer.decode(codes)),
    }
    assert 0 < quality["reconstruction_error"] < 1


def test_unused_codes_of_a_level_count_against_it() -> None:
    codes = np.array([[0], [3]], dtype=np.int32)
    assert utilisation(codes, (8,)) == [0.25]
    assert perplexity(codes, (8,)) == pytest.approx([0.25])
