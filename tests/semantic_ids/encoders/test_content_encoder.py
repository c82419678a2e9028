"""The content encoder against its own definition, written once more in a few lines of float64."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids import item_vectors
from semantic_ids.encoders import ContentEncoder, Encoder
from semantic_ids.encoders import content as content_module
from semantic_ids.encoders import moments as moments_module
from semantic_ids.encoders.whitened_views import WhitenedViewsEncoder
from semantic_ids.item_vectors import ItemVectors
from sidkit.core.arrays import Doubles
from sidkit.core.errors import FitError, SidkitError


def content(
    rows: int = 60, widths: tuple[int, ...] = (6, 4), missing: float = 0.3, seed: int = 0, offset: float = 3.0
) -> ItemVectors:
    """Modalities that see one hidden vector, far from zero, each missing at random."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 3))
    names = ("text", "image", "audio")[: len(widths)]
    matrices, present = {}, {}
    for name, width in zip(names, widths, strict=True):
        seen = hidden @ rng.normal(size=(3, width)) + 0.3 * rng.normal(size=(rows, width)) + offset
        matrices[name] = seen.astype(np.float32)
        present[name] = rng.random(rows) >= missing
        present[name][:3] = True
        matrices[name][~present[name]] = 0
    return ItemVectors(matrices, present)


def filled_by_the_book(fitted: ItemVectors, items: ItemVectors, ridge: float) -> Doubles:
    """Centred, scaled, gap-filled content of ``items``, by the statistics of ``fitted``; ridge as least squares."""
    names = sorted(fitted.matrices)

    def scaled(of: ItemVectors, name: str) -> Doubles:
        there = fitted.present[name]
        rows = fitted.matrices[name][there].astype(float)
        spread = np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
        return (of.matrices[name].astype(float) - rows.mean(axis=0)) * np.sqrt(there.mean()) / spread

    def bridged(source: str, target: str, row: Doubles) -> Doubles:
        both = fitted.present[source] & fitted.present[target]
        x, y = scaled(fitted, source)[both], scaled(fitted, target)[both]
        penalty = ridge * ((x - x.mean(axis=0)) ** 2).sum() / x.shape[1]
        tall = np.vstack([x - x.mean(axis=0), np.sqrt(penalty) * np.eye(x.shape[1])])
        right = np.vstack([y - y.mean(axis=0), np.zeros((x.shape[1], y.shape[1]))])
        return y.mean(axis=0) + (row - x.mean(axis=0)) @ np.linalg.lstsq(tall, right, rcond=None)[0]

    columns = []
    for target in names:
        column = scaled(items, target)
        for row in np.flatnonzero(~items.present[target]):
            guesses = [
                bridged(source, target, scaled(items, source)[row])
                for source in names
                if source != target and items.present[source][row]
            ]
            column[row] = np.mean(guesses, axis=0) if guesses else 0
        columns.append(column)
    return np.hstack(columns)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 100),
    st.sampled_from([(5,), (6, 4), (3, 5, 2)]),
    st.sampled_from([0.0, 0.3, 0.6]),
    st.floats(0.01, 2),
)
def test_all_of_the_space_is_the_content_with_gaps_filled_by_ridge_regression(
    seed: int, widths: tuple[int, ...], missing: float, ridge: float
) -> None:
    known, new = content(30, widths, missing, seed), content(12, widths, missing, seed + 1)
    encoder = ContentEncoder(dim=sum(widths), ridge=ridge).fit(known)
    centre = filled_by_the_book(known, known, ridge)[known.any_present].mean(axis=0)
    expected, got = [], []
    for items in (known, new):
        expected.append((filled_by_the_book(known, items, ridge) - centre)[items.any_present])
        got.append(encoder.encode(items)[items.any_present].astype(float))
    # A rotation keeps all inner products, and PCA to full width is a rotation.
    expected_rows, got_rows = np.vstack(expected), np.vstack(got)
    np.testing.assert_allclose(got_rows @ got_rows.T, expected_rows @ expected_rows.T, atol=2e-4)


@pytest.mark.parametrize("dim", [1, 3, 7])
def test_the_kept_directions_are_those_of_the_largest_variance(dim: int) -> None:
    items = content()
    joined = filled_by_the_book(items, items, 0.1)[items.any_present]
    largest = np.linalg.svd(joined - joined.mean(axis=0), compute_uv=False)[:dim]
    vectors = ContentEncoder(dim=dim).fit(items).encode(items)[items.any_present]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), largest, rtol=1e-3)


