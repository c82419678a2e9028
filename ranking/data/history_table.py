"""The distinct histories of a dataset: lists of item versions with their times, to which rows refer by index.

Index 0 is the empty history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.feature_views import string_array
from ranking.data.grown import Grown
from ranking.data.item_table import ItemTableBuilder
from sidkit.core.arrays import Ints, one_chunk
from sidkit.core.distinct import pair_keys
from sidkit.stores.offline.plan import ViewRows

ContentLookup = Callable[[npt.NDArray[np.object_], Ints], Mapping[str, ViewRows]]
"""(item ids, times) -> the views of content, codes and attributes of history items, as of the row's time."""

_CHUNK_ROWS = 100_000
_DIGEST_BYTES = 16


@dataclass
class HistoryTableBuilder:
    """Collects histories over several retrievals and assigns their indices.

    Parameters
    ----------
    items : ItemTableBuilder
        The item table that histories refer to.
    look_up : callable
        Looks up the content and codes of items as of given times.
    length : int
        Maximum items per history.
    """

    items: ItemTableBuilder
    look_up: ContentLookup
    length: int
    _number: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._items = Grown(np.zeros((0, self.length), dtype=np.int32))
        self._moments = Grown(np.zeros((0, self.length), dtype=np.int64))
        self._add(np.zeros((1, self.length), dtype=np.int32), np.zeros((1, self.length), dtype=np.int64))

    def add(self, view: ViewRows, at_us: Ints) -> npt.NDArray[np.int32]:
        """Add the histories of some rows, with the content and codes of their items as of each row's time.

        Two rows share a history if its item versions and their times are equal.

        Parameters
        ----------
        view : ViewRows
            The history view of the rows.
        at_us : int64 [rows]
            The rows' times, microseconds UTC.

        Returns
        -------
        numpy.ndarray
            Indices into the table, ``int32 [rows]``.
        """
        ids, moments = _padded(view, self.length)
        number = np.zeros(len(at_us), dtype=np.int32)
        rows = np.flatnonzero(view.index >= 0)
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            # Rows with the same list and time see the same versions; look them up once.
            lists, moment, back = _in_order_of_rows(view.index[chunk], at_us[chunk])
            versions = _versions(ids, lists, moment, self.items, self.look_up)
            number[chunk] = self._add(versions, moments[lists])[back]
        return number

    def arrays(self) -> tuple[npt.NDArray[np.int32], Ints]:
        """All histories so far: item indices ``int32 [histories, length]`` and times ``int64 [histories, length]``."""
        return self._items.array, self._moments.array

    def _add(self, items: npt.NDArray[np.int32], moments: Ints) -> npt.NDArray[np.int32]:
        keyed = np.concatenate([items.view(np.uint8), np.ascontiguousarray(moments).view(np.uint8)], axis=1)
        numbers = np.empty(len(keyed), dtype=np.int32)
        fresh = []
        for row, key in enumerate(keyed):
            digest = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()
            if digest not in self._number:
                self._number[digest] = len(self._number)
                fresh.append(row)
            numbers[row] = self._number[digest]
        self._items.extend(items[fresh])
        self._moments.extend(moments[fresh])
        return numbers


def _in_order_of_rows(lists: Ints, at_us: Ints) -> tuple[Ints, Ints, Ints]:
    """The lists and times of distinct pairs in the order in which rows have them first, and the pair of each row.

    So the indices of histories do not depend on the order in which an offline store returns lists.
    """
    keys, moments = pair_keys(lists, at_us)
    back, distinct = pd.factorize(keys)
    of_list, of_moment = np.divmod(distinct, max(len(moments), 1))
    return of_list, moments[of_moment], back


def _versions(
    ids: npt.NDArray[np.object_], lists: Ints, at_us: Ints, builder: ItemTableBuilder, look_up: ContentLookup
) -> npt.NDArray[np.int32]:
    """Item versions of histories, each as of its row's time: indices ``int32 [histories, length]``."""
    taken = ids[lists]
    filled = taken != ""
    flat = taken[filled]
    moments, moment = np.unique(at_us, return_inverse=True)
    codes, names = pd.factorize(flat)
    keys = codes * max(len(moments), 1) + np.broadcast_to(moment.reshape(-1, 1), taken.shape)[filled]
    distinct, back = np.unique(keys, return_inverse=True)
    of_name, of_moment = np.divmod(distinct, max(len(moments), 1))
    item_ids = names[of_name]
    views = look_up(item_ids, moments[of_moment])
    numbers = builder.add(item_ids, views)
    result = np.zeros(taken.shape, dtype=np.int32)
    result[filled] = numbers[back.ravel()]
    return result


def _padded(view: ViewRows, length: int) -> tuple[npt.NDArray[np.object_], Ints]:
    """The lists of a history view as matrices ``[lists, length]``: ids ("" is padding) and times (0 is padding)."""
    ids = one_chunk(view.table.column(f"{view.name}__item_ids"))
    moments = one_chunk(view.table.column(f"{view.name}__timestamps_us"))
    lengths = np.nan_to_num(ids.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    inside = position < length
    id_matrix = np.full((len(lengths), length), "", dtype=object)
    moment_matrix = np.zeros((len(lengths), length), dtype=np.int64)
    id_matrix[owner[inside], position[inside]] = string_array(ids.flatten())[inside]
    moment_matrix[owner[inside], position[inside]] = moments.flatten().to_numpy(zero_copy_only=False)[inside]
    return id_matrix, moment_matrix
