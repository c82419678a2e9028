"""The sample of a large catalogue that k-means learns from, with small limits."""

from __future__ import annotations

import numpy as np
import pytest

from semantic_ids import OptimizedProductQuantizer, ProductQuantizer, ResidualKMeans, ResidualOPQ
from semantic_ids.quantizers import training_sample as module
from semantic_ids.quantizers.base import Quantizer, canonical_order
from semantic_ids.quantizers.training_sample import training_sample


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 300)


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows: np.ndarray = (rng.normal(size=(20, 8))[rng.integers(0, 20, count)] * 4 + rng.normal(size=(count, 8))).astype(
        "float32"
    )
    return rows


def test_a_small_catalogue_is_used_whole_and_in_canonical_order() -> None:
    rows = rows_of(300)
    assert training_sample(rows, (7, 7), 0).tolist() == canonical_order(rows).tolist()


@pytest.mark.parametrize(("sizes", "sampled"), [((7, 5), 300), ((5, 10), 400)])
def test_a_sample_has_distinct_rows_and_enough_per_code(sizes: tuple[int, ...], sampled: int) -> None:
    sample = training_sample(rows_of(900), sizes, 0)
    assert len(sample) == len(set(sample.tolist())) == sampled


@pytest.mark.parametrize("seed", range(5))
def test_the_sample_does_not_depend_on_the_input_order(seed: int) -> None:
    rows = np.concatenate([rows_of(500), np.repeat(rows_of(10, 1), 20, axis=0)])  # many equal rows
    shuffled = rows[np.random.default_rng(seed).permutation(len(rows))]
    np.testing.assert_array_equal(
        rows[training_sample(rows, (7,), seed)], shuffled[training_sample(shuffled, (7,), seed)]
    )


def test_every_row_is_sampled_equally_often() -> None:
    rows = rows_of(900)
    drawn = np.zeros(len(rows))
    for seed in range(400):
        drawn[training_sample(rows, (7,), seed)] += 1
    # Binomial(400, 1/3): the standard deviation is 9.4, so 5.5 of them bound 900 rows.
    assert abs(drawn - 400 / 3).max() < 5.5 * 9.43


@pytest.mark.parametrize("kind", [ResidualKMeans, ResidualOPQ, ProductQuantizer, OptimizedProductQuantizer])
def test_a_fit_on_the_sample_is_the_fit_of_the_catalogue(
    kind: type[Quantizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(900)
    sizes = (6, 6)
    fitted = kind(sizes=sizes, force=True).fit(rows)
    sample = rows[training_sample(rows, sizes, 0)]
    monkeypatch.setattr(module, "SAMPLE_ROWS", 10_000)
    again = kind(sizes=sizes, force=True).fit(sample)
    np.testing.assert_array_equal(fitted.encode(rows), again.encode(rows))


def test_a_local_level_uses_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(900)
    limited = ResidualKMeans(sizes=(8, 4), last_level="local", force=True).fit_transform(rows)
    monkeypatch.setattr(module, "SAMPLE_ROWS", 10_000)
    whole = ResidualKMeans(sizes=(8, 4), last_level="local", force=True).fit_transform(rows)
    np.testing.assert_array_equal(limited, whole)
