"""Codes decode into the encoder's space for every quantizer, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.codebook import Codebook
from semantic_ids.encoders import ContentEncoder
from semantic_ids.quantizers import QUANTIZERS

ARGUMENTS = {
    "residual_kmeans": {"sizes": (8, 4)},
    "pq": {"sizes": (8, 4)},
    "opq": {"sizes": (8, 4)},
    "rq_opq": {"sizes": (8, 4), "opq_sizes": (4, 4)},
    "rq_vae": {"sizes": (8, 4), "epochs": 2},
    "psrq": {"sizes": (8, 4)},
    "rk_fsq": {"sizes": (8, 4)},
    "parallel_aspects": {"sizes": (8, 4), "epochs": 2},
    "shared_private": {"sizes": (8, 4), "private_sizes": (4, 4), "views": ("image", "text"), "epochs": 2},
}
law = settings(max_examples=20, deadline=None, database=None)


def made(name: str) -> Codebook:
    rows = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    encoder = ContentEncoder(dim=6).fit(rows)
    return Codebook(name, encoder, QUANTIZERS[name](**ARGUMENTS[name]).fit(encoder.transform(rows)))


CODEBOOKS = {name: made(name) for name in QUANTIZERS}


def test_every_quantizer_is_tested() -> None:
    assert set(ARGUMENTS) == set(QUANTIZERS)


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
@law
@given(seed=st.integers(0, 1000), rows=st.integers(0, 30))
def test_a_row_depends_on_its_own_codes_and_is_zero_without_any(name: str, seed: int, rows: int) -> None:
    codebook, rng = CODEBOOKS[name], np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, rows) for size in codebook.sizes], axis=1).astype(np.int32)
    codes[rng.random(rows) < 0.3] = -1
    decoded = codebook.decode(codes)
    assert decoded.shape == (rows, codebook.encoder.output_dim) and decoded.dtype == np.float32
    for own, vector in zip(codes, decoded, strict=True):
        expected = codebook.quantizer.decode(own[None])[0] if own.min() >= 0 else np.zeros(6, np.float32)
        np.testing.assert_array_equal(vector, expected)


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_decoded_codes_are_closer_to_the_vectors_than_their_mean(name: str) -> None:
    codebook = CODEBOOKS[name]
    vectors = codebook.vectors(np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32))
    error = ((codebook.decode(codebook.codes_of(vectors)) - vectors) ** 2).sum()
    assert error < ((vectors - vectors.mean(axis=0)) ** 2).sum()
