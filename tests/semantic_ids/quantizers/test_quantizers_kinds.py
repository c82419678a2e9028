"""What holds for one kind of quantizer: residual k-means, products and RQ-OPQ."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.places import ROOT
from helpers.quantizer_builders import clustered, squared_error
from semantic_ids.quality.code_metrics import perplexity
from semantic_ids.quantizers import (
    OptimizedProductQuantizer,
    ProductQuantizer,
    ResidualKMeans,
    ResidualOPQ,
    roundtrip_share,
)
from semantic_ids.quantizers.kmeans import balance, equal_groups
from semantic_ids.quantizers.nearest import nearest
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError

relaxed = settings(deadline=None, max_examples=25)


@relaxed
@given(st.integers(0, 1000), st.sampled_from([1, 3, 12]))
def test_residual_kmeans_takes_the_nearest_codeword_on_every_level(seed: int, dim: int) -> None:
    quantizer = ResidualKMeans((6, 4, 3), force=True).fit(clustered(120, dim))
    rows = clustered(60, dim, seed)
    codes = quantizer.encode(rows)
    residual = rows.astype(float)
    for level, codebook in enumerate(quantizer.codebooks_):
        distance = ((residual[:, None] - codebook.astype(float)) ** 2).sum(axis=2)
        taken = distance[np.arange(len(rows)), codes[:, level]]
        assert (taken <= distance.min(axis=1) + 1e-4).all()
        residual -= codebook[codes[:, level]]
    decoded = rows.astype(float) - residual
    np.testing.assert_allclose(quantizer.decode(codes), decoded, atol=1e-4)


def lloyd(rows: Floats, size: int, seed: int) -> float:
    """Mean squared error of plain k-means from random rows."""
    centres = rows[np.random.default_rng(seed).choice(len(rows), size, replace=False)].astype(float)
    for _ in range(25):
        code = ((rows[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        for used in np.unique(code):
            centres[used] = rows[code == used].mean(axis=0)
    return float(((rows[:, None] - centres) ** 2).sum(axis=2).min(axis=1).mean())


def test_a_level_of_residual_kmeans_is_no_worse_than_kmeans_from_random_rows() -> None:
    ours, plain = [], []
    for seed in range(4):
        rows = clustered(400, seed=seed)
        ours.append(squared_error(ResidualKMeans((16,), seed=seed).fit(rows), rows).mean())
        plain += [lloyd(rows, 16, start) for start in range(3)]
    assert np.mean(ours) < 1.01 * np.mean(plain)


def test_more_iterations_do_not_hurt_residual_kmeans() -> None:
    rows = clustered(600)
    short, long = (squared_error(ResidualKMeans((20, 5), iterations=n).fit(rows), rows).mean() for n in (1, 30))
    assert long < short


@relaxed
@given(
    seed=st.integers(0, 10**6),
    dim=st.integers(1, 40),
    codes=st.integers(2, 30),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
    far=st.sampled_from([0.0, 50.0]),
)
def test_the_fast_nearest_codeword_is_the_one_that_doubles_find(
    seed: int, dim: int, codes: int, scale: float, far: float
) -> None:
    rng = np.random.default_rng(seed)
    words = (scale * (far + rng.normal(size=(codes, dim)))).astype(np.float32)
    words[rng.integers(0, codes, 3)] = words[0]  # equals: the first of them is meant
    between = (words[rng.integers(0, codes, 200)] + words[rng.integers(0, codes, 200)]) / 2
    rows = np.concatenate([between, words, (scale * (far + rng.normal(size=(200, dim)))).astype(np.float32)])
    distance = ((rows[:, None].astype(np.float64) - words.astype(np.float64)) ** 2).sum(axis=2).astype(np.float32)
    np.testing.assert_array_equal(nearest(rows, words), distance.argmin(axis=1))


def test_the_nearest_codeword_of_rows_so_large_that_products_overflow_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(0)
    words, rows = (1e25 * rng.normal(size=(count, 6)) for count in (5, 40))
    words, rows = words.astype(np.float32), rows.astype(np.float32)
    alone = [nearest(rows[at : at + 1], words)[0] for at in range(40)]
    np.testing.assert_array_equal(nearest(rows, words), alone)


@relaxed
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 90), codes=st.integers(2, 12))
def test_equal_groups_are_equal(seed: int, rows: int, codes: int) -> None:
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 4, (rows, codes)).astype(np.float32) * rng.random(codes).astype(np.float32)
    groups = equal_groups(distance, np.zeros(codes, np.float32))
    counts = np.bincount(groups, minlength=codes)
    assert counts.sum() == rows
    assert counts.max() - counts.min() <= 1


def test_balanced_centroids_are_means_and_use_their_codes_more_alike() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(2000, 4)) * rng.exponential(size=(2000, 1))).astype(np.float32)
    plain = ResidualKMeans((16,)).fit(rows).codebooks_[0]
    shaped = balance(rows, plain)
    use = [perplexity(nearest(rows, words)[:, None].astype(np.int32), (16,))[0] for words in (plain, shaped)]
    assert use[1] > use[0] + 0.05
    np.testing.assert_allclose(shaped.mean(axis=0), rows.mean(axis=0), atol=0.01)  # groups of equal size


def test_balancing_touches_the_last_level_alone_and_encode_stays_nearest() -> None:
    rows = clustered(800)
    plain, balanced = (ResidualKMeans((8, 16), last_level=last).fit(rows) for last in ("global", "balanced"))
    np.testing.assert_array_equal(plain.codebooks_[0], balanced.codebooks_[0])
    assert (plain.codebooks_[1] != balanced.codebooks_[1]).any()
    codes = balanced.encode(rows)
    residual = rows - balanced.codebooks_[0][codes[:, 0]]
    np.testing.assert_array_equal(codes[:, 1], nearest(residual, balanced.codebooks_[1]))


def test_a_residual_kmeans_saved_before_there_was_balancing_still_loads() -> None:
    rows = clustered(300)
    fitted = ResidualKMeans((8, 4)).fit(rows)
    again = ResidualKMeans(sizes=[8, 4], iterations=25, seed=0).load_tensors(fitted.tensors())
    np.testing.assert_array_equal(again.encode(rows), fitted.encode(rows))


def test_prefixes_of_residual_codes_come_closer_level_by_level() -> None:
    rows = clustered(500)
    for quantizer in (ResidualKMeans((8, 8, 8)), ResidualOPQ((8, 8, 8), (4, 4), force=True)):
        codes = quantizer.fit(rows).encode(rows)
        errors = [((rows - quantizer.decode_prefix(codes, depth)) ** 2).sum() for depth in (0, 1, 2, 3)]
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("make", [ProductQuantizer, OptimizedProductQuantizer])
def test_a_width_that_does_not_divide_into_the_parts_is_refused_with_what_would(make: type[ProductQuantizer]) -> None:
    with pytest.raises(FitError, match=r"width 12 cannot be split into 5 equal parts.*\(1, 2, 3, 4, 6, 12\)"):
        make((4,) * 5).fit(clustered(300))
    with pytest.raises(FitError, match="width 12 cannot be split into 5 equal parts"):
        ResidualOPQ((4,), (4,) * 5).fit(clustered(300))


@pytest.mark.parametrize("make", [ProductQuantizer, OptimizedProductQuantizer])
def test_products_take_the_nearest_of_all_combinations(make: type[ProductQuantizer]) -> None:
    rows = clustered(300)
    quantizer = make((5, 4, 3), force=True).fit(rows)
    every = np.stack(np.meshgrid(*map(np.arange, (5, 4, 3)), indexing="ij"), axis=-1).reshape(-1, 3)
    words = quantizer.decode(every).astype(float)
    best = ((rows[:, None] - words) ** 2).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(squared_error(quantizer, rows), best, rtol=1e-4, atol=1e-4)
    assert quantizer.residual_levels == 0


def test_the_rotation_is_orthogonal_saved_and_earns_its_place() -> None:
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    rows = ((rng.normal(size=(2000, 8)) * 2.0 ** -np.arange(8)) @ mixing).astype(np.float32)
    plain, turned = ProductQuantizer((16, 16)).fit(rows), OptimizedProductQuantizer((16, 16)).fit(rows)
    np.testing.assert_allclose(turned.rotation_ @ turned.rotation_.T, np.eye(8), atol=1e-12)
    assert turned.tensors()["rotation"].dtype == np.float64
    assert squared_error(turned, rows).mean() < 0.8 * squared_error(plain, rows).mean()


def test_rq_opq_is_residual_kmeans_with_codes_for_what_it_leaves() -> None:
    rows = clustered(500)
    coarse = ResidualKMeans((16, 8), last_level="balanced").fit(rows)
    fine = ResidualOPQ((16, 8), (6, 5), last_level="balanced").fit(rows)
    codes = fine.encode(rows)
    assert fine.sizes_ == (16, 8, 6, 5)
    assert fine.residual_levels == 2
    np.testing.assert_array_equal(codes[:, :2], coarse.encode(rows))
    np.testing.assert_array_equal(fine.decode_prefix(codes, 2), coarse.decode(codes[:, :2]))
    left = rows - coarse.decode(codes[:, :2])
    np.testing.assert_array_equal(codes[:, 2:], OptimizedProductQuantizer((6, 5)).fit(left).encode(left))
    assert squared_error(fine, rows).mean() < squared_error(coarse, rows).mean()


def test_what_codes_that_refine_no_other_stand_for_is_the_rest_of_the_whole() -> None:
    rows = clustered(500)
    fine = ResidualOPQ((16, 8), (6, 5)).fit(rows)
    codes = fine.encode(rows)
    whole = fine.decode_prefix(codes, 2) + fine.decode_flat(codes)
    np.testing.assert_allclose(whole, fine.decode(codes), atol=1e-5)
    moved = codes.copy()
    moved[:, :2] = 0
    np.testing.assert_array_equal(fine.decode_flat(moved), fine.decode_flat(codes))
    side_by_side, residual = OptimizedProductQuantizer((6, 5)).fit(rows), ResidualKMeans((6, 5)).fit(rows)
    np.testing.assert_array_equal(side_by_side.decode_flat(codes[:, 2:]), side_by_side.decode(codes[:, 2:]))
    assert not residual.decode_flat(codes[:, 2:]).any()


def test_rq_opq_has_two_more_codes_unless_told_and_never_none() -> None:
    assert ResidualOPQ((16, 8)).fit(clustered(500)).sizes_ == (16, 8, 8, 8)
    assert ResidualOPQ((16, 8)).config()["opq_sizes"] is None
    with pytest.raises(FitError, match="opq_sizes must have at least one size"):
        ResidualOPQ((16, 8), ()).fit(clustered(500))
    with pytest.raises(FitError, match="at least one level"):
        ResidualOPQ((), (4,)).fit(clustered(500))


def test_the_share_that_comes_back_is_reported() -> None:
    rows = clustered(500)
    quantizer = ResidualKMeans((16, 8, 8)).fit(rows)
    codes = quantizer.encode(rows)
    back = (quantizer.encode(quantizer.decode(codes)) == codes).all(axis=1).mean()
    assert roundtrip_share(quantizer, codes) == pytest.approx(back)
    assert roundtrip_share(quantizer, codes[:0]) == 1


def test_the_registry_is_made_without_torch_and_faiss() -> None:
    script = "import sys, semantic_ids.quantizers; print(sorted({'torch', 'faiss'} & set(sys.modules)))"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
