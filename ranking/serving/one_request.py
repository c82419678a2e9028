"""Features of one request from the packed online store, without a Python object or a comparison per candidate.

The arrays are those of :class:`ranking.data.frame_builder.FrameBuilder`, for rows of one user at one time: the user's side is
computed once, static features of items come from :class:`ranking.serving.static_items.StaticItems`, counts are read fresh, all
columns of a view at once, and everything comes from one snapshot of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ranking.data.affinity import affinities
from ranking.data.code_counts import prefix_numbers
from ranking.data.coded import Coded, ValueIndex
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.decoded import VectorsOf
from ranking.data.extra_numbers import as_read, history_ages, stored_numbers
from ranking.data.feature_views import Reader
from ranking.data.item_table import NO_CODE, PADDING, ItemTable, Numbered
from ranking.data.numeric_features import age_days, numeric_columns
from ranking.data.schema import FeatureSchema
from ranking.data.value_counts import value_counts
from ranking.serving.counts import CountedView, Counts
from ranking.serving.prefix_counts import PrefixRows
from ranking.serving.request_counts import CodeCountsReader
from ranking.serving.static_items import ItemRows, StaticItems
from sidkit.core.arrays import Bools, Doubles, Floats, Ints, one_chunk
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, WINDOWS
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.online.arrow import text_keys
from sidkit.stores.online.reader import PackedView, view_rows_of
from sidkit.stores.template_views import hours_since

if TYPE_CHECKING:
    from ranking.serving.service_reader import ServiceReader
    from sidkit.stores.online.transactions import PackedDatabase, Reading

Context = Mapping[str, Any]


@dataclass(frozen=True)
class Sides:
    """The readers of a ranker's features, all of one packed store.

    Attributes
    ----------
    database : PackedDatabase
    history : PackedView
        ``user_history``.
    recency : tuple of str
        Full names of the features of the template's ``user_recency``, which is computed from the history.
    user : ServiceReader or None
        The user's own views: none of the above and ``user_stats``.
    items : ServiceReader or None
        The candidates' own views: neither static nor ``item_stats``.
    static : StaticItems
    user_stats : CountedView
    codes : CodeCountsReader or None
    by_value : mapping
        See :class:`ranking.data.frame_builder.FrameBuilder`.
    """

    database: PackedDatabase
    history: PackedView
    recency: tuple[str, ...]
    user: ServiceReader | None
    items: ServiceReader | None
    static: StaticItems
    user_stats: CountedView
    codes: CodeCountsReader | None
    by_value: Mapping[str, Reader]


@dataclass(frozen=True)
class History:
    """The user's history, newest first: ``ids`` and ``times_us`` of as many positives as the ranker reads; ``had``, all of its
    items; ``length``, ``newest_us`` and ``oldest_us`` of all of it (NaN without any).
    """

    ids: list[str]
    times_us: Ints
    had: frozenset[str]
    length: int
    newest_us: float
    oldest_us: float

    @classmethod
    def read(
        cls, reading: Reading, view: PackedView, keys: Sequence[bytes], at_us: int, longest: int
    ) -> tuple[History, bool]:
        """The history of one user, with at most ``longest`` positives to rank with, and whether there is a row."""
        since_us = None if view.ttl_us is None else at_us - view.ttl_us
        [rows] = reading.rows_of([(view.stored, since_us)], keys)
        if rows[0] is None:
            return cls([], np.zeros(0, np.int64), frozenset(), 0, np.nan, np.nan), False
        cells = reading.cells(view.stored, rows[0], ("item_ids", "timestamps_us"))
        listed, moments = cells.get("item_ids"), cells.get("timestamps_us")
        if listed is None or moments is None or (listed.kind, moments.kind) != ("STRING_LIST", "INT64_LIST"):
            table = view_rows_of(reading, view, rows).table
            items = one_chunk(table.column(f"{view.name}__item_ids")).flatten().to_pylist()
            times = one_chunk(table.column(f"{view.name}__timestamps_us")).flatten().to_numpy(zero_copy_only=False)
        else:
            assert listed.inner is not None
            assert isinstance(moments.flat, np.ndarray)
            texts, ends = bytes(listed.flat), listed.inner.tolist()
            items = [texts[start:end].decode() for start, end in pairwise(ends)]
            times = moments.flat
        last = (float(times[0]), float(times[-1])) if len(times) else (np.nan, np.nan)
        return cls(items[:longest], times[:longest], frozenset(items), len(times), *last), True


@dataclass(frozen=True, kw_only=True)
class RequestRows:
    """What was read for a request: views and counts of the user, the history, the arrays of candidates and history, own views
    of the candidates, counts per prefix; and which items are known, and whether the user is.
    """

    user_id: str
    item_ids: Sequence[str]
    at_us: int
    user: Mapping[str, ViewRows]
    of_user: Counts
    history: History
    items: ItemRows
    own: Mapping[str, ViewRows]
    prefixes: PrefixRows | None
    known: Bools
    user_known: bool


class OneRequest:
    """Builds the dataset of one request.

    Parameters
    ----------
    sides : Sides
        The readers.
    schema : FeatureSchema
        The features besides the built-in ones.
    vectors : str
        See :class:`ranking.serving.features.OnlineFeatures`.
    """

    def __init__(self, sides: Sides, schema: FeatureSchema, vectors: VectorsOf) -> None:
        self.sides = sides
        self._schema = schema
        self._vectors = vectors
        self._built_in = len(numeric_columns())
        self._place = {each.name: at for at, each in enumerate(schema.numbers)}
        self._static = [each for each in schema.numbers if each.view == ITEM_ATTRIBUTES and not each.of]
        stored = [
            each
            for each in schema.numbers
            if each.view and not each.of and each.view != ITEM_ATTRIBUTES and each.name not in sides.recency
        ]
        of_user = set() if sides.user is None else set(sides.user.views.names)
        self._of_user = FeatureSchema(tuple(each for each in stored if each.view in of_user))
        self._of_rows = FeatureSchema(tuple(each for each in stored if each.view not in of_user))
        self._own_coded = tuple(each for each in schema.item_read if each.view != ITEM_ATTRIBUTES)

    def read(
        self, reading: Reading, user_id: str, item_ids: Sequence[str], at_us: int, history_length: int
    ) -> RequestRows | None:
        """Read the rows of a request from a snapshot; None for ids that are no texts.

        Parameters
        ----------
        reading : Reading
            The snapshot.
        user_id, item_ids, at_us
            The request.
        history_length : int
            Maximum items per history.
        """
        user_keys = text_keys("user_id", [user_id])
        if user_keys is None:
            return None
        sides, count = self.sides, len(item_ids)
        of_user, has_stats = sides.user_stats.read(reading, user_keys, at_us)
        history, has_history = History.read(reading, sides.history, user_keys, at_us, history_length)
        user = {} if sides.user is None else sides.user.read({"user_id": [user_id]}, at_us)
        stored = [] if sides.user is None else sides.user.stored(user)
        try:
            items = sides.static.look_up(reading, [*item_ids, *history.ids], at_us)
        except TypeError:  # the reader that any store has says which ids are no texts
            return None
        candidate = items.place[:count]
        known = items.known[candidate]
        own = {} if sides.items is None else sides.items.read({"item_id": item_ids}, at_us)
        for view in () if sides.items is None else sides.items.stored(own):
            known |= np.asarray(view.index) >= 0
        prefixes = None
        if sides.codes is not None:
            prefixes = sides.codes.counts.read(reading, items.prefixes[candidate], user_id, at_us)
        return RequestRows(
            user_id=user_id,
            item_ids=item_ids,
            at_us=at_us,
            user=user,
            of_user=of_user,
            history=history,
            items=items,
            own=own,
            prefixes=prefixes,
            known=known,
            user_known=bool(has_stats[0]) or has_history or any(view.index[0] >= 0 for view in stored),
        )

    def gather(
        self,
        read: RequestRows,
        rate: float,
        history_length: int,
        further: Mapping[str, ViewRows],
        context: Mapping[str, Any] | None,
    ) -> Dataset:
        """The dataset of a request.

        Parameters
        ----------
        read : RequestRows
            Its rows.
        rate : float
            The share of positives among the training rows.
        history_length : int
            Maximum items per history.
        further : mapping
            Views of the rows that need the context.
        context : mapping, optional
            The context columns that the ranker reads.
        """
        items, history, count = read.items, read.history, len(read.item_ids)
        candidate, past = items.place[:count], items.place[count:]
        of_items = items.counts.take(candidate)
        rows = LabelledRows(
            np.full(count, read.user_id, dtype=object),
            np.array(read.item_ids, dtype=object),
            np.full(count, read.at_us, dtype=np.int64),
            np.zeros(count, np.int8),
            context=context,
        )
        of_rows = {**further, **read.own}
        for name, view in read.user.items():
            of_rows[name] = ViewRows(name, np.broadcast_to(view.index, count), view.table)
        table, coded_items = self._item_table(items, candidate, read.own)
        number_of = np.where(items.ids == "", PADDING, np.arange(1, len(items.ids) + 1))
        candidates = number_of[candidate].astype(np.int32)
        histories = np.zeros((1, history_length), dtype=np.int32)
        times_us = np.zeros((1, history_length), dtype=np.int64)
        histories[0, : len(past)], times_us[0, : len(past)] = number_of[past], history.times_us
        numeric = np.empty((count, self._built_in + len(self._schema.numbers)), dtype=np.float32)
        fill_built_in(numeric, of_items, read.of_user, items, candidate, history, rows, rate)
        if self._schema.numbers:
            extra = numeric[:, self._built_in :]
            columns = {
                **self._stored(items, candidate, read.user, of_rows, rows),
                **affinities(
                    self._schema, np.arange(len(table)), coded_items.codes, coded_items.values, candidates, histories, times_us,
                    rows.at_us, prefix_numbers(self._schema, table.codes),
                ),
                **dict.fromkeys(self.sides.recency, np.array([hours_since(history.newest_us, read.at_us)])),
                **history_ages(times_us, rows.at_us[:1]),
                **self._by_value(items, candidate, rows, rate),
            }  # fmt: skip
            for name, column in columns.items():
                if name in self._place:
                    extra[:, self._place[name]] = column
            if self.sides.codes is not None and read.prefixes is not None:
                self.sides.codes.fill(extra, read.prefixes, of_items, read.of_user, rate)
        coded = None
        if self._schema.row_coded:
            values = ValueIndex(self._schema.row_coded)
            coded = Coded(values.codes(of_rows, context, count), values.values())
        empty = not (histories.any() or times_us.any())
        return Dataset(
            rows,
            numeric,
            candidates,
            np.full(count, 0 if empty else 1, dtype=np.int32),
            histories if empty else np.concatenate([np.zeros_like(histories), histories]),
            times_us if empty else np.concatenate([np.zeros_like(times_us), times_us]),
            table,
            self._schema,
            coded,
        )

    def _item_table(self, items: ItemRows, candidate: Ints, own: Mapping[str, ViewRows]) -> tuple[ItemTable, Coded]:
        """The items after padding, and the coded features that are read of them."""
        count = len(items.ids) + 1
        codes = np.full((count, items.codes.shape[1]), NO_CODE, dtype=np.int32)
        vectors = np.zeros((count, items.vectors.shape[1]), dtype=np.float32)
        codes[1:], vectors[1:] = items.codes, items.vectors
        read = self._schema.item_read
        coded = np.zeros((count, len(read)), dtype=np.int32)
        of_own = ValueIndex(self._own_coded)
        if self._own_coded:
            coded[candidate + 1, [read.index(each) for each in self._own_coded]] = of_own.codes(
                own, None, len(candidate)
            )
        of_static = {each.name: at for at, each in enumerate(self.sides.static.features)}
        own_values = dict(zip((each.name for each in self._own_coded), of_own.values(), strict=True))
        values = []
        for at, feature in enumerate(read):
            if feature.name in own_values:
                values.append(own_values[feature.name])
                continue
            place = of_static[feature.name]
            coded[1:, at] = items.attributes.codes[:, place]
            values.append(items.attributes.values[place])
        every = Coded(coded, tuple(values))
        of_model = every.select(range(len(self._schema.item_coded))) if self._schema.item_coded else None
        ids = np.concatenate([np.array([""], dtype=object), items.ids])
        table = ItemTable(ids, codes, vectors, of_model, self._vectors)
        if self.sides.static.vocabulary is not None:
            rows = np.concatenate([[PADDING], items.vocabulary_rows])
            table = replace(table, numbered=Numbered(self.sides.static.vocabulary, rows))
        return table, every

    def _stored(
        self,
        items: ItemRows,
        candidate: Ints,
        user: Mapping[str, ViewRows],
        of_rows: Mapping[str, ViewRows],
        rows: LabelledRows,
    ) -> dict[str, Doubles]:
        """Numbers and dates of the views and the context, one per row or one for all rows."""
        columns = {each.name: as_read(each, items.numbers[each.name][candidate], rows.at_us) for each in self._static}
        if self._of_user:
            columns |= stored_numbers(self._of_user, user, None, rows.at_us[:1])
        if self._of_rows:
            columns |= stored_numbers(self._of_rows, of_rows, rows.context, rows.at_us)
        return columns

    def _by_value(self, items: ItemRows, candidate: Ints, rows: LabelledRows, rate: float) -> dict[str, Doubles]:
        if not self._schema.by_value:
            return {}
        columns = {
            each.name: values.take(pa.array(items.attributes.codes[:, at]))
            for at, (each, values) in enumerate(zip(self.sides.static.features, items.attributes.values, strict=True))
        }
        views = {ITEM_ATTRIBUTES: ViewRows(ITEM_ATTRIBUTES, candidate, pa.table(columns))} if columns else {}
        return value_counts(self._schema, self.sides.by_value, views, rows.user_ids, rows.item_ids, rows.at_us, rate)


def fill_built_in(
    numeric: Floats,
    of_items: Counts,
    of_user: Counts,
    items: ItemRows,
    candidate: Ints,
    history: History,
    rows: LabelledRows,
    rate: float,
) -> None:
    """Write the built-in columns of rows (:func:`ranking.data.numeric_features.numeric_columns`)."""
    width = 3 * len(WINDOWS)
    for start, counts in ((0, of_items), (width, of_user)):
        numeric[:, start : start + width : 3] = Counts.filled(counts.exposures)
        numeric[:, start + 1 : start + width : 3] = Counts.filled(counts.clicks)
        numeric[:, start + 2 : start + width : 3] = counts.rate(rate)
    at = 2 * width
    assert of_items.conversions is not None
    numeric[:, at : at + len(WINDOWS)] = Counts.filled(of_items.conversions)
    at += len(WINDOWS)
    age = age_days(rows.at_us, items.created_us[candidate])
    numeric[:, at] = Counts.filled(age)
    numeric[:, at + 1] = np.isnan(age)
    numeric[:, at + 2] = np.maximum(Counts.filled(items.price[candidate]), 0)
    numeric[:, at + 3] = history.length
    ends = np.array([history.newest_us, history.oldest_us])
    numeric[:, at + 4 : at + 6] = Counts.filled(age_days(rows.at_us[:1], ends))
    numeric[:, at + 6] = np.fromiter(map(history.had.__contains__, rows.item_ids), np.bool_, len(rows))
