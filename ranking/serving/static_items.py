"""What rarely changes of an item - vectors, codes, attributes - held in arrays, so that a request does not decode it again.

Rows are read from the packed online store when an item is asked for first, and are used as long as the store still has them:
before each use the marks of the views are compared (:mod:`sidkit.stores.online.marks`), and after a write to one of them an
item's rows are compared with the stored ones by time and checksum. A row that was written later is so seen by the next request.
The least recently used items make room for others.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranking.data.coded import MISSING, Coded, ValueIndex
from ranking.data.decoded import DECODED_VECTORS, VectorsOf
from ranking.data.extra_numbers import raw_numbers
from ranking.data.feature_views import CONTENT, SID, numbers
from ranking.data.item_table import NO_CODE, ItemTableBuilder
from ranking.data.schema import ExtraFeature, FeatureSchema, Kind
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Bools, Codes, Doubles, Floats, Ints
from sidkit.core.feature_settings import ITEM_ATTRIBUTES
from sidkit.stores.online.arrow import text_keys
from sidkit.stores.online.checksums import TAIL, us_of
from sidkit.stores.online.reader import PackedView, view_rows_of

if TYPE_CHECKING:
    from sidkit.stores.offline.plan import ViewRows
    from sidkit.stores.online.sqlite_file import Reading

STATIC_BYTES = 256 << 20
"""Default bound of the memory for static item features."""
STATIC_VIEWS = (CONTENT, SID, ITEM_ATTRIBUTES)
_ENTRY_BYTES = 420
"""Python's memory per item, approximately: the id, its key, and their places in a hash table."""
_FIRST_ROWS = 1_024
_EVICTED_SHARE = 16
_NEVER_US = np.iinfo(np.int64).min


@dataclass(frozen=True)
class ItemRows:
    """Static features of the distinct items of a request.

    Attributes
    ----------
    place : int64 [ids]
        Index of each id that was asked for into the arrays below.
    ids : object [items]
    keys : list of bytes
        Keys of the items in the store.
    codes : int32 [items, levels]
        -1 without codes.
    vectors : float32 [items, dim]
        See :class:`ranking.data.item_table.ItemTable`.
    created_us, price : float64 [items]
        NaN where unknown.
    numbers : mapping
        Number of ``item_attributes`` by its full name -> ``float64 [items]``, dates in microseconds UTC; NaN where missing.
    attributes : Coded
        The coded attributes :attr:`StaticItems.features`, with the values of these items only.
    known : bool [items]
        Whether any of the views has a row.
    """

    place: Ints
    ids: npt.NDArray[np.object_]
    keys: list[bytes]
    codes: Codes
    vectors: Floats
    created_us: Doubles
    price: Doubles
    numbers: dict[str, Doubles]
    attributes: Coded
    known: Bools


