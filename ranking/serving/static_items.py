"""The features of items - vectors, codes, attributes, counts - held in arrays, so that a request does not decode them again.

Rows are read from the packed online store when an item is asked for first, and are used as long as the store still has them:
before each use the marks of the views are compared (:mod:`sidkit.stores.online.marks`). After a write to a static view, an
item's rows are compared with the stored ones by time and checksum; after a write to the counts, they are read again. A row that
was written later is so seen by the next request. The least recently used items make room for others.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.data.coded import MISSING, Coded, ValueIndex
from ranking.data.decoded import DECODED_VECTORS, VectorsOf
from ranking.data.extra_numbers import raw_numbers
from ranking.data.feature_views import CONTENT, SID, numbers
from ranking.data.item_table import NO_CODE, ItemTableBuilder
from ranking.data.schema import ExtraFeature, FeatureSchema, Kind
from ranking.serving.counts import CountedView, Counts
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Bools, Codes, Doubles, Floats, Ints, distinct_below
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, WINDOWS
from sidkit.stores.online.arrow import text_keys
from sidkit.stores.online.checksums import TAIL, event_us
from sidkit.stores.online.reader import PackedView, number_matrix, view_rows_of

if TYPE_CHECKING:
    from ranking.data.vocabulary import Vocabulary
    from ranking.serving.prefix_counts import PrefixCounts
    from sidkit.stores.offline.plan import ViewRows
    from sidkit.stores.online.transactions import Reading

STATIC_BYTES = 256 << 20
"""Default bound of the memory for static item features."""
STATIC_VIEWS = (CONTENT, SID, ITEM_ATTRIBUTES)
_ENTRY_BYTES = 400
"""Python's memory per item, approximately: the id, its key, and their places in a hash table."""
_FIRST_ROWS = 1_024
_EVICTED_SHARE = 16
_WHOLE = 2
"""Values per item of a request up to which a request gets all values of an attribute: choosing its own would cost more."""
_NEVER_US = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class ItemRows:
    """Static features of the distinct items of a request.

    Attributes
    ----------
    place : int64 [ids]
        Index of each id that was asked for into the arrays below.
    ids : object [items]
    codes : int32 [items, levels]
        -1 without codes.
    vectors : float32 [items, dim]
        See :class:`ranking.data.item_table.ItemTable`.
    created_us, price : float64 [items]
        NaN where unknown.
    numbers : mapping
        Number of ``item_attributes`` by its full name -> ``float64 [items]``, dates in microseconds UTC; NaN where missing.
    attributes : Coded
        The coded attributes :attr:`StaticItems.features`. Values that none of these items has may be among them, but at most
        two values per item.
    counts : Counts
        ``item_stats`` of the items in all windows.
    prefixes : int32 [items, depths]
        Places of the prefixes of the codes; see :class:`ranking.serving.request_counts.CodeCountsReader`.
    vocabulary_rows : int64 [items]
        Rows of the ranker's id table; all 0 without a vocabulary.
    known : bool [items]
        Whether any of the views has a row.
    """

    place: Ints
    ids: npt.NDArray[np.object_]
    codes: Codes
    vectors: Floats
    created_us: Doubles
    price: Doubles
    numbers: dict[str, Doubles]
    attributes: Coded
    counts: Counts
    prefixes: Codes
    vocabulary_rows: Ints
    known: Bools


