"""Point-in-time training frames: labelled rows in, arrays for the ranker out.

Wide things are kept once: a row holds the number of its candidate in the item table and of its history in the history
table, and tensors are gathered per batch. Memory grows with distinct items and histories, not with impressions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.features import Matrix, numeric_features
from ranking.item_table import ItemTable, ItemTableBuilder
from ranking.views import CONTENT, SID, USER_HISTORY, Ints, historical_reader, historical_views, one_chunk, string_array
from semantic_ids.codebook import Codebook
from sidkit.errors import ContractError
from sidkit.stores.asof import ViewRows

if TYPE_CHECKING:
    from feast import FeatureStore

ContentLookup = Callable[[npt.NDArray[np.object_], Ints], Mapping[str, ViewRows]]
"""(item ids, times) -> the views of content and codes: the second hop, as of the row's time."""

_CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class LabelledRows:
    """Rows to be scored: ``user_ids`` and ``item_ids`` object, ``at_us`` int64 microseconds UTC, and what is known of them."""

    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    at_us: Ints
    label: npt.NDArray[np.int8]
    request_ids: npt.NDArray[np.object_] | None = None
    had_before: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.at_us)

    def take(self, index: Ints) -> LabelledRows:
        """Some of the rows."""
        return LabelledRows(
            self.user_ids[index],
            self.item_ids[index],
            self.at_us[index],
            self.label[index],
            self.request_ids[index] if self.request_ids is not None else None,
            self.had_before[index] if self.had_before is not None else None,
        )


@dataclass(frozen=True)
class TrainingSet:
    """Rows as arrays.

    ``numeric`` float32 [rows, features], not scaled; ``candidate`` int32 [rows] into ``items``; ``history`` int32 [rows]
    into ``history_items`` int32 [histories, length] (numbers in ``items``, newest first, 0 is padding) and
    ``history_us`` int64 [histories, length] (microseconds UTC, 0 is padding). History 0 is the empty one.
    """

    rows: LabelledRows
    numeric: Matrix
    candidate: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]
    history_items: npt.NDArray[np.int32]
    history_us: Ints
    items: ItemTable

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Ints) -> TrainingSet:
        """Some of the rows, on the same item and history tables."""
        return TrainingSet(
            self.rows.take(index), self.numeric[index], self.candidate[index], self.history[index], self.history_items,
            self.history_us, self.items,
        )  # fmt: skip


def read_rows(path: Path | pa.Table) -> LabelledRows:
    """Read ``rows.parquet`` (or the same as an Arrow table).

    Raises
    ------
    ContractError
        When a column is missing.
    """
    table = path if isinstance(path, pa.Table) else pq.read_table(path)
    missing = {"user_id", "item_id", "event_timestamp", "label"} - set(table.column_names)
    if missing:
        raise ContractError("rows", f"lacks {', '.join(sorted(missing))}; it has {', '.join(table.column_names)}")
    requests = table.column("request_id") if "request_id" in table.column_names else None
    return LabelledRows(
        string_array(table.column("user_id")),
        string_array(table.column("item_id")),
        table.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy(),
        table.column("label").to_numpy().astype(np.int8),
        string_array(requests) if requests is not None and requests.null_count < len(table) else None,
        table.column("had_before").to_numpy() if "had_before" in table.column_names else None,
    )


def build_training_set(
    store: FeatureStore, service_name: str, codebook: Codebook, rows: LabelledRows, *, rate: float, history_length: int
) -> TrainingSet:
    """Retrieve the features of some rows through a feature service and turn them into arrays.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service_name : str
        ``ctr_<codebook>``; its part ``_content`` gives the history's content and codes.
    codebook : Codebook
        The service's codebook.
    rows : LabelledRows
        Any rows; no feature of a row depends on another row.
    rate : float
        The share of positives among the training rows, to which rates are smoothed.
    history_length : int
        Items kept of each history.
    """
    service = store.get_feature_service(service_name)
    content = store.get_feature_service(f"{service_name}_content")
    views = historical_views(store, service, {"user_id": rows.user_ids, "item_id": rows.item_ids}, rows.at_us)

    of_items = historical_reader(store, content, ["item_id"])

    def look_up(item_ids: npt.NDArray[np.object_], at_us: Ints) -> Mapping[str, ViewRows]:
        return of_items({"item_id": item_ids}, at_us)

    return assemble(views, rows, codebook, look_up, rate=rate, history_length=history_length)


def assemble(
    views: Mapping[str, ViewRows],
    rows: LabelledRows,
    codebook: Codebook,
    look_up: ContentLookup,
    *,
    rate: float,
    history_length: int,
) -> TrainingSet:
    """Arrays from views: the one path that training and serving share."""
    builder = ItemTableBuilder(codebook)
    candidate = builder.add(rows.item_ids, views[CONTENT], views[SID])
    history, items, moments = _histories(views[USER_HISTORY], rows.at_us, builder, look_up, history_length)
    return TrainingSet(
        rows=rows,
        numeric=numeric_features(views, rows.item_ids, rows.at_us, rate),
        candidate=candidate.astype(np.int32),
        history=history,
        history_items=items,
        history_us=moments,
        items=builder.table(),
    )


def _histories(
    view: ViewRows, at_us: Ints, builder: ItemTableBuilder, look_up: ContentLookup, length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Ints]:
    """Number the distinct histories; content and codes of their items are as of each row's time.

    Two rows share a history when both the list and the versions of all its items are the same.
    """
    ids, moments = _padded(view, length)
    store = _HistoryStore(moments, length)
    number = np.zeros(len(at_us), dtype=np.int32)
    rows = np.flatnonzero(view.index >= 0)
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[start : start + _CHUNK_ROWS]
        # Rows of one moment with one list see the same; ask once.
        pairs = np.stack([view.index[chunk], at_us[chunk]], axis=1)
        distinct, back = np.unique(pairs, axis=0, return_inverse=True)
        number[chunk] = store.add(distinct[:, 0], _versions(ids, distinct[:, 0], distinct[:, 1], builder, look_up))[
            back.ravel()
        ]
    items, times = store.arrays()
    return number, items, times


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


class _HistoryStore:
    """Distinct histories: the same list with the same item versions is kept once. Number 0 is the empty history."""

    def __init__(self, moments: Ints, length: int) -> None:
        self._list_moments = moments
        self._number: dict[bytes, int] = {}
        self._items: list[npt.NDArray[np.int32]] = [np.zeros((1, length), dtype=np.int32)]
        self._moments: list[Ints] = [np.zeros((1, length), dtype=np.int64)]
        self._count = 1

    def add(self, lists: Ints, items: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        keyed = np.ascontiguousarray(np.concatenate([lists[:, None].astype(np.int32), items], axis=1))
        distinct, first, back = np.unique(
            keyed.view(np.dtype((np.void, keyed.itemsize * keyed.shape[1]))).ravel(),
            return_index=True,
            return_inverse=True,
        )
        numbers = np.empty(len(distinct), dtype=np.int32)
        fresh = []
        for at, key in enumerate(distinct):
            mark = key.tobytes()
            if mark not in self._number:
                self._number[mark] = self._count
                self._count += 1
                fresh.append(first[at])
            numbers[at] = self._number[mark]
        self._items.append(items[fresh])
        self._moments.append(self._list_moments[lists[fresh]])
        return numbers[back.ravel()]

    def arrays(self) -> tuple[npt.NDArray[np.int32], Ints]:
        return np.concatenate(self._items), np.concatenate(self._moments)
