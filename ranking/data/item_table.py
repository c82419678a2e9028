"""The distinct items of a dataset: one entry per version of content, codes and attributes, to which rows refer by index.

Index 0 is padding. An item whose content and codes were not yet available at a row's time is a separate entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ranking.data.coded import Coded, ValueIndex
from ranking.data.decoded import CONTENT_VECTORS, DECODED_VECTORS, VectorsOf
from ranking.data.feature_views import CONTENT, SID
from ranking.data.grown import Grown
from ranking.data.schema import FeatureSchema
from semantic_ids.codebook import Codebook
from semantic_ids.item_vectors import ItemVectors
from sidkit.core.arrays import Codes, Floats, Ints, one_chunk
from sidkit.core.hashing import GOLDEN_GAMMA
from sidkit.stores.offline.plan import ViewRows

PADDING = 0
NO_CODE = -1

_MISSING = np.uint64(0)


@dataclass(frozen=True)
class Numbered:
    """Rows of item versions in the id table of one vocabulary, ``int64 [items]``, where they were looked up before."""

    vocabulary: object
    rows: Ints


@dataclass(frozen=True)
class ItemTable:
    """Distinct item versions.

    ``ids`` ``object [items]``; ``codes`` ``int32 [items, levels]``, -1 for items without codes; ``content`` ``float32
    [items, dim]``, the item vectors as of the row: with ``vectors`` ``"content"`` the encoder's vectors of the content, zero
    without content; with ``"decoded"`` what the codes stand for in the encoder's space, zero without codes; ``attributes``,
    the coded features of items (:attr:`ranking.data.schema.FeatureSchema.item_coded`), None without any. Entry 0 is padding.
    ``numbered`` saves another look-up of the ids.
    """

    ids: npt.NDArray[np.object_]
    codes: npt.NDArray[np.int32]
    content: npt.NDArray[np.float32]
    attributes: Coded | None = None
    vectors: VectorsOf = CONTENT_VECTORS
    numbered: Numbered | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Ints) -> ItemTable:
        """Select item versions by index ``int64 [items]``."""
        known = self.numbered
        return replace(
            self,
            ids=self.ids[index],
            codes=self.codes[index],
            content=self.content[index],
            attributes=self.attributes.take(index) if self.attributes is not None else None,
            numbered=replace(known, rows=known.rows[index]) if known is not None else None,
        )

    def decoded(self, decode: Callable[[Codes], Floats]) -> ItemTable:
        """The same item versions with vectors decoded from their codes instead of the encoder's.

        Parameters
        ----------
        decode : callable
            Codes ``int32 [items, levels]``, -1 for items without codes -> vectors ``float32 [items, dim]``, zero for those:
            :meth:`semantic_ids.codebook.Codebook.decode`. Shuffled or random codes give the vectors of those codes.
        """
        return replace(self, content=decode(self.codes), vectors=DECODED_VECTORS)


@dataclass
class ItemTableBuilder:
    """Collects item versions over several retrievals and assigns their indices.

    With ``vectors`` ``"decoded"``, the vectors of items come from their codes: the content vectors of the views are not read,
    and may be missing. With ``one_moment``, all rows have the same time, and an item has the version that is added first.
    """

    codebook: Codebook
    schema: FeatureSchema = field(default_factory=FeatureSchema)
    vectors: VectorsOf = CONTENT_VECTORS
    one_moment: bool = False
    _number: dict[tuple[str, int, int, bytes], int] = field(default_factory=dict)
    _identity: dict[str, int] = field(default_factory=lambda: {"": 0})
    _ids: list[str] = field(default_factory=lambda: [""])
    _content: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._codes = Grown(np.full((1, len(self.codebook.sizes)), NO_CODE, dtype=np.int32))
        self._content.append(np.zeros((1, self.codebook.encoder.output_dim), dtype=np.float32))
        self._index = ValueIndex(self.schema.item_read)
        self._attributes = Grown(np.zeros((1, len(self.schema.item_read)), dtype=np.int32))
        self._identities = Grown(np.zeros(1, dtype=np.int64))

    def add(self, item_ids: npt.NDArray[np.object_], views: Mapping[str, ViewRows]) -> Ints:
        """Add the items of some rows.

        Parameters
        ----------
        item_ids : object [rows]
            The items.
        views : mapping
            Their content, codes and attributes, as of each row.

        Returns
        -------
        numpy.ndarray
            Indices into the table, ``int64 [rows]``.
        """
        if len(item_ids) == 0:
            return np.zeros(0, dtype=np.int64)
        content, sid = views[CONTENT], views[SID]
        attributes = self._index.codes(views, None, len(item_ids))
        if self.one_moment:
            return self._added_once(item_ids, content, sid, attributes)
        content_hashes = self._content_hashes(content)
        code_hashes = _row_hashes(sid.table.select([f"{SID}__codes"]))
        place, names = pd.factorize(item_ids)
        group_of = _groups(place, content.index + 1, sid.index + 1, *attributes.T)
        first = np.unique(group_of, return_index=True)[1]
        numbers = np.empty(len(first), dtype=np.int64)
        fresh = []
        for at, row in enumerate(first.tolist()):
            at_content, at_sid = int(content.index[row]), int(sid.index[row])
            key = (
                names[place[row]],
                int(content_hashes[at_content]) if at_content >= 0 else 0,
                int(code_hashes[at_sid]) if at_sid >= 0 else 0,
                attributes[row].tobytes(),
            )
            if key not in self._number:
                self._number[key] = len(self._ids)
                self._ids.append(key[0])
                fresh.append(row)
            numbers[at] = self._number[key]
        if fresh:
            self._append(np.array(fresh, dtype=np.int64), content, sid)
            self._attributes.extend(attributes[fresh])
            known = self._identity
            self._identities.extend(np.array([known.setdefault(names[place[row]], len(known)) for row in fresh]))
        indices: Ints = numbers[group_of]
        return indices

    def _added_once(
        self, item_ids: npt.NDArray[np.object_], content: ViewRows, sid: ViewRows, attributes: npt.NDArray[np.int32]
    ) -> Ints:
        """Add the rows of items that were not added yet; ``_identity`` numbers the items, and so their only versions."""
        number = self._identity
        before = len(number)
        indices: Ints = np.array([number.setdefault(item, len(number)) for item in item_ids.tolist()], dtype=np.int64)
        if len(number) > before:
            new, first = np.unique(indices, return_index=True)
            fresh = first[new >= before]
            self._ids += item_ids[fresh].tolist()
            self._append(fresh, content, sid)
            self._attributes.extend(attributes[fresh])
            self._identities.extend(np.arange(before, len(number)))
        return indices

    def _content_hashes(self, content: ViewRows) -> npt.NDArray[np.uint64]:
        if self.vectors == DECODED_VECTORS:
            return np.full(len(content.table), _MISSING)
        columns = [f"{CONTENT}__{name}" for name in self.codebook.encoder.modalities_]
        return _row_hashes(content.table.select(columns))

    @property
    def identities(self) -> Ints:
        """A number per entry so far, ``int64 [items]``: the same for all versions of an item, 0 for padding."""
        return self._identities.array

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """The codes of all entries so far, ``int32 [items, levels]``; -1 in an item without."""
        return self._codes.array

    @property
    def attributes(self) -> Coded:
        """The coded features (:attr:`ranking.data.schema.FeatureSchema.item_read`) of all entries so far."""
        return Coded(self._attributes.array, self._index.values())

    def _append(self, fresh: Ints, content: ViewRows, sid: ViewRows) -> None:
        at_sid = sid.index[fresh]
        has_codes = at_sid >= 0
        codes = np.full((len(fresh), len(self.codebook.sizes)), NO_CODE, dtype=np.int32)
        if has_codes.any():
            column = sid.table.column(f"{SID}__codes").take(pa.array(at_sid[has_codes]))
            present = column.is_valid().to_numpy()
            rows = np.flatnonzero(has_codes)[present]
            flat = column.combine_chunks().flatten() if present.any() else pa.array([], pa.int64())
            codes[rows] = np.asarray(flat).reshape(len(rows), len(self.codebook.sizes))
        self._codes.extend(codes)
        decoded = self.vectors == DECODED_VECTORS
        self._content.append(self.codebook.decode(codes) if decoded else self._encoded(content, content.index[fresh]))

    def _encoded(self, content: ViewRows, rows: Ints) -> npt.NDArray[np.float32]:
        """The encoder's vectors of rows of the content view, zero for -1, ``float32 [rows, dim]``."""
        vectors = np.zeros((len(rows), self._content[0].shape[1]), dtype=np.float32)
        present = rows >= 0
        if present.any():
            wanted = rows[present]
            is_whole = len(wanted) == len(content.table) and bool((wanted == np.arange(len(wanted))).all())
            taken = content.table if is_whole else content.table.take(pa.array(wanted))
            items = ItemVectors.from_arrow(taken, self.codebook.encoder.modalities_, prefix=f"{CONTENT}__")
            vectors[present] = self.codebook.vectors(items)
        return vectors

    def table(self) -> ItemTable:
        """All items so far."""
        ids = np.array(self._ids, dtype=object)
        model = range(len(self.schema.item_coded))
        attributes = self.attributes.select(model) if model else None
        return ItemTable(ids, self.codes.copy(), np.concatenate(self._content), attributes, self.vectors)


