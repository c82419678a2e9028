"""Numbering of join keys: keys of any type and number of columns become one dense integer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.arrays import Ints
from sidkit.stores.keys import is_binary, is_text

Column: TypeAlias = pa.Array | pa.ChunkedArray
_MOST_WAITING = 2**22


class UnlikeKeysError(TypeError):
    """Key types that differ; :func:`sidkit.stores.keys.as_declared` converts both sides to one type first."""


@dataclass(frozen=True)
class _Numbering:
    """Numbering of one column: by offset in a dense integer range, or by index in the distinct values."""

    kind: pa.DataType
    low: int
    count: int
    values: pa.Array | None

    @classmethod
    def learn(cls, column: Column) -> tuple[_Numbering, Ints]:
        column = _canonical(column)
        if pa.types.is_int64(column.type) and column.null_count == 0 and len(column):
            bounds = pc.min_max(column)
            low, high = int(bounds["min"].as_py()), int(bounds["max"].as_py())
            if high - low < 4 * len(column) + 1024:
                return cls(column.type, low, high - low + 1, None), _int64(column) - low
        encoded = pc.dictionary_encode(column, null_encoding="encode")
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], column.type).dictionary_encode()
        codes = encoded.indices.to_numpy().astype(np.int64)
        return cls(column.type, 0, len(encoded.dictionary), encoded.dictionary), codes

    def look_up(self, column: Column) -> Ints:
        column = _converted(column, self.kind)
        if self.values is not None:
            return _int64(pc.index_in(column, value_set=self.values).fill_null(-1))
        code = _int64(column.fill_null(self.low)) - self.low
        known = (code >= 0) & (code < self.count)
        if column.null_count:
            known &= _bool(pc.is_valid(column))
        return np.where(known, code, -1)


class GrowingNumbers:
    """Numbers the distinct values of a column without nulls that is given in parts, in the order of their first row.

    Parts wait until they have as many rows as there are known values, since every numbering hashes all of these.

    Parameters
    ----------
    rows : int
        Number of rows of the column.
    """

    def __init__(self, rows: int) -> None:
        self._codes = np.empty(rows, dtype=np.int32)
        self._numbered = 0
        self._values: pa.Array | None = None
        self._waiting: list[pa.Array] = []
        self._rows_waiting = 0

    def add(self, column: Column) -> None:
        """Add the next rows."""
        column = _canonical(column)
        self._waiting += column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        self._rows_waiting += len(column)
        if self._rows_waiting >= min(len(self._values) if self._values is not None else 0, _MOST_WAITING):
            self._number()

    def codes(self) -> npt.NDArray[np.int32]:
        """The numbers of all rows that were added, ``int32 [rows]``."""
        self._number()
        return self._codes

    def _number(self) -> None:
        if not self._waiting:
            return
        encoded = pa.concat_arrays(self._waiting).dictionary_encode()
        if self._values is None:
            self._values = encoded.dictionary.slice(0, 0)
        place = pc.index_in(encoded.dictionary, value_set=self._values)
        fresh = encoded.dictionary.filter(pc.is_null(place))
        number = place.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        number[number < 0] = np.arange(len(self._values), len(self._values) + len(fresh), dtype=np.int32)
        self._values = pa.concat_arrays([self._values, fresh])
        end = self._numbered + self._rows_waiting
        self._codes[self._numbered : end] = number[encoded.indices.to_numpy()]
        self._numbered, self._waiting, self._rows_waiting = end, [], 0

    @property
    def numbering(self) -> _Numbering:
        """The numbering of all values so far."""
        values = self._values if self._values is not None else pa.array([], pa.large_string())
        return _Numbering(values.type, 0, len(values), values)


@dataclass(frozen=True)
class KeyNumbers:
    """Numbering of the keys of one table, from 0 to ``count - 1``."""

    count: int
    columns: tuple[_Numbering, ...]
    pairs: tuple[_Numbering, ...]

    @classmethod
    def learn(cls, keys: Sequence[Column], rows: int) -> tuple[KeyNumbers, Ints]:
        """Number the keys of a table.

        Parameters
        ----------
        keys : sequence of arrays
            Columns of equal length; if empty, all rows have key 0.
        rows : int
            Number of rows.

        Returns
        -------
        KeyNumbers, numpy.ndarray
            The numbering, and the numbers of the rows, ``int64 [rows]``.
        """
        if not keys:
            return cls(1, (), ()), np.zeros(rows, dtype=np.int64)
        numbers, code = cls._of_numbered(map(_Numbering.learn, keys))
        return numbers, code.astype(np.int64, copy=False)

    @classmethod
    def of_columns(cls, columns: Sequence[GrowingNumbers]) -> tuple[KeyNumbers, npt.NDArray[np.integer]]:
        """The numbering of keys whose columns are numbered, and the numbers of the rows: an integer array ``[rows]``."""
        codes = [each.codes() for each in columns]  # which completes the numberings
        return cls._of_numbered(zip((each.numbering for each in columns), codes, strict=True))

    @classmethod
    def _of_numbered(
        cls, columns: Iterable[tuple[_Numbering, npt.NDArray[np.integer]]]
    ) -> tuple[KeyNumbers, npt.NDArray[np.integer]]:
        """The numbering of keys by those of their columns, of which there is one at least, and the numbers of the rows."""
        given = iter(columns)
        first, code = next(given)
        count, numberings, pairs = first.count, [first], list[_Numbering]()
        for numbering, column_code in given:
            numberings.append(numbering)
            pair, code = _Numbering.learn(pa.array(code.astype(np.int64, copy=False) * numbering.count + column_code))
            pairs.append(pair)
            count = pair.count
        return cls(count, tuple(numberings), tuple(pairs)), code

    def look_up(self, keys: Sequence[Column], rows: int) -> Ints:
        """Numbers of other rows' keys; -1 (or a number without rows) for unknown keys, -1 for null keys.

        Raises
        ------
        UnlikeKeysError
            When a column's type differs from the table's.
        """
        if not keys:
            return np.zeros(rows, dtype=np.int64)
        code = self.columns[0].look_up(keys[0])
        for column, numbering, pair in zip(keys[1:], self.columns[1:], self.pairs, strict=True):
            column_code = numbering.look_up(column)
            known = (code >= 0) & (column_code >= 0)
            code = np.where(known, pair.look_up(pa.array(code * numbering.count + column_code)), -1)
        return code


def comparable(kind: pa.DataType) -> bool:
    """Whether a key column of this type can be numbered."""
    try:
        _canonical(pa.array([], kind))
    except UnlikeKeysError:
        return False
    return True


def _canonical(column: Column) -> Column:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return column.cast(pa.int64())
    if is_text(kind):
        return column.cast(pa.large_string())
    if pa.types.is_null(kind):
        return column.cast(pa.large_string())
    if is_binary(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_boolean(kind) or pa.types.is_float64(kind):
        return column
    raise UnlikeKeysError(f"unsupported keys of type {kind}")


def _converted(column: Column, kind: pa.DataType) -> Column:
    if pa.types.is_null(column.type):
        return column.cast(kind)
    canonical = _canonical(column)
    if canonical.type != kind:
        raise UnlikeKeysError(f"expected keys of type {kind}, got {column.type}")
    return canonical


def _int64(column: Column) -> Ints:
    values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    integers: Ints = values.astype(np.int64, copy=False)
    return integers


def _bool(column: Column) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return flags
