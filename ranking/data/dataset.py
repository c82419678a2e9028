"""Point-in-time datasets: labelled rows with their features as arrays.

Items and histories are stored once: a row holds the index of its candidate in the item table and of its history in the
history table, and batches look them up. Memory grows with distinct items and histories, not with impressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.feature_views import CONTENT, SID, USER_HISTORY, Reader, historical_reader, string_array
from ranking.data.history_table import ContentLookup, HistoryTableBuilder
from ranking.data.item_table import ItemTable, ItemTableBuilder, shown_items
from ranking.data.numeric_features import model_features, numeric_features
from ranking.data.targets import CLICKED, CONVERTED, Target
from semantic_ids.codebook import Codebook
from sidkit.contract.row_files import checked_rows
from sidkit.contract.schemas import LABELLED_ROWS
from sidkit.core.arrays import Floats, Ints
from sidkit.core.errors import ContractError
from sidkit.core.integrity import checked
from sidkit.stores.offline.plan import ViewRows

if TYPE_CHECKING:
    from feast import FeatureStore

CHUNK_ROWS = 200_000
"""Rows per retrieval of features."""


@dataclass(frozen=True)
class LabelledRows:
    """Labelled impressions: ``user_ids`` and ``item_ids`` object, ``at_us`` int64 microseconds UTC, ``label`` int8 (0 or 1),
    and optionally ``request_ids``, whether the user ``had_before`` the item, whether a row is a ``sampled`` negative, and
    ``clicked`` int8 if the label is not the click.
    """

    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    at_us: Ints
    label: npt.NDArray[np.int8]
    request_ids: npt.NDArray[np.object_] | None = None
    had_before: npt.NDArray[np.bool_] | None = None
    sampled: npt.NDArray[np.bool_] | None = None
    clicked: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.at_us)

    @property
    def click_rate(self) -> float:
        """The share of clicked rows."""
        return float((self.label if self.clicked is None else self.clicked).mean())

    def take(self, index: Ints) -> LabelledRows:
        """Select rows by index."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: column[index] for name, column in columns.items() if column is not None})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows of several parts; a column missing from any part is None."""

        def concatenated(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if any(column is None for column in columns) else np.concatenate(columns)

        return cls(*(concatenated(each.name) for each in fields(cls)))


@dataclass(frozen=True)
class Dataset:
    """Labelled rows with their features as arrays; training, validation, test and served rows alike.

    ``numeric`` float32 [rows, columns], raw counts and unscaled values
    (:func:`ranking.data.numeric_features.numeric_columns` names the columns); ``candidate`` int32 [rows], indices into
    ``items``; ``history`` int32 [rows], indices into ``history_items`` int32 [histories, length] (indices into ``items``,
    newest first, 0 is padding) and ``history_us`` int64 [histories, length] (microseconds UTC, 0 is padding). History 0 is
    empty.
    """

    rows: LabelledRows
    numeric: Floats
    candidate: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]
    history_items: npt.NDArray[np.int32]
    history_us: Ints
    items: ItemTable

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Ints) -> Dataset:
        """Select rows by index; the item and history tables are shared."""
        return Dataset(
            self.rows.take(index),
            self.numeric[index],
            self.candidate[index],
            self.history[index],
            self.history_items,
            self.history_us,
            self.items,
        )

    @property
    def click_rate(self) -> float:
        """The share of clicked rows."""
        return self.rows.click_rate

    @property
    def first_us(self) -> int:
        """The earliest row's time, microseconds UTC."""
        return int(self.rows.at_us.min())

    def shown(self) -> tuple[Ints, Ints]:
        """See :func:`ranking.data.item_table.shown_items`."""
        return shown_items(self.candidate, self.rows.at_us, len(self.items))

    @property
    def features(self) -> Floats:
        """The model's features of ``numeric``, unscaled; see :func:`ranking.data.numeric_features.model_features`."""
        return model_features(self.numeric)

    def feature_chunks(self) -> Iterator[Floats]:
        """The features of all rows in one chunk; see :class:`ranking.data.disk_dataset.DiskDataset`."""
        yield self.features


def read_rows(path: Path | pa.Table, *, target: Target = CLICKED, may_be_empty: bool = False) -> LabelledRows:
    """Read and validate labelled rows from a Parquet file or an Arrow table.

    Columns ``user_id``, ``item_id`` (text or integers), ``event_timestamp`` (with a time zone) and ``label`` (0 or 1), all
    without nulls; optionally ``request_id``, ``had_before``, ``sampled`` and ``converted``. With the target ``converted``, the
    label is the conversion: a row without a click has none, and clicked rows whose conversion is unknown (null) are left out.

    Raises
    ------
    ContractError
        When a column is missing or has the wrong type, or any row is invalid; when the target is ``converted`` and there is no
        such column.
    """
    table = checked_rows(
        path if isinstance(path, pa.Table) else checked(path), LABELLED_ROWS, may_be_empty=may_be_empty
    )
    if target == CONVERTED:
        table = _with_known_conversion(table)
    requests = table.column("request_id") if "request_id" in table.column_names else None
    click = table.column("label").to_numpy().astype(np.int8)
    return LabelledRows(
        string_array(table.column("user_id")),
        string_array(table.column("item_id")),
        table.column("event_timestamp").cast(pa.int64()).to_numpy(),
        _flags(table.column("converted")).astype(np.int8) if target == CONVERTED else click,
        string_array(requests) if requests is not None and requests.null_count < len(table) else None,
        _flags(table.column("had_before")) if "had_before" in table.column_names else None,
        _flags(table.column("sampled")) if "sampled" in table.column_names else None,
        click if target == CONVERTED else None,
    )


