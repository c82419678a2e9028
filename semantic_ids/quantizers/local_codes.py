"""Local codebooks: every parent, such as a prefix of codes, has its own few codewords for the residuals of its members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Codes, Doubles, Floats, Ints

_ELEMENTS = 2**22  # elements of differences held in double at once: 32 MB


@dataclass(frozen=True, eq=False)
class LocalCodes:
    """Codewords per parent, of those parents that had members at the fit.

    A code is ``place of the parent * size + local code``, so that two parents never share a codeword. A parent with at most
    ``size`` members has each member as a codeword, and the mean of its members behind them if there is room. One more code,
    after those of all parents, stands for the zero vector: the code of rows whose parent had no members, since the residuals
    of a parent's members have mean zero (nearly, after a search for the nearest code).

    Parameters
    ----------
    parents : int64 [parents, levels]
        Codes that make a parent, sorted.
    codewords : float32 [codewords, dim]
        Of all parents, in order.
    starts : int64 [parents + 1]
        First codeword of each parent.
    size : int
        Most codewords per parent.
    """

    parents: Ints
    codewords: Floats
    starts: Ints
    size: int

    @classmethod
    def fit(cls, parents: Codes, residuals: Floats, size: int, cluster: Callable[[Floats], Floats]) -> Self:
        """Cluster the residuals of each parent's members.

        Parameters
        ----------
        parents : int32 [rows, levels]
            The parent of each row.
        residuals : float32 [rows, dim]
            In canonical order, on which ties depend.
        size : int
            Most codewords per parent.
        cluster : callable
            From the residuals of more than ``size`` members to ``size`` centroids.
        """
        distinct, place = np.unique(parents, axis=0, return_inverse=True)
        order = np.argsort(place.ravel(), kind="stable")
        bounds = np.searchsorted(place.ravel()[order], np.arange(len(distinct) + 1))
        books = [_codewords(residuals[order[start:end]], size, cluster) for start, end in pairwise(bounds)]
        starts = np.concatenate([[0], np.cumsum([len(book) for book in books])]).astype(np.int64)
        return cls(distinct.astype(np.int64), np.concatenate(books), starts, size)

    @property
    def codes(self) -> int:
        """Number of codes, including those without a codeword of their own and the one of unknown parents."""
        return len(self.parents) * self.size + 1

    def encode(self, parents: Codes, residuals: Floats) -> npt.NDArray[np.int64]:
        """The nearest codeword of each row's parent, ``int64 [rows]``; ties go to the lowest code.

        Distances are computed in double precision and rounded to ``float32``, so that codes do not depend on the batch.
        """
        place = self._places(parents)
        found = np.full(len(parents), self.codes - 1, dtype=np.int64)
        known = np.flatnonzero(place >= 0)
        counts = np.diff(self.starts)[place[known]]
        step = max(1, _ELEMENTS // (self.size * max(1, residuals.shape[1])))
        for first in range(0, len(known), step):
            part = slice(first, first + step)
            rows, count = known[part], counts[part]
            ends = np.cumsum(count)
            begins = ends - count
            local = np.arange(ends[-1]) - np.repeat(begins, count)
            word = np.repeat(self.starts[place[rows]], count) + local
            apart: Doubles = np.repeat(residuals[rows].astype(np.float64), count, axis=0)
            apart -= self.codewords[word]
            distance = np.einsum("nd,nd->n", apart, apart).astype(np.float32)
            lowest = np.minimum.reduceat(distance, begins)
            nearest = np.flatnonzero(distance == np.repeat(lowest, count))
            nearest = nearest[np.searchsorted(nearest, begins)]
            found[rows] = place[rows] * self.size + local[nearest]
        return found

    def decode(self, codes: Ints) -> Floats:
        """Codewords ``float32 [rows, dim]``; a code without a codeword stands for the last one of its parent, the mean."""
        vectors = np.zeros((len(codes), self.codewords.shape[1]), dtype=np.float32)
        known = codes < self.codes - 1
        place, local = np.divmod(codes[known], self.size)
        vectors[known] = self.codewords[np.minimum(self.starts[place] + local, self.starts[place + 1] - 1)]
        return vectors

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state, as named arrays."""
        return {
            "parents": self.parents,
            "codewords": self.codewords,
            "starts": self.starts,
            "size": np.array([self.size], dtype=np.int64),
        }

    @classmethod
    def of_tensors(cls, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore the state."""
        parents, starts = (tensors[name].astype(np.int64) for name in ("parents", "starts"))
        return cls(parents, tensors["codewords"].astype(np.float32), starts, int(tensors["size"][0]))

    def _places(self, parents: Codes) -> npt.NDArray[np.int64]:
        """Place of each row's parent, ``int64 [rows]``; -1 where it had no members."""
        both = np.concatenate([self.parents, parents.astype(np.int64)])
        place = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        known = np.full(len(both), -1, dtype=np.int64)
        known[place[: len(self.parents)]] = np.arange(len(self.parents))
        return known[place[len(self.parents) :]]


def _codewords(members: Floats, size: int, cluster: Callable[[Floats], Floats]) -> Floats:
    if len(members) > size:
        return cluster(members)
    if len(members) == size:
        return members
    return np.concatenate([members, members.mean(axis=0, keepdims=True)])