class StaticItems:
    """The static features of items, at most ``most_bytes`` of them; safe to use from several threads.

    Parameters
    ----------
    views : sequence of PackedView
        The static views, with the item as their only key: content, codes and, if there are any, attributes.
    codebook : Codebook
        Its encoder computes the item vectors, or its quantizer decodes them.
    schema : FeatureSchema
        The features that a ranker reads.
    vectors : str
        See :class:`ranking.serving.features.OnlineFeatures`.
    most_bytes : int
        Bound of the memory. Items beyond it are read from the store whenever they are asked for.
    """

    def __init__(
        self,
        views: Sequence[PackedView],
        codebook: Codebook,
        schema: FeatureSchema,
        vectors: VectorsOf,
        most_bytes: int = STATIC_BYTES,
    ) -> None:
        self._views = list(views)
        self._stored = [view.stored for view in views]
        self._codebook = codebook
        self._schema = schema
        self._vectors = vectors
        self.features = _coded_attributes(schema, views)
        self._numbers = FeatureSchema(
            tuple(each for each in schema.numbers if each.view == ITEM_ATTRIBUTES and not each.of)
        )
        self._levels, self._dim = len(codebook.sizes), codebook.encoder.output_dim
        self._columns = 2 + len(self._numbers.numbers)
        self._lock = threading.Lock()
        self._marks: tuple[object, ...] | None = None
        self._generation = self._tick = 0
        self._item_bytes = _ENTRY_BYTES + sum(each.nbytes for each in self._arrays(1))
        self._most = most_bytes // self._item_bytes
        self._clear()

    def __len__(self) -> int:
        return len(self._slot)

    @property
    def room(self) -> int:
        """The most items that are held."""
        return self._most

    def look_up(self, reading: Reading, item_ids: Sequence[str], at_us: int) -> ItemRows:
        """The features of items in a snapshot of the store; rows older than a view's TTL at a time are missing."""
        with self._lock:
            if len(item_ids) > self._most and (distinct := len(set(item_ids))) > self._most:
                return self._larger(distinct).look_up(reading, item_ids, at_us)
            if sum(self._index.sizes) > 2 * max(len(self.features), 1) * (self._most + _FIRST_ROWS):
                self._clear()  # most values are those of items that are no longer held
            self._compare(reading)
            self._tick += 1
            slots = self._slots(item_ids)
            missing = slots < 0
            held = slots[~missing]
            self._used[held] = self._tick
            outdated = np.unique(held[self._verified[held] != self._generation])
            if len(outdated):
                self._verify(reading, outdated)
            if missing.any():
                self._add(reading, list(dict.fromkeys(item_ids[at] for at in np.flatnonzero(missing).tolist())))
                slots = self._slots(item_ids)
            return self._taken(slots, at_us)

    def _larger(self, items: int) -> StaticItems:
        """An empty one for a single request with more items than are held."""
        return StaticItems(self._views, self._codebook, self._schema, self._vectors, (items + 1) * self._item_bytes)

    def _arrays(self, rows: int) -> list[npt.NDArray[Any]]:
        return [
            np.zeros((rows, self._levels), dtype=np.int32),
            np.zeros((rows, self._dim), dtype=np.float32),
            np.zeros((rows, self._columns), dtype=np.float64),
            np.zeros((rows, len(self.features)), dtype=np.int32),
            np.zeros((rows, len(self._views), TAIL), dtype=np.uint8),
            np.zeros((rows, len(self._views)), dtype=np.int64),
            np.zeros(rows, dtype=np.int64),
            np.zeros(rows, dtype=np.int64),
            np.empty(rows, dtype=object),
            np.empty(rows, dtype=object),
        ]

    def _clear(self) -> None:
        self._slot: dict[str, int] = {}
        self._free: list[int] = []
        self._index = ValueIndex(self.features)
        self._set(self._arrays(0))

    def _set(self, arrays: list[npt.NDArray[Any]]) -> None:
        self._codes, self._content, self._plain, self._attributes = arrays[:4]
        self._tails, self._event_us, self._verified, self._used, self._keys, self._ids = arrays[4:]

    def _grow(self, rows: int) -> None:
        before = [
            self._codes, self._content, self._plain, self._attributes, self._tails, self._event_us, self._verified,
            self._used, self._keys, self._ids,
        ]  # fmt: skip
        held = len(self._ids)
        after = self._arrays(min(self._most, max(2 * held, rows, _FIRST_ROWS)))
        for old, new in zip(before, after, strict=True):
            new[:held] = old
        self._free += range(len(after[0]) - 1, held - 1, -1)
        self._set(after)

    def _slots(self, item_ids: Sequence[str]) -> Ints:
        return np.fromiter(map(self._slot.get, item_ids, repeat(-1)), np.int64, len(item_ids))

    def _compare(self, reading: Reading) -> None:
        marks = reading.marks(self._stored)
        if marks != self._marks:
            self._marks, self._generation = marks, self._generation + 1

    def _verify(self, reading: Reading, slots: Ints) -> None:
        """Read those rows again that are not the stored ones any more."""
        keys = self._keys[slots].tolist()
        changed = np.flatnonzero((_tails_of(reading.tails(self._stored, keys)) != self._tails[slots]).any(axis=(1, 2)))
        if len(changed):
            self._read(reading, slots[changed])
        self._verified[slots] = self._generation

    def _add(self, reading: Reading, item_ids: list[str]) -> None:
        lacking = len(item_ids) - len(self._free)
        if lacking > 0 and len(self._ids) < self._most:
            self._grow(len(self._slot) + len(item_ids))
            lacking = len(item_ids) - len(self._free)
        if lacking > 0:
            self._evict(lacking)
        keys = text_keys("item_id", item_ids)
        assert keys is not None
        slots = np.array([self._free.pop() for _ in item_ids], dtype=np.int64)
        self._keys[slots], self._ids[slots] = keys, item_ids
        self._read(reading, slots)
        self._verified[slots], self._used[slots] = self._generation, self._tick
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
        """Read the rows of slots, whose ids and keys are set."""
        found = reading.fetch(self._stored, self._keys[slots].tolist())
        tails = _tails_of([tuple(None if row is None else row[-TAIL:] for row in rows) for rows in found])
        rows = zip(*found, strict=True)
        views = {view.name: view_rows_of(reading, view, each) for view, each in zip(self._views, rows, strict=True)}
        item_ids = self._ids[slots]
        builder = ItemTableBuilder(self._codebook, FeatureSchema(), self._vectors, one_moment=True)
        places = builder.add(item_ids, views)
        table = builder.table()
        self._codes[slots], self._content[slots] = table.codes[places], table.content[places]
        self._plain[slots] = self._numbers_of(views, len(slots))
        self._attributes[slots] = self._index.codes(views, None, len(slots))
        self._tails[slots] = tails
        times = [[_NEVER_US if row is None else us_of(row[-TAIL : 8 - TAIL]) for row in rows] for rows in found]
        self._event_us[slots] = times

    def _numbers_of(self, views: dict[str, ViewRows], rows: int) -> Doubles:
        plain = np.empty((rows, self._columns))
        plain[:, 0], plain[:, 1] = numbers(views[CONTENT], "created_at_us"), numbers(views[CONTENT], "price")
        for at, column in enumerate(raw_numbers(self._numbers, views, None, rows).values(), start=2):
            plain[:, at] = column
        return plain

    def _taken(self, slots: Ints, at_us: int) -> ItemRows:
        distinct, place = np.unique(slots, return_inverse=True)
        codes, vectors, plain = self._codes[distinct], self._content[distinct], self._plain[distinct]
        attributes = self._attributes[distinct]
        present = self._event_us[distinct] != _NEVER_US
        for at, view in enumerate(self._views):
            if view.ttl_us is not None:
                old = present[:, at] & (self._event_us[distinct, at] < at_us - view.ttl_us)
                present[old, at] = False
                decoded = self._vectors == DECODED_VECTORS
                if view.name == CONTENT:
                    plain[old, :2] = np.nan
                if view.name == SID:
                    codes[old] = NO_CODE
                if view.name == ITEM_ATTRIBUTES:
                    plain[old, 2:], attributes[old] = np.nan, 0
                if view.name == (SID if decoded else CONTENT):
                    vectors[old] = 0
        named = {each.name: plain[:, at] for at, each in enumerate(self._numbers.numbers, start=2)}
        return ItemRows(
            place.astype(np.int64).ravel(),
            self._ids[distinct],
            self._keys[distinct].tolist(),
            codes,
            vectors,
            plain[:, 0],
            plain[:, 1],
            named,
            self._compact(attributes),
            present.any(axis=1),
        )

    def _compact(self, attributes: Codes) -> Coded:
        codes, values = np.zeros_like(attributes), []
        for at, column in enumerate(attributes.T):
            used, back = np.unique(np.concatenate([[MISSING], column]), return_inverse=True)
            codes[:, at] = back.ravel()[1:]
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


def _tails_of(tails: Sequence[tuple[bytes | None, ...]]) -> npt.NDArray[np.uint8]:
    """``uint8 [rows, views, TAIL]``; zero without a row."""
    none = bytes(TAIL)
    joined = b"".join([none if each is None else each for row in tails for each in row])
    return np.frombuffer(joined, np.uint8).reshape(len(tails), -1, TAIL)
