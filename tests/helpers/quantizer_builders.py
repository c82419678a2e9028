"""Rows to quantize, and how far off their codes are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semantic_ids.quantizers import Quantizer
from sidkit.core.arrays import Floats

DIM = 12


def clustered(rows: int = 900, dim: int = DIM, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(99).normal(size=(30, dim))
    return (centres[rng.integers(0, 30, rows)] + rng.normal(size=(rows, dim))).astype(np.float32)


def squared_error(quantizer: Quantizer, rows: Floats, beam: int = 1) -> npt.NDArray[np.float64]:
    """Per row."""
    return ((rows - quantizer.decode(quantizer.encode(rows, beam=beam))).astype(float) ** 2).sum(axis=1)
