"""The format of packed rows: the features of one entity in one byte string.

A row is ``[layout number: u16] [one null bit per feature] [fixed part] [variable part]``, little-endian; in the file its
times and a checksum follow (:mod:`sidkit.stores.online.checksums`). Scalars are stored in the fixed part; for a text, a list
or any other type the fixed part has its end (``u32``, relative to the start of the variable part), in the order of the
features. A list is the memory of its elements; a list of texts is ``[count: u32] [end of each: u32] [bytes]``; any other
type is the serialized protobuf value of Feast.

A layout is the ordered list of (feature, kind) and is stored next to the rows as JSON, so that a row can be read without
the feature view that it was written for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sidkit.core.errors import OnlineStoreError

VERSION = 1
"""Version of the row format, stored in every layout."""

SCALARS: dict[str, str] = {
    "BOOL": "|u1",
    "INT32": "<i4",
    "INT64": "<i8",
    "FLOAT": "<f4",
    "DOUBLE": "<f8",
    "UNIX_TIMESTAMP": "<i8",
}
"""Kind -> dtype in the fixed part. Kinds have the names of Feast's value types; timestamps are in seconds."""

LISTS: dict[str, str] = {f"{kind}_LIST": dtype for kind, dtype in SCALARS.items()}
TEXTS = frozenset({"STRING", "BYTES"})
TEXT_LISTS = frozenset({"STRING_LIST", "BYTES_LIST"})
PROTO = "PROTO"
"""Any other type: the serialized ``feast.types.Value``."""


@dataclass(frozen=True)
class Cells:
    """One feature of many rows, in a column layout like Arrow's.

    Parameters
    ----------
    kind : str
        One of ``SCALARS``, ``LISTS``, ``TEXTS``, ``TEXT_LISTS`` or ``PROTO``.
    flat : numpy.ndarray or bytes
        Scalars ``[rows]``; the elements of all lists ``[elements]``; or the bytes of all texts.
    offsets : numpy.ndarray, optional
        ``int64 [rows + 1]`` into the elements (lists) or bytes (texts); None for scalars.
    inner : numpy.ndarray, optional
        ``int64 [elements + 1]`` into the bytes; for lists of texts only.
    null : numpy.ndarray, optional
        ``bool [rows]``; None without nulls. Values under nulls are zero or empty.
    """

    kind: str
    flat: npt.NDArray[Any] | bytes
    offsets: npt.NDArray[np.int64] | None = None
    inner: npt.NDArray[np.int64] | None = None
    null: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.flat) if self.offsets is None else len(self.offsets) - 1

    def nulls(self) -> npt.NDArray[np.bool_]:
        """Mask of nulls, ``bool [rows]``."""
        return self.null if self.null is not None else np.zeros(len(self), dtype=np.bool_)


@dataclass(frozen=True)
class Layout:
    """An ordered list of (feature, kind)."""

    columns: tuple[tuple[str, str], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(name for name, _ in self.columns)

    @cached_property
    def places(self) -> dict[str, int]:
        """Feature -> index."""
        return {name: place for place, (name, _) in enumerate(self.columns)}

    @cached_property
    def fields(self) -> list[tuple[str, str] | tuple[str, str, tuple[int]]]:
        """Fields of :attr:`dtype`: ``layout``, ``nulls``, then one per feature, named by its index."""
        parts: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [("layout", "<u2")]
        if self.columns:
            parts.append(("nulls", "u1", (-(-len(self.columns) // 8),)))
        return [*parts, *((str(place), SCALARS.get(kind, "<u4")) for place, (_, kind) in enumerate(self.columns))]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the head and the fixed part of a row."""
        return np.dtype(self.fields)

    @cached_property
    def variable(self) -> tuple[int, ...]:
        """Indices of the features in the variable part."""
        return tuple(place for place, (_, kind) in enumerate(self.columns) if kind not in SCALARS)

    def to_json(self) -> str:
        """Serialize the layout; equal layouts give equal text."""
        return json.dumps({"version": VERSION, "columns": self.columns}, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=1024)
def layout_from_json(text: str) -> Layout:
    """Parse a layout from :meth:`Layout.to_json`.

    Raises
    ------
    OnlineStoreError
        When another release wrote it.
    """
    stored = json.loads(text)
    columns = tuple((str(name), str(kind)) for name, kind in stored.get("columns", ()))
    known = {*SCALARS, *LISTS, *TEXTS, *TEXT_LISTS, PROTO}
    unknown = sorted({kind for _, kind in columns} - known)
    if stored.get("version") != VERSION or unknown:
        actual = f"kinds {', '.join(unknown)}" if unknown else f"version {stored.get('version')!r}"
        raise OnlineStoreError(
            f"expected rows of the online store in layout version {VERSION}, got {actual}. Use the release that wrote them, "
            "or delete the file and materialize again"
        )
    return Layout(columns)


def kind_of(value_type: str) -> str:
    """The kind in which values of a Feast value type are stored."""
    plain = value_type in SCALARS or value_type in LISTS or value_type in TEXTS or value_type in TEXT_LISTS
    return value_type if plain else PROTO


def layout_of(features: Sequence[tuple[str, str]]) -> Layout:
    """Create the layout of features given as (name, value type name)."""
    return Layout(tuple((name, kind_of(value_type)) for name, value_type in features))
