"""One battery for every quantizer in the registry; a new kind joins by being there.

A kind is made with ``sizes``, ``seed`` and ``force``, and with what ``SMALL`` says. What holds for one kind only stands
in ``test_quantizers_kinds.py`` and ``test_quantizers_rq_vae.py``.
"""

from __future__ import annotations

import json
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.quantizer_builders import DIM, clustered, squared_error
from semantic_ids.quantizers import QUANTIZERS, Quantizer, ResidualOPQ, SharedPrivate, roundtrip_share
from semantic_ids.quantizers.base import canonical_order
from semantic_ids.quantizers.sizes import ROWS_PER_CODE, default_size
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError, SidkitError

SIZES = (12, 7, 5)
SMALL: dict[str, dict[str, Any]] = {
    "rq_vae": {"epochs": 2, "hidden": (8,), "latent_dim": 8, "batch": 64},
    "parallel_aspects": {"epochs": 2},
    "shared_private": {"epochs": 2},
}
PRODUCTS = {"pq", "opq"}
"""Kinds whose codes stand side by side; the width must divide into them."""
HALVES = {*PRODUCTS, "rq_opq", "shared_private"}
"""Kinds that divide the width; the first of their levels need not."""
FULL_SEARCH_BY_BEAM = {"residual_kmeans"}
"""Kinds whose beam, when as wide as there are combinations, finds the nearest of all combinations."""

relaxed = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=sorted(QUANTIZERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, sizes: tuple[int, ...] = SIZES, seed: int = 0, force: bool = True) -> Quantizer:
    """A quantizer whose codes have these ``sizes`` in all."""
    if kind == "rq_opq":
        return ResidualOPQ(sizes[:1], sizes[1:], seed=seed, force=force)
    if kind == "shared_private" and sizes:  # a private level has a further code, of an absent view
        private = sizes[-2:] if len(sizes) > 2 else sizes[-1:]
        names = ("image", "text")[: len(private)]
        return SharedPrivate(
            sizes[: -len(private)], [size - 1 for size in private], names, epochs=2, seed=seed, force=force
        )
    return QUANTIZERS[kind](sizes=sizes, seed=seed, force=force, **SMALL.get(kind, {}))  # type: ignore[call-arg]


def only(kinds: set[str] | list[str]) -> pytest.MarkDecorator:
    """Run for these kinds alone."""
    return pytest.mark.parametrize("kind", sorted(kinds), scope="module")


@pytest.fixture(scope="module")
def fitted(kind: str) -> Quantizer:
    return make(kind).fit(clustered())


@pytest.mark.parametrize("sizes", [(3, 5), (16, 8, 4), (5, 2, 3, 2)])
@pytest.mark.parametrize("beam", [1, 3])
def test_codes_are_int32_one_per_level_within_any_sizes(kind: str, sizes: tuple[int, ...], beam: int) -> None:
    quantizer = make(kind, sizes).fit(clustered(200))
    codes = quantizer.encode(clustered(70, seed=1), beam=beam)
    assert codes.shape == (70, len(sizes))
    assert codes.dtype == np.int32
    assert (codes >= 0).all()
    assert (codes < np.array(sizes)).all()
    decoded = quantizer.decode(codes)
    assert decoded.shape == (70, DIM)
    assert decoded.dtype == np.float32


def test_every_code_of_the_first_level_is_used_on_the_data_of_the_fit(fitted: Quantizer) -> None:
    assert len(np.unique(fitted.encode(clustered())[:, 0])) == fitted.sizes_[0]


def test_the_same_seed_gives_the_same_codes_and_some_other_seed_others(kind: str) -> None:
    rows = clustered(300)
    codes = [make(kind, seed=seed).fit(rows).encode(rows).tolist() for seed in (0, 0, 1, 2, 3)]
    assert codes[0] == codes[1]
    assert any(other != codes[0] for other in codes[2:])


def test_a_saved_quantizer_gives_identical_codes(fitted: Quantizer) -> None:
    arguments = json.loads(json.dumps(fitted.config()))
    again = type(fitted)(**arguments).load_tensors(fitted.tensors())
    rows = clustered(300, seed=2)
    assert again.sizes_ == fitted.sizes_
    for beam in (1, 4):
        np.testing.assert_array_equal(again.encode(rows, beam=beam), fitted.encode(rows, beam=beam))
    codes = fitted.encode(rows)
    np.testing.assert_array_equal(again.decode(codes), fitted.decode(codes))


def test_a_quantizer_made_from_anothers_config_fits_the_same_codes(kind: str) -> None:
    rows = clustered(300)
    first = make(kind, (5, 4), seed=3)
    again = QUANTIZERS[kind](**{**json.loads(json.dumps(first.config())), "force": True})
    np.testing.assert_array_equal(again.fit(rows).encode(rows), first.fit(rows).encode(rows))


