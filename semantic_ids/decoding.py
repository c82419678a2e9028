"""Vectors of codes: what a quantizer decodes, checked, with zeros for items without codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError, SidkitError

if TYPE_CHECKING:
    from semantic_ids.quantizers.base import Quantizer

_CHUNK = 65_536


def decoded_vectors(quantizer: Quantizer, codes: Codes, dim: int) -> Floats:
    """Decode codes into the encoder's space.

    Parameters
    ----------
    quantizer : Quantizer
        Fitted.
    codes : int32 [items, levels]
        -1 for items without codes.
    dim : int
        Width of the encoder's vectors.

    Returns
    -------
    numpy.ndarray
        ``float32 [items, dim]``; zeros for an item without codes, as an encoder gives for an item without content. A row
        depends on its own codes only.

    Raises
    ------
    FitError
        When the quantizer cannot decode, or returns anything else than finite vectors of this width.
    """
    vectors = np.zeros((len(codes), dim), dtype=np.float32)
    coded = np.flatnonzero((codes >= 0).all(axis=1))
    for start in range(0, len(coded), _CHUNK):
        rows = coded[start : start + _CHUNK]
        vectors[rows] = _decoded(quantizer, codes[rows], dim)
    return vectors


def _decoded(quantizer: Quantizer, codes: Codes, dim: int) -> Floats:
    name, remedy = type(quantizer).__name__, 'use another quantizer, or content vectors (vectors = "content")'
    try:
        vectors = np.asarray(quantizer.decode(codes), dtype=np.float32)
    except SidkitError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise FitError(
            f"the quantizer {name} cannot decode codes into vectors ({type(error).__name__}: {error}); {remedy}"
        ) from error
    if vectors.shape != (len(codes), dim):
        raise FitError(
            f"expected {name}.decode to return vectors of shape ({len(codes)}, {dim}), the encoder's width, got "
            f"{vectors.shape}; {remedy}"
        )
    if not np.isfinite(vectors).all():
        raise FitError(f"expected {name}.decode to return finite vectors, got NaN or infinite values; {remedy}")
    return vectors
