"""Vectors of wild sizes that the contract accepts: nothing that is made of them is NaN or infinite."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import unit_vectors
from semantic_ids.quantizers import QUANTIZERS

ORDINARY = np.random.default_rng(0).normal(size=(120, 8)).astype("float32")
LARGEST = np.float32(9.9e14)
"""Just below what the contract accepts."""
WILD = {
    "one huge": np.vstack([ORDINARY, np.full((1, 8), LARGEST)]),
    "all huge": (ORDINARY / np.abs(ORDINARY).max() * LARGEST).astype("float32"),
    "tiny": (ORDINARY * 1e-28).astype("float32"),
    "beyond squares": (ORDINARY * np.float32(1e-42)).astype("float32"),
    "all zero": np.zeros_like(ORDINARY),
    "all alike": np.full_like(ORDINARY, LARGEST),
    "ordinary": ORDINARY,
}


def items(matrix: npt.NDArray[np.float32]) -> ItemVectors:
    return ItemVectors({"text": matrix}, {"text": np.ones(len(matrix), dtype=bool)})


@pytest.mark.parametrize("name", WILD)
def test_vectors_codes_and_what_they_stand_for_are_finite(name: str) -> None:
    encoder = ContentEncoder(dim=4).fit(items(WILD[name]))
    later = items(np.array([[LARGEST] * 8, [-LARGEST] * 8, [0] * 8, [1e-30] * 8], dtype="float32"))
    known, arriving = encoder.encode(items(WILD[name])), encoder.encode(later)
    assert np.isfinite(known).all()
    assert np.isfinite(arriving).all()
    assert np.isfinite(arriving @ arriving.T).all()  # matches of the ranker, distances of the quantizer
    assert np.isfinite(unit_vectors(WILD[name], len(WILD[name]))).all()


@pytest.mark.parametrize("kind", ["residual_kmeans", "pq", "opq", "rq_opq"])
@pytest.mark.parametrize("name", ["one huge", "ordinary"])
def test_quantizers_take_vectors_far_out(kind: str, name: str) -> None:
    encoder = ContentEncoder(dim=4).fit(items(WILD[name]))
    known = encoder.encode(items(WILD[name]))
    quantizer = QUANTIZERS[kind](sizes=(4, 4)) if kind != "rq_opq" else QUANTIZERS[kind](sizes=(4, 4, 4))
    quantizer.fit(known)
    arriving = encoder.encode(items(np.full((2, 8), LARGEST)))
    for vectors in (known, arriving):
        codes = quantizer.encode(vectors)
        assert codes.min() >= 0
        assert codes.max() < 4
        assert np.isfinite(quantizer.decode(codes)).all()


def test_ordinary_vectors_are_encoded_as_before() -> None:
    encoder = ContentEncoder(dim=8).fit(items(ORDINARY))
    standardised = (ORDINARY - encoder.mean_["text"]) * np.float32(encoder.scale_["text"])
    np.testing.assert_allclose(
        encoder.encode(items(ORDINARY)), (standardised - encoder.centre_) @ encoder.axes_, atol=1e-5
    )