def _groups(*columns: npt.NDArray[Any]) -> Ints:
    """A number per row, the same for rows that are equal in all columns of non-negative integers."""
    groups = columns[0].astype(np.int64)
    for column in columns[1:]:
        groups = pd.factorize(groups * (int(column.max()) + 1) + column)[0].astype(np.int64)
    return groups


def shown_items(candidate: npt.NDArray[np.int32], at_us: Ints, items: int) -> tuple[Ints, Ints]:
    """Exposures of each item: the number of rows with it as candidate, ``int64 [items]``, and the time of the first,
    ``int64 [items]`` microseconds UTC (the maximum int64 without any).
    """
    shown = np.bincount(candidate, minlength=items).astype(np.int64)
    first_us = np.full(items, np.iinfo(np.int64).max)
    np.minimum.at(first_us, candidate, at_us)
    return shown, first_us


def _row_hashes(table: pa.Table) -> npt.NDArray[np.uint64]:
    """A 64-bit hash per row of list columns, by value; never 0."""
    hashes = np.full(len(table), GOLDEN_GAMMA, dtype=np.uint64)
    for column in table.columns:
        hashes = hashes * np.uint64(0xBF58476D1CE4E5B9) + _list_hashes(column)
    return np.where(hashes == _MISSING, np.uint64(1), hashes)


def _list_hashes(column: Any) -> npt.NDArray[np.uint64]:
    array = one_chunk(column)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(valid, np.nan_to_num(array.value_lengths().to_numpy(zero_copy_only=False)), 0).astype(np.int64)
    flat = array.flatten().to_numpy(zero_copy_only=False)
    # The online store returns float32 values as float64; cast back so that equal values have equal hashes.
    flat = flat.astype(np.float32).view(np.uint32) if flat.dtype.kind == "f" else flat.astype(np.int64)
    ends = np.cumsum(lengths)
    position = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
    with np.errstate(over="ignore"):
        mixed = (flat.astype(np.uint64) + np.uint64(1)) * _position_weights(int(lengths.max(initial=0)))[position]
        mixed ^= mixed >> np.uint64(29)
        total = np.concatenate([[np.uint64(0)], np.cumsum(mixed, dtype=np.uint64)])
        return np.where(valid, total[ends] - total[ends - lengths] + lengths.astype(np.uint64), np.uint64(0))


def _position_weights(count: int) -> npt.NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    return rng.integers(1, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