def _with_known_conversion(table: pa.Table) -> pa.Table:
    if "converted" not in table.column_names:
        raise ContractError(
            "rows",
            'expected a column converted (0 or 1) for the target "converted", got none; write the rows of a log with '
            "conversions (`sidkit tables rows`), or add the column",
        )
    unknown = pc.and_(pc.equal(table.column("label"), 1), pc.is_null(table.column("converted")))
    return table.filter(pc.invert(unknown))


def _flags(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A column of 0 and 1 as booleans; null is false."""
    flags: npt.NDArray[np.bool_] = column.fill_null(0.0).to_numpy() == 1
    return flags


def build_dataset(
    store: FeatureStore, service_name: str, codebook: Codebook, rows: LabelledRows, *, rate: float, history_length: int
) -> Dataset:
    """Retrieve the point-in-time features of rows through a feature service and build a dataset.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service_name : str
        ``ctr_<codebook>``; the service ``<service_name>_content`` provides the content and codes of history items.
    codebook : Codebook
        The service's codebook.
    rows : LabelledRows
        Any rows; features of a row do not depend on other rows.
    rate : float
        The share of positives among the training rows, towards which rates are smoothed.
    history_length : int
        Maximum items per history.
    """
    of_rows, look_up = feature_readers(store, service_name)
    builder = FrameBuilder(codebook, look_up, rate=rate, history_length=history_length)
    return builder.dataset(builder.retrieve(of_rows, rows))


def feature_readers(store: FeatureStore, service_name: str) -> tuple[Reader, ContentLookup]:
    """The readers of a feature service: row features (by ``user_id`` and ``item_id``), and content of history items."""
    from sidkit.stores.feast_repo import feature_service

    service = feature_service(store, service_name)
    content = feature_service(store, f"{service_name}_content")
    of_items = historical_reader(store, content)

    def look_up(item_ids: npt.NDArray[np.object_], at_us: Ints) -> Mapping[str, ViewRows]:
        return of_items({"item_id": item_ids}, at_us)

    return historical_reader(store, service), look_up


def assemble(
    views: Mapping[str, ViewRows],
    rows: LabelledRows,
    codebook: Codebook,
    look_up: ContentLookup,
    *,
    rate: float,
    history_length: int,
) -> Dataset:
    """Build a dataset from feature views; shared by training and serving."""
    builder = FrameBuilder(codebook, look_up, rate=rate, history_length=history_length)
    return builder.dataset(builder.add(views, rows))


@dataclass(frozen=True)
class FrameRows:
    """The rows of a :class:`Dataset` without its tables."""

    rows: LabelledRows
    numeric: Floats
    candidate: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]

    @property
    def features(self) -> Floats:
        """See :attr:`Dataset.features`."""
        return model_features(self.numeric)

    def take(self, index: Ints) -> FrameRows:
        """Select rows by index."""
        return FrameRows(self.rows.take(index), self.numeric[index], self.candidate[index], self.history[index])

    @classmethod
    def joined(cls, parts: Sequence[FrameRows | Dataset]) -> FrameRows:
        """Concatenate the rows of several parts that share their tables."""
        return cls(
            LabelledRows.joined([part.rows for part in parts]),
            np.concatenate([part.numeric for part in parts]),
            np.concatenate([part.candidate for part in parts]),
            np.concatenate([part.history for part in parts]),
        )


class FrameBuilder:
    """Builds datasets from feature views, in any number of calls; items and histories are deduplicated over all calls.

    Parameters
    ----------
    codebook : Codebook
        Its encoder computes the content vectors.
    look_up : callable
        Looks up the content and codes of history items.
    rate : float
        The share of positives among the training rows.
    history_length : int
        Maximum items per history.
    """

    def __init__(self, codebook: Codebook, look_up: ContentLookup, *, rate: float, history_length: int) -> None:
        self._rate = rate
        self._items = ItemTableBuilder(codebook)
        self._histories = HistoryTableBuilder(self._items, look_up, history_length)

    def add(self, views: Mapping[str, ViewRows], rows: LabelledRows) -> FrameRows:
        """The arrays of some rows; their indices stay valid as rows are added."""
        candidate = self._items.add(rows.item_ids, views[CONTENT], views[SID])
        return FrameRows(
            rows=rows,
            numeric=numeric_features(views, rows.item_ids, rows.at_us, self._rate),
            candidate=candidate.astype(np.int32),
            history=self._histories.add(views[USER_HISTORY], rows.at_us),
        )

    def retrieve(self, of_rows: Reader, rows: LabelledRows, chunk_rows: int = CHUNK_ROWS) -> FrameRows:
        """Retrieve and add rows, ``chunk_rows`` at a time."""
        parts = []
        for start in range(0, max(len(rows), 1), chunk_rows):
            chunk = rows.take(np.arange(start, min(start + chunk_rows, len(rows))))
            views = of_rows({"user_id": chunk.user_ids, "item_id": chunk.item_ids}, chunk.at_us)
            parts.append(self.add(views, chunk))
        return FrameRows.joined(parts)

    def dataset(self, part: FrameRows) -> Dataset:
        """A dataset of some rows, with the tables of all rows so far."""
        items, moments = self._histories.arrays()
        return Dataset(part.rows, part.numeric, part.candidate, part.history, items, moments, self._items.table())
