"""Coded features: per entry the index of a value, and the distinct values once.

Values are categories (string), lists of categories (list<string>) or vectors (list<float>). Index 0 is the missing value.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.feature_views import gathered
from ranking.data.schema import ExtraFeature, Kind
from sidkit.core.arrays import Ints, one_chunk
from sidkit.stores.offline.plan import ViewRows

MISSING = 0
_TYPES: dict[Kind, pa.DataType] = {
    "category": pa.string(),
    "categories": pa.list_(pa.string()),
    "vector": pa.list_(pa.float32()),
}

Codes32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Coded:
    """Coded features of rows or items: ``codes`` int32 [rows, features], indices into ``values``, one Arrow array per feature
    whose entry 0 is null.
    """

    codes: Codes32
    values: tuple[pa.Array, ...] = ()

    @classmethod
    def none(cls, rows: int) -> Coded:
        """No features."""
        return cls(np.zeros((rows, 0), dtype=np.int32))

    def take(self, index: npt.NDArray[np.integer]) -> Coded:
        """Select rows by index; the values are shared."""
        return Coded(self.codes[index], self.values)

    def select(self, columns: Sequence[int]) -> Coded:
        """Select features by index."""
        return Coded(self.codes[:, list(columns)], tuple(self.values[at] for at in columns))


class ValueIndex:
    """Collects the distinct values of some features over several calls; their indices stay valid as values are added."""

    def __init__(self, features: Sequence[ExtraFeature]) -> None:
        self.features = tuple(features)
        self._index: list[dict[object, int]] = [{None: MISSING} for _ in self.features]
        self._listed: list[list[object]] = [[] for _ in self.features]
        self._arrays: list[pa.Array] = [pa.array([], _TYPES[each.kind]) for each in self.features]
        self._converted = [0] * len(self.features)

    @property
    def sizes(self) -> list[int]:
        """Number of values so far, per feature; the missing value counts."""
        return [len(index) for index in self._index]

    def some(self, at: int, codes: npt.NDArray[np.integer]) -> pa.Array:
        """The values of some codes of one feature."""
        array, kind = self._arrays[at], self.features[at].kind
        if len(codes) and int(codes.max()) < len(array):
            return array.take(pa.array(codes))
        index, listed = self._index[at], self._listed[at]
        listed += list(itertools.islice(reversed(index), len(index) - len(listed)))[::-1]
        self._converted[at] += len(codes)
        if kind != "vector" and self._converted[at] >= len(index):  # all at once cost no more than those so far
            self._converted[at] = 0
            self._arrays[at] = pa.array(listed, _TYPES[kind])
        return pa.array([_plain(listed[code]) for code in codes.tolist()], _TYPES[kind])

    def codes(self, views: Mapping[str, ViewRows], context: Mapping[str, pa.Array] | None, rows: int) -> Codes32:
        """Codes ``int32 [rows, features]`` of the rows of some views, and of context columns."""
        codes = np.zeros((rows, len(self.features)), dtype=np.int32)
        for at, feature in enumerate(self.features):
            view = views.get(feature.view)
            if view is not None:
                column, index = _in_order_of_use(one_chunk(view.table.column(feature.name)), view.index)
                codes[:, at] = gathered(self._encode(at, column), index, MISSING)
            elif context is not None and feature.column in context:
                codes[:, at] = self._encode(at, context[feature.column])
        return codes

    def values(self) -> tuple[pa.Array, ...]:
        """The values so far, one array per feature."""
        return tuple(self.values_of(at) for at in range(len(self.features)))

    def values_of(self, at: int) -> pa.Array:
        """The values of one feature so far; the same array until a value is added."""
        index = self._index[at]
        if len(self._arrays[at]) != len(index):
            self._arrays[at] = pa.array([_plain(value) for value in index], _TYPES[self.features[at].kind])
        return self._arrays[at]

    def _encode(self, at: int, column: pa.Array) -> Codes32:
        index = self._index[at]
        if self.features[at].kind == "category":
            encoded = as_text(column).dictionary_encode()
            keys: list[object] = encoded.dictionary.to_pylist()
            distinct = np.array([index.setdefault(key, len(index)) for key in keys], dtype=np.int32)
            return gathered(distinct, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), MISSING)
        if self.features[at].kind == "categories":
            lists = column.cast(pa.list_(pa.string())).to_pylist()
            keys = [None if each is None else tuple(value for value in each if value is not None) for each in lists]
        else:
            keys = _vector_keys(column)
        return np.array([index.setdefault(key, len(index)) for key in keys], dtype=np.int32)


def _in_order_of_use(column: pa.Array, index: Ints) -> tuple[pa.Array, Ints]:
    """The values that rows have, in the order in which rows have them first, and the value of each row (-1: none).

    So the numbers of values do not depend on the order in which an offline store returns feature rows.
    """
    if len(index) == len(column) and bool((index == np.arange(len(index))).all()):
        return column, index
    values, first = np.unique(index[index >= 0], return_index=True)
    used = values[np.argsort(first)]
    place = np.full(len(column) + 1, -1, dtype=np.int64)  # the last one is that of -1
    place[used] = np.arange(len(used))
    return column.take(pa.array(used)), place[index]


def as_text(column: pa.Array) -> pa.Array:
    """A column of text, integers or booleans as text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _vector_keys(column: pa.Array) -> list[object]:
    lists = column.cast(pa.list_(pa.float32()), safe=False)
    flat = pc.fill_null(lists.flatten(), 0.0).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    return [flat[end - length : end].tobytes() if length else None for end, length in zip(ends, lengths, strict=True)]


def _plain(value: object) -> object:
    return np.frombuffer(value, np.float32) if isinstance(value, bytes) else value
