"""The beam finds what a search in double precision finds, cell by cell, also where distances are equal or nearly so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.quantizers.nearest import residual_codes
from sidkit.core.arrays import Codes, Floats

law = settings(max_examples=40, deadline=None, database=None)


def beam_by_definition(row: Floats, codebooks: Sequence[Floats], beam: int) -> list[int]:
    """All continuations of the kept paths, sorted by their squared distance as float32; the sort keeps the order of ties."""
    paths: list[tuple[list[int], Floats]] = [([], row)]
    for level, codebook in enumerate(codebooks):
        words = codebook.astype(np.float64)
        continued = []
        for codes, residual in paths:
            difference = residual.astype(np.float64) - words
            with np.errstate(over="ignore"):
                distance = np.einsum("kd,kd->k", difference, difference).astype(np.float32)
            continued += [(distance[code], [*codes, code], residual - codebook[code]) for code in range(len(codebook))]
        continued.sort(key=lambda each: each[0])
        width = beam if level + 1 < len(codebooks) else 1
        paths = [(codes, residual) for _, codes, residual in continued[:width]]
    return paths[0][0]


def expected(rows: Floats, codebooks: Sequence[Floats], beam: int) -> Codes:
    return np.array([beam_by_definition(row, codebooks, beam) for row in rows], np.int32).reshape(
        len(rows), len(codebooks)
    )


@law
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=3),
    beam=st.integers(2, 24),
    grid=st.sampled_from([0.0, 0.5, 2.0**-12]),
    scale=st.sampled_from([1.0, 1e-18, 1e-4, 1e6, 1e18, 1.2e19]),
)
def test_a_beam_is_a_search_in_double_precision(
    seed: int, sizes: list[int], beam: int, grid: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Floats:
        values = rng.standard_normal((count, 3))
        rounded = values if grid == 0.0 else np.round(values / grid) * grid  # a coarse grid has many ties
        return (scale * rounded).astype(np.float32)

    rows, codebooks = draw(8), [draw(size) for size in sizes]
    rows[:2] = codebooks[0][:2]
    np.testing.assert_array_equal(residual_codes(rows, codebooks, beam), expected(rows, codebooks, beam))


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_rows_far_from_all_codes_get_the_same_codes(far: float) -> None:
    """Far rows have large distances whose differences are lost in single precision."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((60, 8)) + far).astype(np.float32)
    codebooks = [rng.standard_normal((16, 8)).astype(np.float32) for _ in range(3)]
    np.testing.assert_array_equal(residual_codes(rows, codebooks, 4), expected(rows, codebooks, 4))


@pytest.mark.parametrize("codes", [17, 33, 255])
def test_a_row_near_equal_codewords_gets_the_first_whatever_its_batch(codes: int) -> None:
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((codes, 64)).astype(np.float32)
    codebook[-1] = codebook[0]
    rows = (codebook[0] + 1e-6 * rng.standard_normal((70, 64))).astype(np.float32)
    for count in (1, 2, 3, 5, 7, 70):
        found = np.concatenate(
            [residual_codes(rows[start : start + count], [codebook], 4) for start in range(0, 70, count)]
        )
        np.testing.assert_array_equal(found[:, 0], 0)


def test_most_rows_are_decided_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    from semantic_ids.quantizers import nearest

    decided = 0
    exact = nearest.NearestPaths._decided

    def counted(paths: nearest.NearestPaths, residuals: Floats, *rest: Any) -> Any:
        nonlocal decided
        decided += len(residuals)
        return exact(paths, residuals, *rest)

    monkeypatch.setattr(nearest.NearestPaths, "_decided", counted)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 32)).astype(np.float32)
    codebooks = [(scale * rng.standard_normal((256, 32))).astype(np.float32) for scale in (1, 0.5, 0.25)]
    nearest.residual_codes(rows, codebooks, 4)
    assert 0 < decided < 0.1 * 500 * 3, "rows of three levels"
