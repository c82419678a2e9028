"""The item ids of the training window and their rows in an id table.

Ten million ids are one Arrow array and two NumPy arrays beside it: no Python object per id, and no dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.arrays import Hashes, Ints, one_chunk

PADDING, UNKNOWN = 0, 1
"""Rows that stand for no item and for every item that training never saw."""
_KNOWN = 2
_CHUNK = 100_000


class Vocabulary:
    """Item ids: number 0 is padding, 1 is unknown, the rest in order of the ids.

    Parameters
    ----------
    ids : sequence of str or pyarrow.Array
        Distinct, sorted.
    """

    def __init__(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> None:
        array = pa.array(ids, pa.large_string()) if not isinstance(ids, pa.Array | pa.ChunkedArray) else ids
        self.names: pa.LargeStringArray = one_chunk(array)
        self.names = self.names.cast(pa.large_string())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.names.equals(other.names)

    def __hash__(self) -> int:
        return hash((len(self.names), self.names[-1].as_py() if len(self.names) else ""))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids as Python strings, some 70 bytes each; ``names`` holds them in a tenth of that."""
        return tuple(self.names.to_pylist())

    @property
    def size(self) -> int:
        """Rows of an id table."""
        return len(self.names) + _KNOWN

    @classmethod
    def fit(cls, item_ids: npt.NDArray[np.object_], least: int = 1, shown: Ints | None = None) -> Self:
        """The ids that occur at least ``least`` times among the training rows' candidates.

        Parameters
        ----------
        item_ids : object [items]
            An id may come again.
        least : int
            Occurrences needed.
        shown : int64 [items], optional
            How often each entry occurs; by default once.
        """
        times = np.ones(len(item_ids), dtype=np.int64) if shown is None else shown
        names = pa.array(item_ids[times > 0], pa.large_string())
        if not len(names):
            return cls(names)
        # By the bytes of UTF-8, which is the order of the characters; equal ids then stand side by side.
        order = pc.sort_indices(names)
        ranked = names.take(order)
        fresh = pc.not_equal(ranked.slice(1), ranked.slice(0, len(ranked) - 1)).to_numpy(zero_copy_only=False)
        first = np.concatenate([[0], np.flatnonzero(fresh) + 1])
        counts = np.add.reduceat(times[times > 0][order.to_numpy()], first)
        return cls(ranked.take(pa.array(first[counts >= least])))

    def numbers(self, item_ids: npt.NDArray[np.object_]) -> Ints:
        """``int64 [items]``: 0 for the empty string (padding), 1 for an id that is not in the vocabulary."""
        found = np.full(len(item_ids), UNKNOWN, dtype=np.int64)
        for start in range(0, len(item_ids), _CHUNK):
            asked = item_ids[start : start + _CHUNK]
            found[start : start + _CHUNK] = self._places(asked)
        return found

    def _places(self, asked: npt.NDArray[np.object_]) -> Ints:
        marks, order = self._by_mark
        mine = _marks_of(asked)
        at = np.searchsorted(marks, mine)
        found = np.full(len(asked), UNKNOWN, dtype=np.int64)
        left = np.arange(len(asked))
        # Ids that share a mark stand side by side: whoever is not the first may be the next.
        while len(left):
            left = left[at[left] < len(marks)]
            left = left[marks[at[left]] == mine[left]]
            place = order[at[left]]
            same = pc.equal(self.names.take(pa.array(place)), pa.array(asked[left], pa.large_string()))
            equal = same.fill_null(False).to_numpy(zero_copy_only=False)
            found[left[equal]] = place[equal] + _KNOWN
            left = left[~equal]
            at[left] += 1
        found[asked == ""] = PADDING
        return found

    @cached_property
    def _by_mark(self) -> tuple[Hashes, Ints]:
        """A 64-bit hash per id, sorted, and whose each is."""
        chunks = range(0, len(self.names), _CHUNK)
        parts = [_marks_of(self.names.slice(at, _CHUNK).to_numpy(zero_copy_only=False)) for at in chunks]
        marks = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
        order = np.argsort(marks, kind="stable")
        return marks[order], order


def _marks_of(ids: npt.NDArray[np.object_]) -> Hashes:
    found: Hashes = pd.util.hash_array(ids, categorize=False)
    return found
