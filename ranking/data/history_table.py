"""The distinct histories of a frame: each list of item versions with its moments once, and rows refer to them by number.

Number 0 is the empty history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ranking.data.feature_views import CONTENT, SID, string_array
from ranking.data.item_table import ItemTableBuilder
from sidkit.core.arrays import Ints, one_chunk
from sidkit.stores.offline.plan import ViewRows

ContentLookup = Callable[[npt.NDArray[np.object_], Ints], Mapping[str, ViewRows]]
"""(item ids, times) -> the views of content and codes: the second hop, as of the row's time."""

_CHUNK_ROWS = 100_000
_DIGEST_BYTES = 16


@dataclass
class HistoryTableBuilder:
    """Collects histories from several retrievals and numbers them.

    Parameters
    ----------
    items : ItemTableBuilder
        Where the items of the histories are numbered.
    look_up : callable
        Gives the content and codes of items as of a moment.
    length : int
        Items kept of each history.
    """

    items: ItemTableBuilder
    look_up: ContentLookup
    length: int
    _number: dict[bytes, int] = field(default_factory=dict)
    _items: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _moments: list[Ints] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._add(np.zeros((1, self.length), dtype=np.int32), np.zeros((1, self.length), dtype=np.int64))

    def add(self, view: ViewRows, at_us: Ints) -> npt.NDArray[np.int32]:
        """Number the histories of some rows; content and codes of their items are as of each row's time.

        Two rows share a history when its items in the same versions, and their moments, are the same.

        Parameters
        ----------
        view : ViewRows
            The history view of the rows.
        at_us : int64 [rows]
            The rows' times, microseconds UTC.

        Returns
        -------
        numpy.ndarray
            ``int32 [rows]`` numbers in the table.
        """
        ids, moments = _padded(view, self.length)
        number = np.zeros(len(at_us), dtype=np.int32)
        rows = np.flatnonzero(view.index >= 0)
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            # Rows of one moment with one list see the same; ask once.
            pairs = np.stack([view.index[chunk], at_us[chunk]], axis=1)
            distinct, back = np.unique(pairs, axis=0, return_inverse=True)
            versions = _versions(ids, distinct[:, 0], distinct[:, 1], self.items, self.look_up)
            number[chunk] = self._add(versions, moments[distinct[:, 0]])[back.ravel()]
        return number

    def arrays(self) -> tuple[npt.NDArray[np.int32], Ints]:
        """All histories so far: item numbers ``int32 [histories, length]`` and moments ``int64 [histories, length]``."""
        return np.concatenate(self._items), np.concatenate(self._moments)

    def _add(self, items: npt.NDArray[np.int32], moments: Ints) -> npt.NDArray[np.int32]:
        keyed = np.concatenate([items.view(np.uint8), np.ascontiguousarray(moments).view(np.uint8)], axis=1)
        numbers = np.empty(len(keyed), dtype=np.int32)
        fresh = []
        for row, key in enumerate(keyed):
            mark = hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()
            if mark not in self._number:
                self._number[mark] = len(self._number)
                fresh.append(row)
            numbers[row] = self._number[mark]
        self._items.append(items[fresh])
        self._moments.append(moments[fresh])
        return numbers


def _versions(
    ids: npt.NDArray[np.object_], lists: Ints, at_us: Ints, builder: ItemTableBuilder, look_up: ContentLookup
) -> npt.NDArray[np.int32]:
    """The items of some histories, each as of its own moment: ``int32 [histories, length]`` numbers."""
    taken = ids[lists]
    filled = taken != ""
    flat = taken[filled]
    at = np.broadcast_to(at_us[:, None], taken.shape)[filled]
    names, codes = _distinct(flat)
    asked, back = np.unique(np.stack([codes, at], axis=1), axis=0, return_inverse=True)
    item_ids, moments = names[asked[:, 0]], asked[:, 1]
    found = look_up(item_ids, moments)
    numbers = builder.add(item_ids, found[CONTENT], found[SID])
    result = np.zeros(taken.shape, dtype=np.int32)
    result[filled] = numbers[back.ravel()]
    return result


def _distinct(values: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.object_], Ints]:
    import pandas as pd

    codes, names = pd.factorize(values)
    return names, codes.astype(np.int64)


def _padded(view: ViewRows, length: int) -> tuple[npt.NDArray[np.object_], Ints]:
    """The lists of a history view as matrices ``[lists, length]``: ids ("" is padding) and moments (0 is padding)."""
    ids = one_chunk(view.table.column(f"{view.name}__item_ids"))
    moments = one_chunk(view.table.column(f"{view.name}__timestamps_us"))
    lengths = np.nan_to_num(ids.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = position < length
    id_matrix = np.full((len(lengths), length), "", dtype=object)
    moment_matrix = np.zeros((len(lengths), length), dtype=np.int64)
    id_matrix[owner[kept], position[kept]] = string_array(ids.flatten())[kept]
    moment_matrix[owner[kept], position[kept]] = moments.flatten().to_numpy(zero_copy_only=False)[kept]
    return id_matrix, moment_matrix
