"""Build datasets from feature views, offline and online."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.data.affinity import affinities
from ranking.data.code_counts import CodeReader, code_counts, code_reader, prefix_numbers
from ranking.data.coded import Coded, ValueIndex
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.decoded import CONTENT_VECTORS, VectorsOf
from ranking.data.extra_numbers import history_ages, stacked, stored_numbers
from ranking.data.feature_views import USER_HISTORY, Reader, historical_reader
from ranking.data.frame_rows import FrameRows, row_codes
from ranking.data.history_table import ContentLookup, HistoryTableBuilder
from ranking.data.item_table import ItemTableBuilder
from ranking.data.numeric_features import numeric_features
from ranking.data.schema import BUILT_IN, FeatureSchema
from ranking.data.value_counts import value_counts
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Floats, Ints
from sidkit.stores.offline.plan import ViewRows

if TYPE_CHECKING:
    from feast import FeatureStore

CHUNK_ROWS = 200_000
"""Rows that are built at a time."""
READ_ROWS = 5 * CHUNK_ROWS
"""Rows whose features are read at a time: those of a table beyond the memory limit are read again each time."""


def build_dataset(
    store: FeatureStore,
    service_name: str,
    codebook: Codebook,
    rows: LabelledRows,
    *,
    rate: float,
    history_length: int,
    schema: FeatureSchema = BUILT_IN,
    vectors: VectorsOf = CONTENT_VECTORS,
    read_at_us: int | None = None,
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
    schema : FeatureSchema
        The features besides the built-in ones; default: none.
    vectors : str
        Whether item vectors are those of the items' ``"content"``, or ``"decoded"`` from their codes.
    read_at_us : int, optional
        Read the stored features as of this time instead of each row's own (see
        :func:`ranking.data.feature_views.historical_reader`): what a store materialized until then serves at the rows' times.
    """
    of_rows, look_up = feature_readers(store, service_name, read_at_us)
    builder = FrameBuilder(
        codebook,
        look_up,
        rate=rate,
        history_length=history_length,
        schema=schema,
        by_value=value_readers(store, service_name, schema, read_at_us),
        by_code=historical_codes(store, service_name, schema, read_at_us),
        vectors=vectors,
    )
    return builder.dataset(builder.retrieve(of_rows, rows))


def feature_readers(
    store: FeatureStore, service_name: str, read_at_us: int | None = None
) -> tuple[Reader, ContentLookup]:
    """The readers of a feature service: row features (by ``user_id`` and ``item_id``), and content of history items."""
    from sidkit.stores.feast_repo import feature_service

    service = feature_service(store, service_name)
    content = feature_service(store, f"{service_name}_content")
    of_items = historical_reader(store, content, read_at_us)

    def look_up(item_ids: npt.NDArray[np.object_], at_us: Ints) -> Mapping[str, ViewRows]:
        return of_items({"item_id": item_ids}, at_us)

    return historical_reader(store, service, read_at_us), look_up


def value_readers(
    store: FeatureStore, service_name: str, schema: FeatureSchema, read_at_us: int | None = None
) -> dict[str, Reader]:
    """Readers of the views by user and value (:attr:`FeatureSchema.by_value`), from the services of their attributes."""
    from sidkit.stores.feast_repo import feature_service

    return {
        view: historical_reader(store, feature_service(store, value_service(service_name, attribute)), read_at_us)
        for view, attribute in schema.by_value.items()
    }


def historical_codes(
    store: FeatureStore, service_name: str, schema: FeatureSchema, read_at_us: int | None = None
) -> CodeReader | None:
    """Reader of the counts per prefix as of the rows' times; None if the schema has no feature of them."""
    if not schema.reads_code_stats:
        return None
    return code_reader(store, service_name, partial(historical_reader, store, read_at_us=read_at_us))


def value_service(service_name: str, attribute: str) -> str:
    """Name of the feature service of counts per user and value of an attribute."""
    return f"{service_name}_by_{attribute}"