@only(set(QUANTIZERS) - PRODUCTS - {"rq_opq", "rk_fsq", "shared_private"})
def test_each_level_lowers_the_reconstruction_error(kind: str) -> None:
    rows = clustered()
    errors = [squared_error(make(kind, (8,) * levels).fit(rows), rows).mean() for levels in (1, 2, 3)]
    spread = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert all(later < 0.97 * earlier for earlier, later in pairwise([spread, *errors]))


@only({"residual_kmeans", *PRODUCTS})
def test_a_beam_is_never_worse_than_no_beam_on_average(fitted: Quantizer) -> None:
    for seed in range(5):
        rows = clustered(300, seed=seed)
        errors = [squared_error(fitted, rows, beam).mean() for beam in (1, 2, 8)]
        assert errors[1] <= errors[0] + 1e-6
        assert errors[2] <= errors[0] + 1e-6


@pytest.mark.parametrize("exact", sorted(FULL_SEARCH_BY_BEAM))
def test_a_beam_as_wide_as_all_combinations_of_two_levels_is_an_exhaustive_search(exact: str) -> None:
    sizes = (6, 5)
    quantizer = make(exact, sizes).fit(clustered(400))
    rows = clustered(150, seed=3)
    every = quantizer.decode(np.array(list(product(*map(range, sizes))), dtype=np.int32)).astype(float)
    best = ((rows[:, None].astype(float) - every) ** 2).sum(axis=2).min(axis=1)
    for beam in (30, 1000):
        np.testing.assert_allclose(squared_error(quantizer, rows, beam), best, rtol=1e-4, atol=1e-4)
    assert squared_error(quantizer, rows).mean() > best.mean()


@only(FULL_SEARCH_BY_BEAM)
def test_with_a_full_search_a_reconstruction_is_its_own_nearest_one(kind: str) -> None:
    quantizer = make(kind, (6, 5)).fit(clustered(400))
    decoded = quantizer.decode(quantizer.encode(clustered(200, seed=4)))
    assert squared_error(quantizer, decoded, beam=30).max() < 1e-3


def test_what_codes_stand_for_is_encoded_back_to_codes_that_stand_for_it(kind: str) -> None:
    quantizer = make(kind, (6, 5)).fit(clustered(400))
    codes = quantizer.encode(clustered(200, seed=4))
    once = quantizer.encode(quantizer.decode(codes))
    # Level by level a coarser step may take another way; the share that comes back is measured and must stay high.
    assert roundtrip_share(quantizer, once) > (0.999 if kind in PRODUCTS else 0.8)


@only(PRODUCTS)
@relaxed
@given(data=st.data())
def test_products_come_back_from_what_they_stand_for(kind: str, data: st.DataObject) -> None:
    parts, width = data.draw(st.integers(1, 3), "parts"), data.draw(st.integers(1, 4), "width")
    scale = data.draw(st.sampled_from([1e-6, 1.0, 1e6]), "scale")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    rows = rng.normal(size=(60, parts * width))
    if data.draw(st.booleans(), "few distinct rows"):  # codewords coincide
        rows = np.round(rows)[rng.integers(0, 5, 60)]
    if data.draw(st.booleans(), "far from the origin"):
        rows += 100
    matrix = (scale * rows).astype(np.float32)
    quantizer = make(kind, (8, 5, 3)[:parts]).fit(matrix)
    codes = quantizer.encode(matrix)
    np.testing.assert_array_equal(quantizer.encode(quantizer.decode(codes)), codes)
    assert roundtrip_share(quantizer, codes) == 1


def test_the_order_of_the_rows_of_the_fit_changes_nothing(kind: str) -> None:
    rows = clustered(300)
    expected = make(kind).fit(rows).encode(rows)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        np.testing.assert_array_equal(make(kind).fit(rows[order]).encode(rows), expected)


