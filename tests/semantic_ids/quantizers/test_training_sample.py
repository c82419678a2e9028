"""The sample of a large catalogue that k-means learns from, with small limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semantic_ids import OptimizedProductQuantizer, ProductQuantizer, ResidualKMeans, ResidualOPQ
from semantic_ids.quantizers import training_sample as module
from semantic_ids.quantizers.base import Quantizer, canonical_order
from semantic_ids.quantizers.training_sample import streamed_sample, training_sample
from sidkit.core.errors import FitError


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


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 1500), st.lists(st.integers(0, 500), min_size=1, max_size=6), st.integers(0, 5), st.booleans())
def test_blocks_of_any_sizes_in_any_order_give_the_same_sample(
    count: int, sizes: list[int], seed: int, repeated: bool
) -> None:
    rows = rows_of(count)
    if repeated:
        rows = rows[np.random.default_rng(1).integers(0, max(1, count // 20), count)]
    expected = rows[training_sample(rows, (7,), seed)]
    shuffled = rows[np.random.default_rng(seed).permutation(count)]
    sample = streamed_sample(blocks_of(shuffled, [*sizes, 97]), (7,), seed)
    np.testing.assert_array_equal(sample.vectors, expected)
    assert sample.rows == count
    assert sample.distinct == min(1024, len(np.unique(rows, axis=0)))


def blocks_of(rows: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """The rows in blocks of these sizes, again and again, in one array that is filled anew."""
    at = number = 0
    buffer = np.empty((max(sizes), rows.shape[1]), np.float32)
    while at < len(rows):
        size = sizes[number % len(sizes)]
        part = rows[at : at + size]
        buffer[: len(part)] = part
        yield buffer[: len(part)]
        buffer[:] = np.nan
        at, number = at + size, number + 1


@pytest.mark.parametrize("sizes", [None, (6, 5)])
@pytest.mark.parametrize("last_level", ["global", "balanced"])
def test_codebooks_of_blocks_are_those_of_the_whole(
    sizes: tuple[int, ...] | None, last_level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 1290)  # 40 rows for each code of a default size, as 2**18 are
    rows = rows_of(1400)
    whole = ResidualKMeans(sizes=sizes, last_level=last_level, force=True).fit(rows)  # type: ignore[arg-type]
    blocks = ResidualKMeans(sizes=sizes, last_level=last_level, force=True)  # type: ignore[arg-type]
    blocks.fit_blocks(blocks_of(rows[::-1], [140, 1, 300]))
    assert blocks.sizes_ == whole.sizes_
    for one, other in zip(whole.codebooks_, blocks.codebooks_, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_of_a_stream_is_bounded_by_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = []
    whole = module._lowest

    def noted(vectors: np.ndarray, most: int, seed: int) -> np.ndarray:
        joined.append(len(vectors))
        return whole(vectors, most, seed)

    monkeypatch.setattr(module, "_lowest", noted)
    ResidualKMeans(sizes=(7,)).fit_blocks(rows_of(250, seed) for seed in range(40))
    assert len(joined) >= 20
    assert max(joined) <= 2 * 300 + 250, "10,000 rows came, and twice the sample and a block were held"


def test_streams_that_cannot_be_learned_from_are_refused() -> None:
    with pytest.raises(FitError, match="expected vectors to learn codes from, got no rows; pass at least one block"):
        ResidualKMeans(sizes=(7,)).fit_blocks([])
    with pytest.raises(FitError, match="expected blocks of one width, got 8 and 5 columns"):
        ResidualKMeans(sizes=(7,)).fit_blocks([rows_of(30), rows_of(30)[:, :5]])
    with pytest.raises(FitError, match="1 of 30 vectors contain NaN"):
        ResidualKMeans(sizes=(7,)).fit_blocks([np.where(np.arange(30)[:, None] == 3, np.nan, rows_of(30))])
    with pytest.raises(
        FitError, match="expected last_level = 'global' or 'balanced' to learn from blocks, got 'local'"
    ):
        ResidualKMeans(sizes=(7, 7), last_level="local").fit_blocks([rows_of(300)])
    with pytest.raises(FitError, match="30 rows for 7 codes is 4.3 per code"):
        ResidualKMeans(sizes=(7,)).fit_blocks([rows_of(30)])