class FrameBuilder:
    """Builds datasets from feature views, in any number of calls; items and histories are deduplicated over all calls.

    Parameters
    ----------
    codebook : Codebook
        Its encoder computes the item vectors, or its quantizer decodes them.
    look_up : callable
        Looks up the content and codes of history items.
    rate : float
        The share of positives among the training rows.
    history_length : int
        Maximum items per history.
    schema : FeatureSchema
        The features besides the built-in ones; default: none.
    by_value : mapping, optional
        View -> reader of that view, of the features by user and value; see :func:`value_readers`.
    by_code : CodeReader, optional
        Reader of the counts per prefix, of the features by the candidate's codes; see :func:`historical_codes`.
    vectors : str
        Whether item vectors are those of the items' ``"content"``, or ``"decoded"`` from their codes.
    one_moment : bool
        Whether all rows have the same time, so that an item has one version, and versions need no comparison.
    """

    def __init__(
        self,
        codebook: Codebook,
        look_up: ContentLookup,
        *,
        rate: float,
        history_length: int,
        schema: FeatureSchema = BUILT_IN,
        by_value: Mapping[str, Reader] | None = None,
        by_code: CodeReader | None = None,
        vectors: VectorsOf = CONTENT_VECTORS,
        one_moment: bool = False,
    ) -> None:
        self._rate = rate
        self._by_code = by_code
        self._by_value = by_value or {}
        self.schema = schema
        self._values = ValueIndex(schema.row_coded)
        self._items = ItemTableBuilder(codebook, schema, vectors, one_moment)
        self._histories = HistoryTableBuilder(self._items, look_up, history_length)

    def add(self, views: Mapping[str, ViewRows], rows: LabelledRows) -> FrameRows:
        """The arrays of some rows; their indices stay valid as rows are added."""
        candidate = self._items.add(rows.item_ids, views)
        history = self._histories.add(views[USER_HISTORY], rows.at_us)
        numeric = numeric_features(views, rows.item_ids, rows.at_us, self._rate)
        if self.schema.numbers:
            numeric = np.concatenate([numeric, self._numbers(views, rows, candidate, history)], axis=1)
        return FrameRows(
            rows=rows,
            numeric=numeric,
            candidate=candidate.astype(np.int32),
            history=history,
            coded=self._values.codes(views, rows.context, len(rows)),
            schema=self.schema,
        )

    def _numbers(
        self, views: Mapping[str, ViewRows], rows: LabelledRows, candidate: Ints, history: npt.NDArray[np.int32]
    ) -> Floats:
        history_items, history_us = self._histories.arrays()
        items, times_us = history_items[history], history_us[history]
        attributes, codes = self._items.attributes, self._items.codes
        columns = {
            **stored_numbers(self.schema, views, rows.context, rows.at_us),
            **affinities(
                self.schema,
                self._items.identities,
                attributes.codes,
                attributes.values,
                candidate,
                items,
                times_us,
                rows.at_us,
                prefix_numbers(self.schema, codes),
            ),
            **history_ages(times_us, rows.at_us),
            **value_counts(self.schema, self._by_value, views, rows.user_ids, rows.item_ids, rows.at_us, self._rate),
        }
        if self.schema.reads_code_stats and self._by_code is not None:
            columns |= code_counts(self._by_code, codes[candidate], views, rows.user_ids, rows.at_us, self._rate)
        return stacked(self.schema, columns, len(rows))

    def retrieve(
        self, of_rows: Reader, rows: LabelledRows, chunk_rows: int = CHUNK_ROWS, read_rows: int = READ_ROWS
    ) -> FrameRows:
        """Read the views of ``read_rows`` rows at a time, and add ``chunk_rows`` of them at a time; a reader may prefer to
        read more at once (``rows_at_once``).
        """
        parts = []
        at_once = max(read_rows, getattr(of_rows, "rows_at_once", 0))
        for start in range(0, max(len(rows), 1), at_once):
            read = rows.take(np.arange(start, min(start + at_once, len(rows))))
            keys = {**(read.context or {}), "user_id": read.user_ids, "item_id": read.item_ids}
            views = of_rows(keys, read.at_us)
            if len(read) <= chunk_rows:
                parts.append(self.add(views, read))
                continue
            for first in range(0, len(read), chunk_rows):
                chunk = slice(first, min(first + chunk_rows, len(read)))
                of_chunk = {name: view.part(chunk) for name, view in views.items()}
                parts.append(self.add(of_chunk, read.take(np.arange(chunk.start, chunk.stop))))
        return FrameRows.joined(parts)

    def assemble(self, views: Mapping[str, ViewRows], rows: LabelledRows) -> Dataset:
        """Add rows and return a dataset of them."""
        return self.dataset(self.add(views, rows))

    def dataset(self, part: FrameRows) -> Dataset:
        """A dataset of some rows, with the tables of all rows so far."""
        items, moments = self._histories.arrays()
        return Dataset(
            part.rows,
            part.numeric,
            part.candidate,
            part.history,
            items,
            moments,
            self._items.table(),
            self.schema,
            Coded(row_codes(part), self._values.values()) if self.schema.row_coded else None,
        )
