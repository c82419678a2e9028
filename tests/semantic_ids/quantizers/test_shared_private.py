"""Hi-SAM's codes: what the views agree on, and what each has of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.models.representations.base import ItemShape
from ranking.models.representations.prefix_ngram import PrefixNgramRepresentation
from ranking.models.spec import ModelSpec
from semantic_ids.code_stats import CodeStatsSpec, chosen_stats
from semantic_ids.codebook import Codebook
from semantic_ids.encoders import ContentEncoder, WhitenedViewsEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.laws import check_quantizer
from semantic_ids.quantizers import QUANTIZERS, ResidualKMeans, SharedPrivate
from semantic_ids.quantizers.base import CodeGroup
from semantic_ids.quantizers.shared_private_training import alignment_loss, correlation_penalty, uniformity_loss
from sidkit.core.config import TimeSettings
from sidkit.core.errors import ConfigError, FitError

WIDTH = 8
law = settings(max_examples=20, deadline=None, database=None)


def two_views(items: int = 1200, seed: int = 0, absent: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of two views that share one factor of 8 values and have one of 4 values each of their own; the shared factor,
    and the own factors ``[items, 2]``. Some items lack the first view.
    """
    rng = np.random.default_rng(seed)
    shared, own = rng.integers(0, 8, items), rng.integers(0, 4, (items, 2))
    parts = []
    for view in range(2):
        centres, private = 2.0 * rng.normal(size=(8, WIDTH)), 0.8 * rng.normal(size=(4, WIDTH))
        parts.append(centres[shared] + private[own[:, view]] + 0.1 * rng.normal(size=(items, WIDTH)))
    rows = np.concatenate(parts, axis=1).astype(np.float32)
    rows[rng.random(items) < absent, :WIDTH] = 0
    return rows, shared, own


def made(**changes: object) -> SharedPrivate:
    arguments = {"sizes": (16, 16), "private_sizes": (8, 8), "views": ("image", "text"), "epochs": 5, "force": True}
    return SharedPrivate(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> SharedPrivate:
    return made().fit(two_views()[0])


@pytest.mark.parametrize("arguments", [{"views": ("a", "b")}, {}])
def test_it_keeps_the_contract(arguments: dict[str, object]) -> None:
    check_quantizer(SharedPrivate, sizes=(8, 4), epochs=2, force=True, **arguments)


def test_with_one_view_shared_codes_are_those_of_residual_k_means_and_the_private_code_is_constant() -> None:
    rows = two_views(absent=0.0)[0][:, WIDTH:]
    quantizer = SharedPrivate((16, 8), force=True).fit(rows)
    codes = quantizer.encode(rows)
    unit = rows.astype(np.float64)
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    expected = ResidualKMeans((16, 8), force=True).fit(unit).encode(unit)
    np.testing.assert_array_equal(codes[:, :2], expected)
    assert (codes[:, 2] == 0).all() and quantizer.sizes_ == (16, 8, 3)
    assert [group.name for group in quantizer.code_groups] == ["shared", "content"]


@law
@given(st.integers(0, 10**6))
def test_another_image_changes_only_its_code_unless_the_shared_codes_change(seed: int) -> None:
    quantizer, rows = FITTED, two_views()[0]
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(rows), 200)
    changed = rows[index].copy()
    changed[:, :WIDTH] = rows[rng.integers(0, len(rows), 200), :WIDTH] * (changed[:, :WIDTH] != 0)
    before, after = quantizer.encode(rows[index]), quantizer.encode(changed)
    same = (before[:, :2] == after[:, :2]).all(axis=1)
    assert same.any()
    np.testing.assert_array_equal(before[same, 3], after[same, 3])


FITTED = made().fit(two_views()[0])


def test_an_absent_view_has_a_code_of_its_own_and_decodes_to_zeros(fitted: SharedPrivate) -> None:
    rows = two_views()[0]
    codes = fitted.encode(rows)
    absent = ~rows[:, :WIDTH].any(axis=1)
    assert absent.any() and fitted.sizes_ == (16, 16, 9, 9)
    np.testing.assert_array_equal(codes[:, 2] == 8, absent)
    assert (codes[:, 3] < 8).all()
    decoded = fitted.decode(codes)
    assert not decoded[absent, :WIDTH].any() and decoded[~absent, :WIDTH].any(axis=1).all()