@relaxed
@given(cuts=st.lists(st.integers(0, 200), max_size=6), beam=st.sampled_from([1, 3]))
def test_a_batch_is_encoded_as_its_parts_are(fitted: Quantizer, cuts: list[int], beam: int) -> None:
    rows = clustered(200, seed=5)
    whole = fitted.encode(rows, beam=beam)
    parts = [fitted.encode(rows[start:end], beam=beam) for start, end in pairwise([0, *sorted(cuts), 200])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_new_rows_never_change_the_codes_of_old_ones(fitted: Quantizer) -> None:
    rows, later = clustered(200, seed=5), clustered(150, seed=9)
    before = fitted.encode(rows)
    fitted.encode(later)
    np.testing.assert_array_equal(fitted.encode(rows), before)
    np.testing.assert_array_equal(fitted.encode(np.concatenate([later, rows]))[len(later) :], before)


def between_codes(quantizer: Quantizer, rows: int = 800) -> Floats:
    """Rows half way between two reconstructions that differ in one level: rounding alone decides their codes."""
    rng = np.random.default_rng(7)
    one = (rng.random((rows, len(quantizer.sizes_))) * quantizer.sizes_).astype(np.int32)
    other = one.copy()
    level = rng.integers(0, len(quantizer.sizes_), rows)
    other[np.arange(rows), level] = (one[np.arange(rows), level] + 1) % np.array(quantizer.sizes_)[level]
    return (quantizer.decode(one) + quantizer.decode(other)) / 2


@pytest.mark.parametrize("beam", [1, 3])
def test_a_row_between_two_codes_gets_one_of_them_whatever_its_batch(fitted: Quantizer, beam: int) -> None:
    rows = between_codes(fitted)
    whole = fitted.encode(rows, beam=beam)
    for size in (1, 3, 7, 64):
        parts = [fitted.encode(rows[start : start + size], beam=beam) for start in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("distinct", [3, 10, 40])
@pytest.mark.parametrize("beam", [1, 4])
def test_equal_rows_get_equal_codes(kind: str, distinct: int, beam: int) -> None:
    number = np.random.default_rng(0).integers(0, distinct, 400)
    for dim in (6, 12, 24):
        rows = np.random.default_rng(1).normal(size=(distinct, dim)).astype(np.float32)[number]
        codes = make(kind, (16, 8, 8)).fit(rows).encode(rows, beam=beam)
        assert len(np.unique(np.column_stack([number, codes]), axis=0)) == len(np.unique(number))


@relaxed
@given(data=st.data())
def test_any_finite_matrix_of_enough_rows_can_be_fitted(kind: str, data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, 9), "dim")
    levels = [count for count in (2, 3) if dim % (count - (kind not in PRODUCTS)) == 0 or kind not in HALVES]
    assume(levels)
    rows = data.draw(st.integers(max(dim, 4), 40), "rows")
    # Small whole numbers: many equal rows and empty residuals.
    values = data.draw(st.lists(st.integers(-3, 3), min_size=rows * dim, max_size=rows * dim), "values")
    matrix = np.array(values, dtype=np.float32).reshape(rows, dim)
    count = data.draw(st.sampled_from(levels), "levels")
    sizes = tuple(data.draw(st.lists(st.integers(2, rows), min_size=count, max_size=count), "sizes"))
    quantizer = make(kind, sizes).fit(matrix)
    codes = quantizer.encode(matrix)
    assert codes.shape == (rows, len(sizes))
    decoded = quantizer.decode(codes)
    assert np.isfinite(decoded).all()
    if kind == "rq_vae":  # a decoder trained for a few steps
        return
    # Never worse than one code for all, beyond rounding.
    spread = ((matrix - matrix.mean(axis=0)) ** 2).sum()
    assert ((matrix - decoded) ** 2).sum() <= spread + 1e-3 * (1 + (matrix**2).sum())


@pytest.mark.parametrize("rows", [4, 8, DIM - 1])
def test_fewer_rows_than_dimensions_are_fitted_or_refused(kind: str, rows: int) -> None:
    matrix = clustered(rows)
    try:
        quantizer = make(kind, (3, 2)).fit(matrix)
    except FitError:
        return
    assert np.isfinite(quantizer.decode(quantizer.encode(matrix))).all()


@pytest.mark.parametrize("layout", ["float64", "fortran", "strided", "read-only"])
def test_the_layout_of_the_rows_does_not_matter_and_they_stay_as_they_are(fitted: Quantizer, layout: str) -> None:
    rows = clustered(100, seed=6)
    expected = fitted.encode(rows)
    wide = np.zeros((200, 2 * DIM), np.float32)
    wide[::2, ::2] = rows
    readonly = rows.copy()
    readonly.flags.writeable = False
    given_rows = {
        "float64": rows.astype(np.float64),
        "fortran": np.asfortranarray(rows),
        "strided": wide[::2, ::2],
        "read-only": readonly,
    }[layout]
    np.testing.assert_array_equal(fitted.encode(given_rows), expected)
    fitted.encode(given_rows, beam=3)
    again = make(fitted.name).fit(given_rows)
    np.testing.assert_array_equal(again.encode(rows), make(fitted.name).fit(rows).encode(rows))
    np.testing.assert_array_equal(given_rows, rows)


def test_no_rows_have_no_codes(fitted: Quantizer) -> None:
    for beam in (1, 3):
        codes = fitted.encode(np.zeros((0, DIM), np.float32), beam=beam)
        assert codes.shape == (0, len(SIZES))
        assert fitted.decode(codes).shape == (0, DIM)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_and_counted(kind: str, fitted: Quantizer, bad: float) -> None:
    rows = clustered(300)
    rows[[3, 5], 2] = bad
    for refuse in (make(kind).fit, fitted.encode):
        with pytest.raises(FitError, match=r"2 of 300 vectors contain NaN or infinite"):
            refuse(rows)


def test_another_width_than_at_fit_is_refused_with_both_widths(fitted: Quantizer) -> None:
    with pytest.raises(FitError, match=rf"shape \(items, {DIM}\), as at fit, got \(\d+, {DIM + 1}\)"):
        fitted.encode(clustered(10, DIM + 1))


@pytest.mark.parametrize("shape", [(DIM,), (2, 3, DIM), ()])
def test_what_is_no_matrix_is_refused_with_its_shape(kind: str, fitted: Quantizer, shape: tuple[int, ...]) -> None:
    rows = np.zeros(shape, np.float32)
    for refuse in (make(kind).fit, fitted.encode):
        with pytest.raises(FitError, match=r"expected vectors of shape \(items, dim\)"):
            refuse(rows)


@pytest.mark.parametrize("sizes", [(), (8, 1), (0, 8), (8, -2)])
def test_sizes_below_two_are_refused(kind: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(FitError, match="at least 2 codes"):
        make(kind, sizes).fit(clustered(300))


@pytest.mark.parametrize("force", [False, True])
def test_a_level_larger_than_the_data_is_refused_even_by_force(kind: str, force: bool) -> None:
    with pytest.raises(FitError, match=r"level of 31 codes is larger than the data \(30 rows\)"):
        make(kind, (4, 31), force=force).fit(clustered(30))


def test_too_few_rows_per_code_are_refused_unless_forced(kind: str) -> None:
    enough, few = clustered(ROWS_PER_CODE * 8), clustered(ROWS_PER_CODE * 8 - 1)
    make(kind, (8, 4), force=False).fit(enough)
    with pytest.raises(FitError, match=r"159 rows for 8 codes.*to at most 7 codes per level.*force = true"):
        make(kind, (8, 4), force=False).fit(few)
    make(kind, (8, 4), force=True).fit(few)


@pytest.mark.parametrize("beam", [0, -1])
def test_a_beam_below_one_is_refused(fitted: Quantizer, beam: int) -> None:
    with pytest.raises(SidkitError):
        fitted.encode(clustered(10), beam=beam)


@pytest.mark.parametrize("codes", [[[0, 0]], [[0, 0, 0, 0]], [0, 0, 0], [[[0, 0, 0]]]])
def test_codes_of_another_shape_are_refused(fitted: Quantizer, codes: object) -> None:
    with pytest.raises(FitError, match=r"codes of shape \(items, 3\), got"):
        fitted.decode(np.array(codes, dtype=np.int32))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_codes_beyond_the_sizes_are_refused_and_named(fitted: Quantizer, level: int) -> None:
    for code in (SIZES[level], -1):
        codes = np.zeros((4, 3), dtype=np.int64)
        codes[1, level] = code
        with pytest.raises(FitError, match=rf"\[12, 7, 5\].*[ \[]{code}[,\] ]"):
            fitted.decode(codes)


@pytest.mark.parametrize("codes", [[[0.5, 1.0, 2.0]], [[np.nan, 0, 0]], [["a", "b", "c"]]])
def test_codes_that_are_no_whole_numbers_are_refused(fitted: Quantizer, codes: object) -> None:
    with pytest.raises(FitError):
        fitted.decode(np.array(codes))


@given(st.integers(320, 10**6))
def test_the_default_size_is_the_power_of_two_nearest_a_fortieth_of_the_items(items: int) -> None:
    size = default_size(items)
    assert size in (16, 32, 64, 128, 256, 512, 1024)
    assert all(abs(size - items / 40) <= abs(other - items / 40) for other in (16, 32, 64, 128, 256, 512, 1024))


@pytest.mark.parametrize(
    ("items", "size"),
    [
        (0, 2),
        (39, 2),
        (79, 2),
        (80, 4),
        (319, 8),
        (320, 16),
        (640, 16),
        (1_000, 32),
        (1_280, 32),
        (10_000, 256),
        (30_720, 512),
        (10**8, 1024),
    ],
)
def test_the_default_size_of_some_catalogues(items: int, size: int) -> None:
    assert default_size(items) == size


@given(st.integers(0, 50))
def test_the_canonical_order_does_not_depend_on_the_order_that_came(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (12, 3)).astype(np.float32)
    shuffled = rows[rng.permutation(12)]
    np.testing.assert_array_equal(rows[canonical_order(rows)], shuffled[canonical_order(shuffled)])
    assert sorted(canonical_order(rows).tolist()) == list(range(12))
