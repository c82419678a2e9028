"""How good codes are, without training a ranker; the definitions of papers are given where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.item_vectors import Floats
from semantic_ids.quantizers.base import Codes, Quantizer


def utilisation(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: used codes / codes (CUR of a single level)."""
    return [len(np.unique(codes[:, level])) / size for level, size in enumerate(sizes)]


def perplexity(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: exp(entropy of the code shares) / codes; 1 when all codes are equally used."""
    shares = []
    for level, size in enumerate(sizes):
        counts = np.bincount(codes[:, level], minlength=size)
        share = counts[counts > 0] / len(codes)
        shares.append(float(np.exp(-(share * np.log(share)).sum()) / size))
    return shares


def collision_rate(codes: Codes) -> float:
    """1 - distinct full codes / items."""
    return 1 - len(np.unique(codes, axis=0)) / len(codes) if len(codes) else 0.0


def reconstruction_error(vectors: Floats, decoded: Floats) -> float:
    """sum |x - x_hat|^2 / sum |x - mean|^2."""
    spread = float(((vectors - vectors.mean(axis=0)).astype(np.float64) ** 2).sum())
    return float(((vectors - decoded).astype(np.float64) ** 2).sum()) / max(spread, 1e-30)


def code_quality(quantizer: Quantizer, vectors: Floats, codes: Codes) -> dict[str, Any]:
    """The figures that a codebook's ``metrics.json`` holds, on the items of its fit.

    Parameters
    ----------
    quantizer : Quantizer
        Fitted.
    vectors : float32 [items, dim]
        What was quantized.
    codes : int32 [items, levels]
        Their codes.
    """
    return {
        "items": len(codes),
        "utilisation": utilisation(codes, quantizer.sizes),
        "perplexity": perplexity(codes, quantizer.sizes),
        "collision_rate": collision_rate(codes),
        "largest_bucket": int(_bucket_counts(codes).max()) if len(codes) else 0,
        "reconstruction_error": reconstruction_error(vectors, quantizer.decode(codes)),
    }


def _bucket_counts(codes: Codes) -> npt.NDArray[np.int64]:
    return np.unique(codes, axis=0, return_counts=True)[1]