def test_private_codes_are_nearest_to_what_the_shared_codes_leave(fitted: SharedPrivate) -> None:
    """By the definition, in plain numpy: h of each view, s, its reconstruction, and the nearest codeword of the rest."""
    rows = two_views(200, seed=3)[0]
    codes = fitted.encode(rows)
    unit = []
    for at in range(2):
        projected = rows[:, at * WIDTH : (at + 1) * WIDTH].astype(np.float64) @ fitted.projections_[at]
        unit.append(projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-30))
    total = unit[0] + unit[1]
    shared = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
    assert (fitted.shared_.encode(shared) == codes[:, :2]).all(axis=1).mean() > 0.99
    agreed = fitted.shared_.decode(codes[:, :2])
    for at in range(2):
        has = codes[:, 2 + at] < 8
        distance = np.linalg.norm((unit[at] - agreed)[has][:, None] - fitted.private_[at], axis=2)
        assert (distance.argmin(axis=1) == codes[has, 2 + at]).mean() > 0.99


@pytest.mark.parametrize("seed", range(2))
def test_shared_codes_tell_the_shared_factor_and_private_codes_that_of_their_view(seed: int) -> None:
    rows, shared, own = two_views(seed=seed, absent=0.0)
    codes = made(sizes=(8,), private_sizes=(32, 32), epochs=20).fit(rows).encode(rows)
    assert purity(codes[:, 0], shared) > 0.6
    for view in (0, 1):
        known = [purity(codes[:, 1 + view][shared == value], own[shared == value, view]) for value in range(8)]
        other = [purity(codes[:, 1 + view][shared == value], own[shared == value, 1 - view]) for value in range(8)]
        assert np.mean(known) > np.mean(other) + 0.3


def purity(codes: np.ndarray, factor: np.ndarray) -> float:
    """Share of items with the most frequent value of their code."""
    counts = np.zeros((codes.max() + 1, factor.max() + 1))
    np.add.at(counts, (codes, factor), 1)
    return float(counts.max(axis=1).sum() / len(codes))


def test_private_codes_lower_the_reconstruction_error() -> None:
    rows = two_views()[0]
    errors = []
    for private in (1, 8, 32):
        quantizer = made(sizes=(8, 8), private_sizes=(private, private)).fit(rows)
        errors.append(((quantizer.decode(quantizer.encode(rows)) - rows) ** 2).sum())
    assert errors[0] > 1.1 * errors[1] > 1.1**2 * errors[2]


def test_alignment_brings_the_views_of_an_item_together() -> None:
    rows = two_views(absent=0.0)[0]
    cosines = []
    for weight in (0.0, 1.0):
        quantizer = made(alignment=weight, uniformity=0.0, penalty=0.0, epochs=20).fit(rows)
        image, text = quantizer._unit(rows)
        cosines.append(float((image * text).sum(axis=1).mean() - (image * np.roll(text, 7, axis=0)).sum(axis=1).mean()))
    assert cosines[1] > cosines[0] + 0.3


def test_the_penalty_lowers_the_correlation_of_shared_and_private_parts() -> None:
    rows = two_views(absent=0.0)[0]
    found = []
    for weight in (0.0, 1.0):
        quantizer = made(alignment=1.0, penalty=weight, epochs=20).fit(rows)
        image, text = (torch.from_numpy(each) for each in quantizer._unit(rows))
        shared = torch.nn.functional.normalize(image + text, dim=1)
        found.append(sum(float(correlation_penalty(shared, each - shared)) for each in (image, text)))
    assert found[1] < 0.9 * found[0]


@law
@given(st.integers(0, 10**6))
def test_losses_are_those_of_their_formulas(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1).double() for _ in range(2)
    )
    a, b = left.numpy(), right.numpy()
    score = np.exp(a @ b.T / 0.5)
    both = -np.log(np.diag(score) / score.sum(axis=1)) - np.log(np.diag(score) / score.sum(axis=0))
    assert float(alignment_loss(left, right, 0.5)) == pytest.approx(both.mean() / 2)
    pairs = [np.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i in range(6) for j in range(i)]
    assert float(uniformity_loss(left)) == pytest.approx(np.log(np.mean(pairs)))
    correlation = np.corrcoef(a.T, b.T)[:4, 4:]
    assert float(correlation_penalty(left, right)) == pytest.approx((correlation**2).sum(), rel=1e-6)


