"""Piecewise linear encoding of numeric features over quantile bins.

Equation 1 of Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning" (2022): for a
bin from ``low`` to ``high``, ``clamp((x - low) / (high - low), 0, 1)``. It lets a network fit functions that change
direction at quantiles, as trees can.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import Floats

EXTRA_BINS = 8
"""Bins of a number of the user's own, whose scale and shape are unknown."""
SAMPLE_ROWS = 200_000
"""Maximum number of rows, evenly spaced, that quantiles are computed from."""

Edges = tuple[tuple[float, ...], ...]
"""Bin edges per feature, ascending and distinct; empty for a constant feature."""


def quantile_edges(chunks: Iterable[Floats], bins: int | Sequence[int]) -> Edges:
    """Quantile bin edges of each feature.

    Parameters
    ----------
    chunks : iterable of float32 [rows, features]
        Scaled training rows; the result does not depend on the chunk size.
    bins : int or sequence of int
        Maximum bins of every feature, or of each one (0: none). Equal quantiles are merged, so a feature may have fewer.
    """
    sampled = _evenly_sampled(chunks)
    counts = [bins] * sampled.shape[1] if isinstance(bins, int) else bins
    distinct = [
        np.unique(np.quantile(column, np.linspace(0, 1, count + 1)).astype(np.float32)) if count else np.zeros(0)
        for column, count in zip(sampled.T, counts, strict=True)
    ]
    return tuple(tuple(column.tolist()) if len(column) > 1 else () for column in distinct)


def bins_of(schema: FeatureSchema, bins: int) -> list[int]:
    """Bins of each feature: ``bins`` of the built-in ones, at least :data:`EXTRA_BINS` of further numbers, none of flags."""
    built_in, named = len(feature_names()), feature_names(schema)
    extra = len(schema.numbers)
    return [bins] * built_in + [max(bins, EXTRA_BINS)] * extra + [0] * (len(named) - built_in - extra)


def binned(scaling: Scaling, chunks: Iterable[Floats], bins: int | Sequence[int]) -> Scaling:
    """Add bin edges to a scaling, computed from unscaled training rows ``float32 [rows, features]``."""
    return dataclasses.replace(scaling, edges=quantile_edges(map(scaling.apply, chunks), bins))


def _evenly_sampled(chunks: Iterable[Floats]) -> Floats:
    """Every n-th row, where n is the smallest power of two that leaves at most SAMPLE_ROWS rows."""
    sampled: list[Floats] = []
    step, seen = 1, 0
    for chunk in chunks:
        sampled.append(chunk[-seen % step :: step])
        seen += len(chunk)
        while sum(map(len, sampled)) > SAMPLE_ROWS:
            sampled, step = [np.concatenate(sampled)[::2]], 2 * step
    return np.concatenate(sampled)


class NumericBins(nn.Module):
    """Map scaled features ``float32 [rows, features]`` to ``float32 [rows, dim]`` in [0, 1], one column per bin.

    Parameters
    ----------
    edges : sequence of sequences of float
        Bin edges per feature, from :func:`quantile_edges`.
    """

    feature: Tensor
    low: Tensor
    slope: Tensor

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        cells = [(at, *cell) for at, each in enumerate(edges) for cell in itertools.pairwise(each)]
        self.dim = len(cells)
        feature, low, high = zip(*cells, strict=True) if cells else ((), (), ())
        # The edges are saved in the ranker's config, so the buffers are not persistent.
        self.register_buffer("feature", torch.tensor(feature, dtype=torch.int64), persistent=False)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
        width = torch.tensor(high, dtype=torch.float64) - torch.tensor(low, dtype=torch.float64)
        self.register_buffer("slope", (1 / width).float(), persistent=False)

    def forward(self, numeric: Tensor) -> Tensor:
        """``clamp((x - low) / (high - low), 0, 1)`` for each bin."""
        values = numeric.index_select(1, self.feature)
        return ((values - self.low) * self.slope).clamp(0, 1)
