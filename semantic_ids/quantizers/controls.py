"""Control quantizers: random and shuffled codes, as baselines that carry no semantic information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.item_vectors import Floats
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import (
    Codes,
    Quantizer,
    canonical_order,
    check_beam,
    check_sizes,
    checked_vectors,
    int_codes,
)
from semantic_ids.quantizers.nearest import residual_sum
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans

Hashes = npt.NDArray[np.uint64]

_STEP = 2**14  # rows hashed at once


class RandomCodes(Quantizer):
    """Uniform random codes, computed from a hash of the row and the seed.

    Equal rows get equal codes; different rows get independent codes, uniform on every level. The codewords are the means
    of the fitted rows with that code, level by level on the residuals; a reconstruction is hardly better than the global
    mean. The levels do not refine each other, but ``residual_levels`` equals that of residual k-means, so that models
    treat the control like real codes.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level.
    seed : int
        Seed of the hash.
    force : bool
        Fit even with fewer than 20 rows per code.
    """

    name = "random"

    def __init__(self, sizes: Sequence[int] = (256, 256, 256), seed: int = 0, force: bool = False) -> None:
        self.sizes = tuple(sizes)
        self.seed = seed
        self.force = force

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Initialise the hash and compute the mean of the rows of each code.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes.
        """
        rows = checked_vectors(vectors)
        check_sizes(self.sizes, len(rows), force=self.force)
        ordered = rows[canonical_order(rows)]
        self.multipliers_ = _multipliers(self.seed, len(self.sizes), rows.shape[1])
        codes = self.encode(ordered)
        residual = ordered.astype(np.float64)
        self.codebooks_: list[Floats] = []
        for level, size in enumerate(self.sizes):
            total = np.zeros((size, rows.shape[1]))
            np.add.at(total, codes[:, level], residual)
            count = np.bincount(codes[:, level], minlength=size)
            mean = total / np.maximum(count, 1)[:, None]
            if level == 0:
                mean[count == 0] = residual.mean(axis=0)
            self.codebooks_.append(mean.astype(np.float32))
            residual -= self.codebooks_[-1][codes[:, level]]
        return self

    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]`` by hash; ``beam`` has no effect."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.multipliers_.shape[1] - 1)
        hashes = [_hashes(rows, multipliers) for multipliers in self.multipliers_]
        sizes = np.array(self.sizes, dtype=np.uint64)
        return (np.stack(hashes, axis=1) % sizes).astype(np.int32)

    def decode(self, codes: Codes) -> Floats:
        """Sum over the levels of the mean residuals of each code, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes), self.codebooks_)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``force`` is runtime-only and not saved."""
        return {"sizes": list(self.sizes), "seed": self.seed}

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        books = {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}
        return {**books, "multipliers": self.multipliers_.view(np.int64)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.multipliers_ = tensors["multipliers"].astype(np.int64).view(np.uint64)
        self.codebooks_ = [tensors[f"codebook.{level}"].astype(np.float32) for level in range(len(self.sizes))]
        return self


class ShuffledCodes(Quantizer):
    """Residual k-means codes, permuted among the items: the same code distribution without semantic information.

    Each fitted row gets the codes of another fitted row, its donor, by a permutation determined by a hash of the rows and
    the seed; a new row gets the donor of the fitted row with the next hash. The control therefore has the same number,
    skew and hierarchy of codes as real ones. ``decode`` returns the codewords of residual k-means, which are unrelated to
    the row.

    Parameters
    ----------
    sizes, iterations, seed, threads, force, balance_last
        As for :class:`~semantic_ids.quantizers.residual_kmeans.ResidualKMeans`; ``seed`` also seeds the permutation.
    """

    name = "shuffled"

    def __init__(
        self,
        sizes: Sequence[int] = (256, 256, 256),
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
        balance_last: bool = False,
    ) -> None:
        self.sizes = tuple(sizes)
        self.seed = seed
        self._real = ResidualKMeans(sizes, iterations, seed, threads, force, balance_last)

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Fit residual k-means and permute its codes.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes.
        """
        rows = checked_vectors(vectors)
        self._real.fit(rows)
        self.multipliers_ = _multipliers(self.seed, 1, rows.shape[1])
        donors = self._real.encode(rows[canonical_order(rows)])
        self.donor_codes_: Codes = donors[np.random.default_rng(self.seed).permutation(len(donors))]
        self.hashes_: Hashes = np.sort(_hashes(rows, self.multipliers_[0]))
        return self

    def encode(self, vectors: Floats, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]`` of the donors; ``beam`` has no effect."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.multipliers_.shape[1] - 1)
        place = np.searchsorted(self.hashes_, _hashes(rows, self.multipliers_[0]))
        return self.donor_codes_[place % len(self.hashes_)]

    def decode(self, codes: Codes) -> Floats:
        """Reconstruction from the codes by residual k-means, ``float32 [items, dim]``."""
        return self._real.decode(codes)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``threads`` and ``force`` are runtime-only and not saved."""
        return self._real.config()

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays: residual k-means, the donors' codes and the sorted hashes."""
        return {
            **self._real.tensors(),
            "multipliers": self.multipliers_.view(np.int64),
            "hashes": self.hashes_.view(np.int64),
            "donor_codes": self.donor_codes_,
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self._real.load_tensors(tensors)
        self.multipliers_ = tensors["multipliers"].astype(np.int64).view(np.uint64)
        self.hashes_ = tensors["hashes"].astype(np.int64).view(np.uint64)
        self.donor_codes_ = tensors["donor_codes"].astype(np.int32)
        return self


def _multipliers(seed: int, hashes: int, dim: int) -> Hashes:
    """``uint64 [hashes, dim + 1]``; saved, because another numpy version may generate different numbers."""
    return np.random.default_rng(seed).integers(0, 2**64, (hashes, dim + 1), dtype=np.uint64)


def _hashes(rows: Floats, multipliers: Hashes) -> Hashes:
    """One hash per row, ``uint64 [rows]``: multiply-add over the bits of the values, then the finalizer of splitmix64."""
    mixed = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _STEP):
        bits = (rows[start : start + _STEP] + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0: -0 equals 0
        mixed[start : start + _STEP] = bits @ multipliers[1:] + multipliers[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
