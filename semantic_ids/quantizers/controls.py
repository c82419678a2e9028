"""Controls: codes that carry no meaning, to be beaten by codes that do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, check_sizes, checked_vectors, int_codes
from semantic_ids.quantizers.nearest import residual_sum
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from sidkit.core.arrays import Codes, Floats, Hashes
from sidkit.core.hashing import splitmix64

_STEP = 2**14  # rows hashed at once


class RandomCodes(Quantizer):
    """Codes drawn from a hash of the row and the seed: they name the item and say nothing else about it.

    Equal rows get equal codes, other rows independent ones, uniform on every level. What a code stands for is the mean
    of the fitted rows that got it, level by level on what the levels before left: the best that can be said of a row
    from such a code, and hardly more than the mean of all. The levels do not refine each other; ``residual_levels`` is
    that of residual k-means all the same, so that a model treats the control as it treats the real codes.

    Parameters
    ----------
    sizes : sequence of int
        Codes per level.
    seed : int
        Decides the hash.
    force : bool
        Fit though there are under 20 rows per code.
    """

    name = "random"

    def __init__(self, sizes: Sequence[int] = (256, 256, 256), seed: int = 0, force: bool = False) -> None:
        self.sizes = tuple(sizes)
        self.seed = seed
        self.force = force

    def fit(self, vectors: Floats, pairs: ItemPairs | None = None) -> Self:
        """Draw the hash, and take the means of the rows that share a code.

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
        """Codes ``int32 [items, levels]`` by hash, whatever ``beam``."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.multipliers_.shape[1] - 1)
        hashes = [_hashes(rows, multipliers) for multipliers in self.multipliers_]
        sizes = np.array(self.sizes, dtype=np.uint64)
        return (np.stack(hashes, axis=1) % sizes).astype(np.int32)

    def decode(self, codes: Codes) -> Floats:
        """Sum over the levels of the means of the fitted rows that got the code, ``float32 [items, dim]``."""
        return residual_sum(int_codes(codes, self.sizes), self.codebooks_)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``force`` belongs to the moment."""
        return {"sizes": list(self.sizes), "seed": self.seed}

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""
        books = {f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)}
        return {**books, "multipliers": self.multipliers_.view(np.int64)}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
        self.multipliers_ = tensors["multipliers"].astype(np.int64).view(np.uint64)
        self.codebooks_ = [tensors[f"codebook.{level}"].astype(np.float32) for level in range(len(self.sizes))]
        return self


class ShuffledCodes(Quantizer):
    """Residual k-means whose codes are dealt out anew among the items: the same codes, equally often, without meaning.

    Each fitted row gets the code of one other fitted row, its donor, by a permutation that a hash of the rows and the
    seed decide; a new row gets the donor of the fitted row whose hash comes next. So whatever codes gain by their
    number, skew and hierarchy alone, these gain too. What a code stands for is what it stood for before the shuffle: the
    codewords of residual k-means, so the distance from a row to it means nothing.

    Parameters
    ----------
    sizes, iterations, seed, threads, force, balance_last
        As for :class:`~semantic_ids.quantizers.residual_kmeans.ResidualKMeans`; ``seed`` decides the shuffle too.
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
        """Fit residual k-means, and deal its codes out anew.

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
        """Codes ``int32 [items, levels]`` of the donors, whatever ``beam``."""
        check_beam(beam)
        rows = checked_vectors(vectors, self.multipliers_.shape[1] - 1)
        place = np.searchsorted(self.hashes_, _hashes(rows, self.multipliers_[0]))
        return self.donor_codes_[place % len(self.hashes_)]

    def decode(self, codes: Codes) -> Floats:
        """What the codes stood for before the shuffle, ``float32 [items, dim]``."""
        return self._real.decode(codes)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; ``threads`` and ``force`` belong to the machine and the moment."""
        return self._real.config()

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state: residual k-means, the donors' codes and the hashes they belong to."""
        return {
            **self._real.tensors(),
            "multipliers": self.multipliers_.view(np.int64),
            "hashes": self.hashes_.view(np.int64),
            "donor_codes": self.donor_codes_,
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
        self._real.load_tensors(tensors)
        self.multipliers_ = tensors["multipliers"].astype(np.int64).view(np.uint64)
        self.hashes_ = tensors["hashes"].astype(np.int64).view(np.uint64)
        self.donor_codes_ = tensors["donor_codes"].astype(np.int32)
        return self


def _multipliers(seed: int, hashes: int, dim: int) -> Hashes:
    """``uint64 [hashes, dim + 1]``; saved with the state, so that no other version of numpy can change a code."""
    return np.random.default_rng(seed).integers(0, 2**64, (hashes, dim + 1), dtype=np.uint64)


def _hashes(rows: Floats, multipliers: Hashes) -> Hashes:
    """One hash per row, ``uint64 [rows]``: multiply-add over the bits of the values, then the finalizer of splitmix64."""
    mixed = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _STEP):
        bits = (rows[start : start + _STEP] + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0: -0 equals 0
        mixed[start : start + _STEP] = bits @ multipliers[1:] + multipliers[0]
    return splitmix64(mixed)