class StaticItems:
    """The features of items in arrays, at most ``most_bytes`` of them; safe to use from several threads.

    Parameters
    ----------
    views : sequence of PackedView
        The static views, with the item as their only key: content, codes and, if there are any, attributes.
    stats : CountedView
        ``item_stats``. Counts change often: after any write to the view they are all read again.
    codebook : Codebook
        Its encoder computes the item vectors, or its quantizer decodes them.
    schema : FeatureSchema
        The features that a ranker reads.
    vectors : str
        See :class:`ranking.serving.features.OnlineFeatures`.
    prefixes : PrefixCounts, optional
        Numbers the prefixes of the items' codes.
    vocabulary : Vocabulary, optional
        The ranker's item ids.
    most_bytes : int
        Bound of the memory. Items beyond it are read from the store whenever they are asked for.
    """

    def __init__(
        self,
        views: Sequence[PackedView],
        stats: CountedView,
        codebook: Codebook,
        schema: FeatureSchema,
        vectors: VectorsOf,
        prefixes: PrefixCounts | None = None,
        vocabulary: Vocabulary | None = None,
        most_bytes: int = STATIC_BYTES,
    ) -> None:
        self._views, self._stats = list(views), stats
        self._stored = [view.stored for view in views]
        self._codebook, self._schema, self._vectors = codebook, schema, vectors
        self.prefixes, self.vocabulary = prefixes, vocabulary
        self.features = _coded_attributes(schema, views)
        self._numbers = FeatureSchema(
            tuple(each for each in schema.numbers if each.view == ITEM_ATTRIBUTES and not each.of)
        )
        self._record = np.dtype(
            [
                ("vectors", "f4", (codebook.encoder.output_dim,)),
                ("codes", "i4", (len(codebook.sizes),)),
                ("plain", "f8", (2 + len(self._numbers.numbers),)),
                ("counts", "f8", (3 * len(WINDOWS),)),
                ("attributes", "i4", (len(self.features),)),
                ("prefixes", "i4", (0 if prefixes is None else len(prefixes.depths),)),
                ("event_us", "i8", (len(views) + 1,)),
                ("vocabulary_row", "i8"),
                ("verified", "i8", (2,)),
            ]
        )
        self._lock = threading.Lock()
        self._marks: tuple[object, ...] = ()
        self._generations = np.zeros(2, dtype=np.int64)
        self._tick = 0
        self._item_bytes = _ENTRY_BYTES + self._record.itemsize + TAIL * len(views)
        self._most = most_bytes // self._item_bytes
        self._clear()

    def __len__(self) -> int:
        return len(self._slot)

    def like(self, other: StaticItems | None) -> StaticItems:
        """The items of another ranker on the same codebook if they have the same features, else these."""
        if other is None or not self._same_as(other):
            return self
        return other

    def _same_as(self, other: StaticItems) -> bool:
        what = ("_views", "_stats", "_vectors", "prefixes", "vocabulary", "features", "_numbers", "_record", "_most")
        return all(getattr(self, name) == getattr(other, name) for name in what)

    @property
    def room(self) -> int:
        """The most items that are held."""
        return self._most

    def look_up(self, reading: Reading, item_ids: Sequence[str], at_us: int) -> ItemRows:
        """The features of items in a snapshot of the store; rows older than a view's TTL at a time are missing.

        Raises
        ------
        TypeError
            When an id is no text.
        """
        with self._lock:
            if len(item_ids) > self._most and (distinct := len(set(item_ids))) > self._most:
                return self._larger(distinct).look_up(reading, item_ids, at_us)
            if sum(self._index.sizes) > 2 * max(len(self.features), 1) * (self._most + _FIRST_ROWS):
                self._clear()  # most values are those of items that are no longer held
            self._compare(reading)
            self._tick += 1
            slots = self._slots(item_ids)
            missing = np.flatnonzero(slots < 0)
            if len(missing):
                self._used[slots[slots >= 0]] = self._tick
                self._add(reading, list(dict.fromkeys(item_ids[at] for at in missing.tolist())))
                slots = self._slots(item_ids)
            distinct_slots, place = distinct_below(slots, len(self._ids))
            self._used[distinct_slots] = self._tick
            records = self._records[distinct_slots]
            outdated = records["verified"] != self._generations
            if outdated.any():
                self._verify(reading, distinct_slots[outdated[:, 0]], distinct_slots[outdated[:, 1]])
                records = self._records[distinct_slots]
            return self._taken(self._ids[distinct_slots], place, records, at_us)

    def _larger(self, items: int) -> StaticItems:
        """An empty one for a single request with more items than are held."""
        return StaticItems(
            self._views, self._stats, self._codebook, self._schema, self._vectors, self.prefixes, self.vocabulary,
            (items + 1) * self._item_bytes,
        )  # fmt: skip

    def _clear(self) -> None:
        self._slot: dict[str, int] = {}
        self._free: list[int] = []
        self._index = ValueIndex(self.features)
        self._records = np.zeros(0, dtype=self._record)
        self._tails = np.zeros((0, len(self._views), TAIL), dtype=np.uint8)
        self._used = np.zeros(0, dtype=np.int64)
        self._keys = np.empty(0, dtype=object)
        self._ids = np.empty(0, dtype=object)

    def _grow(self, rows: int) -> None:
        held = len(self._ids)
        size = min(self._most, max(2 * held, rows, _FIRST_ROWS))
        for name in ("_records", "_tails", "_used", "_keys", "_ids"):
            old = getattr(self, name)
            new = np.zeros((size, *old.shape[1:]), dtype=old.dtype)
            new[:held] = old
            setattr(self, name, new)
        self._free += range(size - 1, held - 1, -1)

    def _slots(self, item_ids: Sequence[str]) -> Ints:
        return np.fromiter(map(self._slot.get, item_ids, repeat(-1)), np.int64, len(item_ids))

    def _compare(self, reading: Reading) -> None:
        marks = reading.marks([*self._stored, self._stats.view.stored])
        if marks != self._marks:
            same_views = self._marks[:-1] == marks[:-1] and len(marks) == len(self._stored) + 1
            self._marks = marks
            self._generations += [0 if same_views else 1, 1]

    def _verify(self, reading: Reading, static: Ints, counted: Ints) -> None:
        """Read those rows again that are not the stored ones any more."""
        if len(static):
            tails = _tails_of(reading.tails(self._stored, self._keys[static].tolist()))
            changed = static[(tails != self._tails[static]).any(axis=(1, 2))]
            if len(changed):
                self._read(reading, changed)
            self._records["verified"][static, 0] = self._generations[0]
        if len(counted):
            self._count(reading, counted)

    def _add(self, reading: Reading, item_ids: list[str]) -> None:
        keys = text_keys("item_id", item_ids)
        if keys is None:
            raise TypeError("expected texts as item ids")
        lacking = len(item_ids) - len(self._free)
        if lacking > 0 and len(self._ids) < self._most:
            self._grow(len(self._slot) + len(item_ids))
            lacking = len(item_ids) - len(self._free)
        if lacking > 0:
            self._evict(lacking)
        slots = np.array([self._free.pop() for _ in item_ids], dtype=np.int64)
        self._keys[slots], self._ids[slots] = keys, item_ids
        try:
            self._read(reading, slots)
            self._count(reading, slots)
        except BaseException:
            self._free += slots.tolist()
            raise
        if self.vocabulary is not None:
            self._records["vocabulary_row"][slots] = self.vocabulary.numbers(self._ids[slots])
        self._used[slots] = self._tick
        self._slot.update(zip(item_ids, slots.tolist(), strict=True))

    def _evict(self, least: int) -> None:
        """Forget the items that were used longest ago, but none that this request uses."""
        filled = np.fromiter(self._slot.values(), np.int64, len(self._slot))
        idle = filled[self._used[filled] < self._tick]
        count = min(max(least, self._most // _EVICTED_SHARE), len(idle))
        oldest = idle[np.argpartition(self._used[idle], count - 1)[:count]]
        for item in self._ids[oldest].tolist():
            del self._slot[item]
        self._free += oldest.tolist()

    def _read(self, reading: Reading, slots: Ints) -> None:
        """Read the static rows of slots, whose ids and keys are set."""
        found = reading.fetch(tuple(self._stored), self._keys[slots].tolist())
        tails = _tails_of([tuple(None if row is None else row[-TAIL:] for row in rows) for rows in found])
        rows = zip(*found, strict=True)
        views = {view.name: view_rows_of(reading, view, each) for view, each in zip(self._views, rows, strict=True)}
        builder = ItemTableBuilder(self._codebook, FeatureSchema(), self._vectors, one_moment=True)
        places = builder.add(self._ids[slots], views)
        table = builder.table()
        records = self._records
        records["codes"][slots], records["vectors"][slots] = table.codes[places], table.content[places]
        records["plain"][slots] = self._numbers_of(views, len(slots))
        records["attributes"][slots] = self._index.codes(views, None, len(slots))
        if self.prefixes is not None:
            records["prefixes"][slots] = self.prefixes.places(table.codes[places])
        records["event_us"][slots, : len(self._views)] = [list(map(_event_us, rows)) for rows in found]
        records["verified"][slots, 0] = self._generations[0]
        self._tails[slots] = tails

    def _count(self, reading: Reading, slots: Ints) -> None:
        """Read the counts of slots."""
        view = self._stats.view
        rows = [row for (row,) in reading.fetch((view.stored,), self._keys[slots].tolist())]
        self._records["counts"][slots] = number_matrix(reading, view, self._stats.features, rows)
        self._records["event_us"][slots, -1] = list(map(_event_us, rows))
        self._records["verified"][slots, 1] = self._generations[1]

    def _numbers_of(self, views: dict[str, ViewRows], rows: int) -> Doubles:
        plain = np.empty((rows, 2 + len(self._numbers.numbers)))
        plain[:, 0], plain[:, 1] = numbers(views[CONTENT], "created_at_us"), numbers(views[CONTENT], "price")
        for at, column in enumerate(raw_numbers(self._numbers, views, None, rows).values(), start=2):
            plain[:, at] = column
        return plain

    def _taken(self, ids: npt.NDArray[np.object_], place: Ints, records: npt.NDArray[np.void], at_us: int) -> ItemRows:
        present = records["event_us"] != _NEVER_US
        for at, view in enumerate([*self._views, self._stats.view]):
            if view.ttl_us is not None:
                old = present[:, at] & (records["event_us"][:, at] < at_us - view.ttl_us)
                present[old, at] = False
                self._blank(records, view.name, old)
        plain, counts = records["plain"], Counts.of(records["counts"], len(WINDOWS))
        return ItemRows(
            place,
            ids,
            records["codes"],
            records["vectors"],
            plain[:, 0],
            plain[:, 1],
            {each.name: plain[:, at] for at, each in enumerate(self._numbers.numbers, start=2)},
            self._compact(records["attributes"]),
            counts,
            records["prefixes"],
            records["vocabulary_row"],
            present.any(axis=1),
        )

    def _blank(self, records: npt.NDArray[np.void], view: str, old: Bools) -> None:
        """Make the features of a view missing."""
        if view == CONTENT:
            records["plain"][old, :2] = np.nan
        elif view == SID:
            records["codes"][old] = NO_CODE
            records["prefixes"][old] = 0
        elif view == ITEM_ATTRIBUTES:
            records["plain"][old, 2:] = np.nan
            records["attributes"][old] = MISSING
        else:
            records["counts"][old] = np.nan
        if view == (SID if self._vectors == DECODED_VECTORS else CONTENT):
            records["vectors"][old] = 0

    def _compact(self, attributes: Codes) -> Coded:
        """The attributes of some items, with few more values than those items have."""
        codes, values = np.ascontiguousarray(attributes), []
        for at, (feature, size) in enumerate(zip(self.features, self._index.sizes, strict=True)):
            if size <= _WHOLE * len(codes) and feature.kind != "vector":
                values.append(self._index.values_of(at))
                continue
            used, back = distinct_below(np.append(codes[:, at], MISSING), size)
            codes[:, at] = back[:-1]
            values.append(self._index.some(at, used))
        return Coded(codes, tuple(values))


def _coded_attributes(schema: FeatureSchema, views: Sequence[PackedView]) -> tuple[ExtraFeature, ...]:
    """Coded attributes of items that a ranker reads, and those with whose values it reads counts."""
    features = {each.name: each for each in schema.item_read if each.view == ITEM_ATTRIBUTES}
    kinds = {column: kind for view in views for _, column, kind in view.columns}
    for attribute in schema.by_value.values():
        name = f"{ITEM_ATTRIBUTES}__{attribute}"
        if name in kinds and name not in features:
            kind: Kind = "categories" if kinds[name].endswith("_LIST") else "category"
            features[name] = ExtraFeature(name, kind, ITEM_ATTRIBUTES, of_item=True)
    return tuple(features.values())


def _event_us(row: bytes | None) -> int:
    return _NEVER_US if row is None else event_us(row)


def _tails_of(tails: Sequence[tuple[bytes | None, ...]]) -> npt.NDArray[np.uint8]:
    """``uint8 [rows, views, TAIL]``; zero without a row."""
    none = bytes(TAIL)
    joined = b"".join([none if each is None else each for row in tails for each in row])
    return np.frombuffer(joined, np.uint8).reshape(len(tails), -1, TAIL)
