"""The vocabulary of item ids of the training window.

Ids are stored as one Arrow array and two NumPy arrays, without a Python object per id, so ten million ids fit in memory.
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
"""Reserved rows: padding, and all items outside the training window."""
_KNOWN = 2
_CHUNK = 100_000


class Vocabulary:
    """Maps item ids to rows of an id table: 0 is padding, 1 is unknown, then the ids in sorted order.

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
        """The ids as Python strings, about 70 bytes each; ``names`` uses a tenth of that."""
        return tuple(self.names.to_pylist())

    @property
    def size(self) -> int:
        """Rows of an id table."""
        return len(self.names) + _KNOWN

    @classmethod
    def fit(cls, item_ids: npt.NDArray[np.object_], least: int = 1, shown: Ints | None = None) -> Self:
        """Build the vocabulary of the ids that occur at least ``least`` times among the training candidates.

        Parameters
        ----------
        item_ids : object [items]
            May contain duplicates.
        least : int
            Minimum number of occurrences.
        shown : int64 [items], optional
            Occurrences of each entry; 1 by default.
        """
        times = np.ones(len(item_ids), dtype=np.int64) if shown is None else shown
        names = pa.array(item_ids[times > 0], pa.large_string())
        if not len(names):
            return cls(names)
        # Sorted by UTF-8 bytes, which is code point order; equal ids are then adjacent.
        order = pc.sort_indices(names)
        ranked = names.take(order)
        fresh = pc.not_equal(ranked.slice(1), ranked.slice(0, len(ranked) - 1)).to_numpy(zero_copy_only=False)
        first = np.concatenate([[0], np.flatnonzero(fresh) + 1])
        counts = np.add.reduceat(times[times > 0][order.to_numpy()], first)
        return cls(ranked.take(pa.array(first[counts >= least])))

    def numbers(self, item_ids: npt.NDArray[np.object_]) -> Ints:
        """Rows ``int64 [items]`` of ids: 0 for the empty string (padding), 1 for an id that is not in the vocabulary."""
        rows = np.full(len(item_ids), UNKNOWN, dtype=np.int64)
        for start in range(0, len(item_ids), _CHUNK):
            rows[start : start + _CHUNK] = self._rows_of(item_ids[start : start + _CHUNK])
        return rows

    def _rows_of(self, item_ids: npt.NDArray[np.object_]) -> Ints:
        sorted_hashes, order = self._by_hash
        hashes = _hashes_of(item_ids)
        at = np.searchsorted(sorted_hashes, hashes)
        rows = np.full(len(item_ids), UNKNOWN, dtype=np.int64)
        pending = np.arange(len(item_ids))
        # Ids with the same hash are adjacent: on a mismatch, try the next one.
        while len(pending):
            pending = pending[at[pending] < len(sorted_hashes)]
            pending = pending[sorted_hashes[at[pending]] == hashes[pending]]
            place = order[at[pending]]
            same = pc.equal(self.names.take(pa.array(place)), pa.array(item_ids[pending], pa.large_string()))
            equal = same.fill_null(False).to_numpy(zero_copy_only=False)
            rows[pending[equal]] = place[equal] + _KNOWN
            pending = pending[~equal]
            at[pending] += 1
        rows[item_ids == ""] = PADDING
        return rows

    @cached_property
    def _by_hash(self) -> tuple[Hashes, Ints]:
        """The sorted 64-bit hashes of the ids, and the position of each id."""
        chunks = range(0, len(self.names), _CHUNK)
        parts = [_hashes_of(self.names.slice(at, _CHUNK).to_numpy(zero_copy_only=False)) for at in chunks]
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order


def _hashes_of(ids: npt.NDArray[np.object_]) -> Hashes:
    hashes: Hashes = pd.util.hash_array(ids, categorize=False)
    return hashes
