"""A custom quantizer and a custom item representation in one file, used by ``quantile_codes.toml``.

    sidkit run --data examples/toy_world.py:ToyWorld --repo work/toy --preset examples/quantile_codes.toml

Run from the repository root. The resulting codebook and ranker contain a copy of this file and its SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.spec import ModelSpec
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, check_beam, checked_vectors, int_codes
from sidkit.core.arrays import Codes


class QuantileCodes(Quantizer):
    """Code level ``l`` is the quantile bin of column ``l``; with the encoder ``content``, columns are principal components.

    Parameters
    ----------
    sizes : sequence of int, optional
        Number of bins of each leading column; at most one entry per column of the vectors. Default: three equal numbers,
        chosen at ``fit`` from the number of rows.
    force : bool
        Fit even with fewer than 20 rows per bin.
    """

    def __init__(self, sizes: Sequence[int] | None = None, force: bool = False) -> None:
        self.sizes = sizes
        self.force = force

    @property
    def residual_levels(self) -> int:
        """0, since no level refines another."""
        return 0

    def fit(self, vectors: np.ndarray, pairs: ItemPairs | None = None) -> Self:
        """Fit the bin edges and the mean of each bin."""
        rows = checked_vectors(vectors)
        self.sizes_ = self.sizes_for(rows)
        self.edges_ = [
            np.quantile(rows[:, level], np.arange(1, size) / size).astype(np.float32)
            for level, size in enumerate(self.sizes_)
        ]
        self.mean_ = np.sort(rows, axis=0).mean(axis=0, dtype=np.float64).astype(np.float32)
        codes = self.encode(rows)
        self.centres_ = []
        for level, size in enumerate(self.sizes_):
            ordered = np.sort(rows[:, level])  # sums do not depend on the row order
            total = np.bincount(np.searchsorted(self.edges_[level], ordered, side="right"), ordered, size)
            self.centres_.append(
                (total / np.maximum(np.bincount(codes[:, level], minlength=size), 1)).astype(np.float32)
            )
        return self

    def encode(self, vectors: np.ndarray, beam: int = 1) -> Codes:
        """Return codes ``int32 [items, levels]``; ``beam`` has no effect."""
        check_beam(beam)
        rows = checked_vectors(vectors, len(self.mean_))
        columns = [np.searchsorted(edges, rows[:, level], side="right") for level, edges in enumerate(self.edges_)]
        return np.stack(columns, axis=1).astype(np.int32)

    def decode(self, codes: Codes) -> np.ndarray:
        """Return vectors ``float32 [items, dim]``: bin means, and the column mean for columns without a code."""
        checked = int_codes(codes, self.sizes_)
        rows = np.tile(self.mean_, (len(checked), 1))
        for level, centres in enumerate(self.centres_):
            rows[:, level] = centres[checked[:, level]]
        return rows

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the fitted state."""
        lists = {"edges": self.edges_, "centres": self.centres_}
        return {"mean": self.mean_} | {
            f"{key}.{level}": values for key, levels in lists.items() for level, values in enumerate(levels)
        }

    def load_tensors(self, tensors: dict[str, np.ndarray]) -> Self:
        """Restore a fitted state."""
        self.mean_ = tensors["mean"]
        levels = sum(key.startswith("centres.") for key in tensors)
        self.edges_ = [tensors[f"edges.{level}"] for level in range(levels)]
        self.centres_ = [tensors[f"centres.{level}"] for level in range(levels)]
        self.sizes_ = tuple(len(centres) for centres in self.centres_)
        return self


class OrdinalCodes(Representation):
    """Codes as numbers: the bin of each level, scaled to [-1, 1], through one linear layer.

    Set ``ordinal_bias = false`` in ``[ranker.model.options]`` to disable the bias.
    """

    def __init__(self, sizes: Sequence[int], dim: int, bias: bool = True) -> None:
        super().__init__(dim)
        self.register_buffer("middle", (torch.tensor(sizes, dtype=torch.float32) - 1) / 2)
        self.project = nn.Linear(len(sizes), dim, bias=bias)

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """Create from a model specification; see :class:`Representation`."""
        return cls(shape.sizes, spec.dim, spec.options.get("ordinal_bias", True))

    def forward(self, items: ItemBatch) -> Tensor:
        """Return vectors ``float32 [items, dim]``; items without codes (-1) are at the middle of every level."""
        scaled = torch.where(items.codes >= 0, items.codes / self.middle - 1, 0.0)
        return self.project(scaled)