@pytest.mark.parametrize(
    ("rows", "widths", "dim", "expected"),
    [(60, (6, 4), 64, 10), (60, (6, 4), 5, 5), (5, (6, 4), 64, 4), (2, (9,), 64, 1)],
)
def test_vectors_have_the_asked_width_or_what_the_content_allows(
    rows: int, widths: tuple[int, ...], dim: int, expected: int
) -> None:
    items = content(rows, widths, missing=0)
    encoder = ContentEncoder(dim=dim).fit(items)
    vectors = encoder.encode(items)
    assert vectors.shape == (rows, expected)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert encoder.output_dim == expected


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 59), min_size=1, max_size=20))
def test_an_item_is_encoded_alike_alone_and_in_company(wanted: list[int]) -> None:
    items = content()
    encoder = ContentEncoder(dim=8).fit(items)
    index = np.array(wanted)
    np.testing.assert_allclose(encoder.encode(items.rows(index)), encoder.encode(items)[index], atol=1e-5)


def test_an_item_without_any_modality_is_all_zeros() -> None:
    items = content(missing=0.7)
    nothing = ~items.any_present
    assert nothing.any()
    vectors = ContentEncoder(dim=8).fit(items).encode(items)
    assert not vectors[nothing].any()
    assert (np.abs(vectors[~nothing]).sum(axis=1) > 0).all()


def test_a_chunk_in_which_no_row_has_a_modality_is_encoded_as_in_company() -> None:
    items = content()
    encoder = ContentEncoder(dim=8).fit(items)
    rows = np.flatnonzero(~items.present["image"])
    part = items.rows(rows)
    # A chunk from Arrow without any vector of a modality does not know its width.
    chunk = ItemVectors({**part.matrices, "image": np.zeros((len(rows), 0), np.float32)}, part.present)
    np.testing.assert_allclose(encoder.encode(chunk), encoder.encode(items)[rows], atol=1e-5)


def test_a_chunk_without_any_content_and_an_empty_chunk_are_encoded() -> None:
    encoder = ContentEncoder(dim=8).fit(content())
    for rows in (0, 3):
        none = np.zeros(rows, bool)
        chunk = ItemVectors(
            dict.fromkeys(("text", "image"), np.zeros((rows, 0), np.float32)), {"text": none, "image": none}
        )
        assert encoder.encode(chunk).shape == (rows, 8)
        assert not encoder.encode(chunk).any()


def test_what_lies_in_the_row_of_a_missing_modality_is_never_looked_at() -> None:
    items = content()
    soiled = {name: matrix.copy() for name, matrix in items.matrices.items()}
    for name, matrix in soiled.items():
        matrix[~items.present[name]] = np.nan
    dirty = ItemVectors(soiled, items.present)
    expected = ContentEncoder(dim=8).fit(items).encode(items)
    np.testing.assert_array_equal(ContentEncoder(dim=8).fit(dirty).encode(dirty), expected)


def test_the_order_in_which_modalities_are_named_does_not_matter() -> None:
    items = content(widths=(5, 4, 3))
    expected = ContentEncoder(dim=8).fit(items).encode(items)
    for names in permutations(items.matrices):
        other = ItemVectors({n: items.matrices[n] for n in names}, {n: items.present[n] for n in reversed(names)})
        np.testing.assert_array_equal(ContentEncoder(dim=8).fit(other).encode(other), expected)


def test_a_modality_counts_alike_in_any_unit_and_from_any_origin() -> None:
    items = content(missing=0)
    expected = ContentEncoder(dim=4).fit(items).encode(items)
    moved = ItemVectors({**items.matrices, "image": items.matrices["image"] * 50 - 7}, items.present)
    np.testing.assert_allclose(ContentEncoder(dim=4).fit(moved).encode(moved), expected, atol=1e-3)