def test_codes_come_as_named_groups_and_only_shared_codes_have_prefixes(fitted: SharedPrivate) -> None:
    expected = (
        CodeGroup("shared", 0, 2, True), CodeGroup("image", 2, 3, False), CodeGroup("text", 3, 4, False),
    )  # fmt: skip
    assert fitted.code_groups == expected and fitted.residual_levels == 2
    shape = ItemShape(10, fitted.sizes_, 16, fitted.residual_levels)
    part = PrefixNgramRepresentation.from_spec(shape, ModelSpec())
    assert [part._numbers(level) for level in range(4)] == [16, 256, 9, 9]


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_the_groups_of_every_quantizer_cover_its_levels_in_order(name: str) -> None:
    arguments = {"epochs": 1} if name in {"rq_vae", "parallel_aspects", "shared_private"} else {}
    rows = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    quantizer = QUANTIZERS[name](sizes=(8, 4), force=True, **arguments).fit(rows)  # type: ignore[call-arg]
    levels = [level for group in quantizer.code_groups for level in range(group.start, group.stop)]
    assert levels == list(range(len(quantizer.sizes_)))
    ordered = [group.stop for group in quantizer.code_groups if group.ordered]
    assert ordered == ([quantizer.residual_levels] if quantizer.residual_levels else [])


def test_statistics_of_prefixes_end_with_the_shared_codes() -> None:
    codes, time = np.zeros((100, 4), np.int32), TimeSettings()
    chosen = [chosen_stats(CodeStatsSpec(), codes, time, levels) for levels in (None, 2, 0)]
    assert [each.depths for each in chosen if each is not None] == [(1, 2, 3), (1, 2), (1,)]
    with pytest.raises(
        ConfigError, match="expected at most 2, the levels of the codebook that refine each other, got 3"
    ):
        chosen_stats(CodeStatsSpec(depths=(1, 3)), codes, time, 2)


def test_the_encoder_names_the_views_and_a_saved_codebook_keeps_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    views = {name: rng.normal(size=(300, width)).astype(np.float32) for name, width in (("text", 9), ("image", 7))}
    items = ItemVectors(views, {"image": rng.random(300) < 0.7, "text": np.ones(300, bool)})
    encoder = WhitenedViewsEncoder(view_dim=6).fit(items)
    assert encoder.views == {"image": (0, 6), "text": (6, 12)}
    vectors = encoder.encode(items)
    quantizer = SharedPrivate((8, 8), epochs=2, force=True)
    quantizer.name_views(encoder.views)
    book = Codebook("views", encoder, quantizer.fit(vectors))
    assert [group.name for group in book.code_groups] == ["shared", "image", "text"]
    folder = tmp_path / "views"
    book.save(folder)
    loaded = Codebook.load(folder)
    assert loaded.code_groups == book.code_groups
    np.testing.assert_array_equal(loaded.encode(items), book.encode(items))
    assert json.loads(json.dumps(quantizer.config()))["views"] == ["image", "text"]
    assert ContentEncoder(4).fit(items).views == {"content": (0, 4)}


def test_what_cannot_be_fitted_is_refused() -> None:
    rows = two_views(200)[0]
    for changes, said in (
        ({"views": ("a", "b", "c")}, "divide 16 columns"),
        ({"private_sizes": (8,)}, r"private_sizes of 2 views \(image, text\), got \[8\]"),
        ({"penalty": -1.0}, "penalty at least 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ):
        with pytest.raises(FitError, match=said):
            made(**changes).fit(rows)
    named = SharedPrivate((8,), force=True)
    named.name_views({"text": (0, 99)})
    with pytest.raises(FitError, match="expected vectors of the encoder that named the views"):
        named.fit(rows)


def test_the_remedies_of_the_refusals_work() -> None:
    rows = two_views(200)[0]
    for views in (("a", "b"), None):
        assert made(views=views, private_sizes=None, epochs=1).fit(rows).encode(rows).shape[1] == 2 + len(views or "1")
