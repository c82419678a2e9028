"""Piecewise linear encoding of the numeric features: how far a value has come within each quantile bin of its feature.

Equation 1 of Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning" (2022). A
network on scaled values alone draws smooth lines through them; trees cut them anywhere. Bins let it bend at quantiles.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.numeric_features import Scaling
from sidkit.core.arrays import Floats

SAMPLE_ROWS = 200_000
"""Quantiles are those of at most so many rows, evenly spread over all."""

Edges = tuple[tuple[float, ...], ...]
"""Of each feature, ascending and distinct; none for a feature that takes one value."""


def quantile_edges(chunks: Iterable[Floats], bins: int) -> Edges:
    """The edges of at most so many bins per feature, with equally many rows in each as far as equal values allow.

    Parameters
    ----------
    chunks : iterable of float32 [rows, features]
        Training rows, scaled; how they are cut makes no difference.
    bins : int
        1 or more. Quantiles that fall together make one edge, so a feature may have fewer.
    """
    found = np.quantile(_spread(chunks), np.linspace(0, 1, bins + 1), axis=0)
    distinct = [np.unique(column.astype(np.float32)) for column in found.T]
    return tuple(tuple(column.tolist()) if len(column) > 1 else () for column in distinct)


def binned(scaling: Scaling, chunks: Iterable[Floats], bins: int) -> Scaling:
    """A scaling with the edges of so many bins, from training rows ``float32 [rows, features]`` that are not scaled yet."""
    return dataclasses.replace(scaling, edges=quantile_edges(map(scaling.apply, chunks), bins))


def _spread(chunks: Iterable[Floats]) -> Floats:
    """Every first, second, fourth ... row, so that at most SAMPLE_ROWS are left."""
    kept: list[Floats] = []
    step, seen = 1, 0
    for chunk in chunks:
        kept.append(chunk[-seen % step :: step])
        seen += len(chunk)
        while sum(map(len, kept)) > SAMPLE_ROWS:
            kept, step = [np.concatenate(kept)[::2]], 2 * step
    return np.concatenate(kept)


class NumericBins(nn.Module):
    """From scaled features ``float32 [rows, features]`` to ``float32 [rows, dim]`` between 0 and 1.

    Parameters
    ----------
    edges : sequence of sequences of float
        Per feature, as :func:`quantile_edges` gives them.
    """

    feature: Tensor
    low: Tensor
    slope: Tensor

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        cells = [(at, *cell) for at, each in enumerate(edges) for cell in itertools.pairwise(each)]
        self.dim = len(cells)
        feature, low, high = zip(*cells, strict=True) if cells else ((), (), ())
        # They come from the ranker's config, so weights do not repeat them.
        self.register_buffer("feature", torch.tensor(feature, dtype=torch.int64), persistent=False)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
        width = torch.tensor(high, dtype=torch.float64) - torch.tensor(low, dtype=torch.float64)
        self.register_buffer("slope", (1 / width).float(), persistent=False)

    def forward(self, numeric: Tensor) -> Tensor:
        """The share of each bin that lies below the value."""
        values = numeric.index_select(1, self.feature)
        return ((values - self.low) * self.slope).clamp(0, 1)