def test_fitting_again_or_on_shuffled_rows_flips_no_axis() -> None:
    items = content()
    order = np.random.default_rng(1).permutation(len(items))
    first = ContentEncoder(dim=4).fit(items)
    np.testing.assert_array_equal(ContentEncoder(dim=4).fit(items).encode(items), first.encode(items))
    np.testing.assert_allclose(
        ContentEncoder(dim=4).fit(items.rows(order)).encode(items), first.encode(items), atol=1e-3
    )
    axes = first.tensors()["axes"]
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(4)] > 0).all()


@pytest.mark.parametrize("widths", [(6,), (6, 4), (5, 4, 3)])
def test_a_saved_encoder_gives_identical_vectors(widths: tuple[int, ...]) -> None:
    items = content(widths=widths)
    encoder = ContentEncoder(dim=7, ridge=0.3).fit(items)
    arguments = json.loads(json.dumps(encoder.config()))
    again = ContentEncoder(**arguments).load_tensors(encoder.tensors())
    np.testing.assert_array_equal(again.encode(items), encoder.encode(items))
    assert again.modalities_ == encoder.modalities_
    assert again.output_dim == encoder.output_dim


def probe_auc(vectors: Doubles, label: npt.NDArray[np.bool_]) -> float:
    """How well the best linear direction tells the label, on rows that it was not fitted on."""
    half = len(vectors) // 2
    design = np.hstack([vectors, np.ones((len(vectors), 1))])
    weights = np.linalg.lstsq(design[:half], label[:half].astype(float), rcond=None)[0]
    score, truth = (design @ weights)[half:], label[half:]
    return float((score[truth][:, None] > score[~truth][None, :]).mean())


def test_no_direction_says_that_a_modality_is_missing() -> None:
    items = content(rows=1200, widths=(8, 6), missing=0.4, offset=5.0)
    items = items.rows(items.any_present)
    missing = ~items.present["image"]
    zero_filled = np.hstack([items.matrices["text"], items.matrices["image"]]).astype(float)
    assert probe_auc(zero_filled, missing) > 0.95  # what the probe finds where gaps are left as zeros
    vectors = ContentEncoder(dim=14).fit(items).encode(items).astype(float)
    assert probe_auc(vectors, missing) < 0.6


def test_modalities_that_no_item_has_together_are_still_encoded() -> None:
    items = content(missing=0)
    first = np.arange(len(items)) < 30
    apart = ItemVectors(items.matrices, {"text": first, "image": ~first})
    vectors = ContentEncoder(dim=8).fit(apart).encode(apart)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) == len(items)


def test_gaps_that_depend_on_content_do_not_become_a_direction() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(1500, 4))
    text = (latent @ rng.normal(size=(4, 8)) + 0.3 * rng.normal(size=(1500, 8))).astype(np.float32)
    image = (latent @ rng.normal(size=(4, 8)) + 0.3 * rng.normal(size=(1500, 8))).astype(np.float32)
    there = latent[:, 0] + rng.normal(size=1500) > 0
    items = ItemVectors({"text": text, "image": image}, {"text": np.ones(1500, bool), "image": there})
    vectors = ContentEncoder(dim=8).fit(items).encode(items)

    def told(rows: npt.NDArray[np.float32]) -> float:
        """AUC of the best linear guess at who lacks an image, on items it did not see."""
        x = np.column_stack([rows, np.ones(len(rows))]).astype(float)
        guess = x[750:] @ np.linalg.lstsq(x[:750], there[:750].astype(float), rcond=None)[0]
        below = guess[there[750:], None] > guess[None, ~there[750:]]
        return float(below.mean())

    # What the text alone says of it may be said, and hardly more.
    assert told(vectors) < told(text) + 0.05


def test_a_modality_that_only_one_item_has_is_no_obstacle() -> None:
    items = content(missing=0)
    alone = ItemVectors(items.matrices, {"text": items.present["text"], "image": np.arange(len(items)) == 7})
    encoder = ContentEncoder(dim=6).fit(alone)
    assert np.isfinite(encoder.encode(items)).all()


def test_a_modality_that_is_the_same_for_all_items_says_nothing() -> None:
    items = content(missing=0)
    same = ItemVectors({**items.matrices, "image": np.full_like(items.matrices["image"], 0.1)}, items.present)
    vectors = ContentEncoder(dim=6).fit(same).encode(same)
    text = ItemVectors({"text": items.matrices["text"]}, {"text": items.present["text"]})
    expected = ContentEncoder(dim=6).fit(text).encode(text)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)


