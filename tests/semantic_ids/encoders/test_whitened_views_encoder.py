"""Views whitened alone, side by side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids import ItemVectors, ProductQuantizer
from semantic_ids.encoders.whitened_views import WhitenedViewsEncoder
from semantic_ids.laws import check_encoder
from sidkit.core.errors import FitError


def some_items(rows: int = 300, seed: int = 0) -> ItemVectors:
    rng = np.random.default_rng(seed)
    title = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, 6)) + 3
    brand = rng.normal(size=(rows, 3)) * [5.0, 1.0, 0.5]
    has_brand = np.arange(rows) % 4 > 0
    brand[~has_brand] = 0
    matrices = {"title": title.astype(np.float32), "brand": brand.astype(np.float32)}
    return ItemVectors(matrices, {"title": np.ones(rows, dtype=bool), "brand": has_brand})


def test_it_meets_the_contract_of_encoders() -> None:
    check_encoder(WhitenedViewsEncoder)
    check_encoder(WhitenedViewsEncoder, view_dim=4)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_every_view_is_white_on_the_items_of_the_fit(seed: int) -> None:
    items = some_items(seed=seed)
    vectors = WhitenedViewsEncoder(view_dim=4, floor=1e-9).fit_transform(items).astype(np.float64)
    assert vectors.shape == (300, 8)
    for at, (name, axes) in enumerate((("brand", 3), ("title", 4))):
        view = vectors[items.present[name], at * 4 : at * 4 + 4]
        np.testing.assert_allclose(view.mean(axis=0), 0, atol=1e-4)
        expected = np.diag([1.0] * axes + [0.0] * (4 - axes))
        np.testing.assert_allclose(view.T @ view / len(view), expected, atol=1e-3)


def test_a_missing_view_is_zero_and_the_other_views_do_not_change() -> None:
    items = some_items()
    encoder = WhitenedViewsEncoder(view_dim=3).fit(items)
    vectors = encoder.encode(items)
    assert not vectors[~items.present["brand"], :3].any() and vectors[items.present["brand"], :3].any(axis=1).all()
    other = {**items.matrices, "title": items.matrices["title"] + 1}
    assert np.array_equal(encoder.encode(ItemVectors(other, items.present))[:, :3], vectors[:, :3])


def test_a_code_of_a_view_depends_on_this_view_alone() -> None:
    items = some_items()
    encoder = WhitenedViewsEncoder(view_dim=4).fit(items)
    quantizer = ProductQuantizer(sizes=(4, 4, 4, 4)).fit(encoder.encode(items))
    codes = quantizer.encode(encoder.encode(items))
    swapped = {**items.matrices, "title": items.matrices["title"][::-1].copy()}
    other = quantizer.encode(encoder.encode(ItemVectors(swapped, items.present)))
    np.testing.assert_array_equal(other[:, :2], codes[:, :2])
    assert (other[:, 2:] != codes[:, 2:]).any() and quantizer.residual_levels == 0


def test_an_axis_of_noise_is_not_blown_up_and_a_constant_view_is_zero() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(200, 2)) * [1.0, 1e-6]).astype(np.float32)
    vectors = WhitenedViewsEncoder(view_dim=2, floor=0.01).fit_transform(rows)
    assert vectors[:, 0].std() == pytest.approx(1, abs=1e-3) and vectors[:, 1].std() < 1e-3
    assert not WhitenedViewsEncoder(view_dim=2).fit_transform(np.full((50, 2), 3.0, np.float32)).any()


def test_what_it_cannot_use_is_refused() -> None:
    items = some_items()
    with pytest.raises(FitError, match="expected view_dim of at least 1 and floor above 0"):
        WhitenedViewsEncoder(view_dim=0).fit(items)
    with pytest.raises(FitError, match="expected view_dim of at least 1 and floor above 0"):
        WhitenedViewsEncoder(floor=0.0).fit(items)
    nobody = {**items.present, "brand": np.zeros(300, dtype=bool)}
    with pytest.raises(FitError, match="no item known at the cut-off has a vector of modality 'brand'"):
        WhitenedViewsEncoder().fit(ItemVectors(items.matrices, nobody))
    encoder = WhitenedViewsEncoder().fit(items)
    with pytest.raises(FitError, match=r"expected modalities \('brand', 'title'\), as at fit"):
        encoder.encode(items.matrices["title"])
    with pytest.raises(FitError, match="expected vectors of 'title' with 6 elements, as at fit, got 5"):
        encoder.encode(ItemVectors({**items.matrices, "title": items.matrices["title"][:, :5]}, items.present))
    broken = items.matrices["title"].copy()
    broken[3, 0] = np.nan
    with pytest.raises(FitError, match="1 of 300 vectors of 'title' contain NaN"):
        encoder.encode(ItemVectors({**items.matrices, "title": broken}, items.present))