def test_a_later_item_is_not_blown_up_where_all_known_items_were_alike() -> None:
    known = ItemVectors({"text": np.ones((20, 3), np.float32)}, {"text": np.ones(20, bool)})
    later = ItemVectors({"text": np.full((1, 3), 1.5, np.float32)}, {"text": np.ones(1, bool)})
    try:
        encoder = ContentEncoder(dim=2).fit(known)
    except FitError:
        return  # refusing content without any spread is as good
    assert np.abs(encoder.encode(later)).max() < 1e3


def test_a_modality_that_no_item_has_is_refused_by_name() -> None:
    items = content()
    with pytest.raises(FitError, match="'image'"):
        ContentEncoder().fit(ItemVectors(items.matrices, {**items.present, "image": np.zeros(len(items), bool)}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    items = content()
    items.matrices["image"][0, 1] = bad
    with pytest.raises(FitError, match=r"'image'.*NaN"):
        ContentEncoder().fit(items)


@pytest.mark.parametrize("width", [1, 5, 9])
def test_another_width_than_at_fit_is_refused_with_both_widths(width: int) -> None:
    items = content()
    encoder = ContentEncoder(dim=4).fit(items)
    other = ItemVectors({**items.matrices, "image": np.zeros((len(items), width), np.float32)}, items.present)
    with pytest.raises(FitError, match=rf"'image' with 4 elements, as at fit, got {width}"):
        encoder.encode(other)


def test_other_modalities_than_at_fit_are_refused() -> None:
    items = content()
    encoder = ContentEncoder(dim=4).fit(items)
    fewer = ItemVectors({"text": items.matrices["text"]}, {"text": items.present["text"]})
    more = content(widths=(6, 4, 3))
    for other in (fewer, more):
        with pytest.raises(FitError, match="expected modalities"):
            encoder.encode(other)


@pytest.mark.parametrize("dim", [0, -1])
def test_a_dim_below_one_is_refused(dim: int) -> None:
    with pytest.raises(SidkitError):
        ContentEncoder(dim=dim).fit(content())


def test_a_large_catalogue_is_encoded_in_parts_with_equal_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    items = content(rows=60)
    encoder = ContentEncoder(dim=3).fit(items)
    whole = encoder.encode(items)
    monkeypatch.setattr(item_vectors, "_BLOCK_ROWS", 7)
    np.testing.assert_array_equal(encoder.encode(items), whole)


def test_a_fit_on_a_sample_is_near_that_on_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    items = content(rows=9_000, missing=0.1)
    whole = ContentEncoder(dim=3).fit(items).encode(items)
    monkeypatch.setattr(content_module, "_FIT_ITEMS", 6_000)
    sampled = ContentEncoder(dim=3).fit(items).encode(items)
    assert np.square(sampled - whole).sum() < 0.01 * np.square(whole).sum()
    np.testing.assert_array_equal(ContentEncoder(dim=3).fit(items).encode(items), sampled)


def test_a_rare_modality_is_learned_from_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    items = content(rows=3_000, missing=0.1)
    items.present["image"][5:] = False
    items.matrices["image"][5:] = 0
    whole = ContentEncoder(dim=3).fit(items).encode(items)
    monkeypatch.setattr(content_module, "_FIT_ITEMS", 2_000)
    np.testing.assert_array_equal(ContentEncoder(dim=3).fit(items).encode(items), whole)


@pytest.mark.parametrize("encoder", [ContentEncoder(dim=3), WhitenedViewsEncoder(view_dim=2)])
def test_statistics_of_parts_are_those_of_all_items(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    items = content(rows=500)
    whole = encoder.fit(items).encode(items)
    monkeypatch.setattr(moments_module, "_PART_ROWS", 41)
    np.testing.assert_allclose(encoder.fit(items).encode(items), whole, rtol=1e-4, atol=1e-5)


def test_vectors_that_are_not_finite_are_counted_over_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    items = content(rows=60, missing=0.0)
    encoder = ContentEncoder(dim=3).fit(items)
    monkeypatch.setattr(item_vectors, "_BLOCK_ROWS", 7)
    items.matrices["text"][[1, 30, 59], 2] = np.nan
    with pytest.raises(FitError, match="3 of 60 vectors of 'text' contain NaN"):
        encoder.encode(items)
