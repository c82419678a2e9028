"""What a model reads of coded features: rows of embedding tables, and vectors.

Fitted on the training rows: the values that occur often enough, in order of frequency, and the moments of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ranking.data.coded import Coded
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.schema import ExtraFeature, FeatureSchema, Kind
from sidkit.core.arrays import Ints

MISSING_ROW, UNKNOWN_ROW, _FIRST = 0, 1, 2
LEAST_ROWS = 5
"""Training rows that a category needs for a row of its own; rarer ones share the unknown row, which is so trained."""
MOST_VALUES = 100_000
"""Maximum number of categories of one feature, the most frequent ones."""
LONGEST = 32
"""Maximum number of values of a list that a model reads."""


@dataclass(frozen=True)
class CodedInput:
    """One coded feature of a model.

    Attributes
    ----------
    name, kind
        See :class:`ranking.data.schema.ExtraFeature`.
    categories : tuple of str
        Categories with a row of their own, most frequent first; they have the rows from 2 on.
    width : int
        Values per list (``categories``), or numbers per vector (``vector``); 1 for a category.
    mean, scale : tuple of float
        Of each number of a vector.
    """

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()
    width: int = 1
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def table_rows(self) -> int:
        """Rows of its embedding table: missing, unknown, and the categories."""
        return len(self.categories) + _FIRST

    @cached_property
    def _known(self) -> pa.Array:
        return pa.array(self.categories, pa.string())

    def of_values(self, values: pa.Array) -> Tensor:
        """What the model reads of each value: table rows ``int64 [values]`` of categories, ``int64 [values, width]`` of lists
        (0 is padding), or scaled vectors ``float32 [values, width]`` (0 if missing).
        """
        if self.kind == "category":
            return torch.from_numpy(self._rows(values))
        if self.kind == "categories":
            return torch.from_numpy(self._lists(values))
        matrix = np.zeros((len(values), self.width), dtype=np.float32)
        for at, vector in enumerate(values):
            if vector.is_valid and len(vector) == self.width:
                matrix[at] = (np.asarray(vector.values, np.float32) - np.asarray(self.mean)) * np.asarray(self.scale)
        return torch.from_numpy(matrix)

    def _rows(self, values: pa.Array) -> Ints:
        places = pc.index_in(values, self._known)
        rows: Ints = pc.fill_null(places, UNKNOWN_ROW - _FIRST).to_numpy(zero_copy_only=False).astype(np.int64) + _FIRST
        rows[pc.is_null(values).to_numpy(zero_copy_only=False)] = MISSING_ROW
        return rows

    def _lists(self, values: pa.Array) -> Ints:
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        flat = self._rows(values.flatten())
        owner = np.repeat(np.arange(len(values)), lengths)
        position = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        inside = position < self.width
        rows = np.full((len(values), self.width), MISSING_ROW, dtype=np.int64)
        rows[owner[inside], position[inside]] = flat[inside]
        return rows


@dataclass(frozen=True)
class CodedInputs:
    """The coded features of a model, those of the item first (:attr:`ranking.data.schema.FeatureSchema.coded`)."""

    features: tuple[CodedInput, ...] = ()

    @classmethod
    def fit(cls, data: Dataset | DiskDataset) -> Self:
        """Fit on training rows; each counts once, whatever its features."""
        schema = data.schema
        shown = data.shown()[0]
        fitted = []
        attributes = data.items.attributes
        if attributes is not None:
            counts = [
                np.bincount(codes, weights=shown, minlength=len(values)).astype(np.int64)
                for codes, values in zip(attributes.codes.T, attributes.values, strict=True)
            ]
            fitted += [_fitted(*each) for each in zip(schema.item_coded, attributes.values, counts, strict=True)]
        fitted += [
            _fitted(*each) for each in zip(schema.row_coded, data.row_values, data.row_code_counts(), strict=True)
        ]
        return cls(tuple(fitted))

    def as_json(self) -> list[dict[str, Any]]:
        """JSON values for :meth:`of_json`."""
        return [asdict(each) for each in self.features]

    @classmethod
    def of_json(cls, values: Sequence[Mapping[str, Any]]) -> Self:
        """Read the values of :meth:`as_json`."""
        read: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in each.items()} for each in values
        ]
        return cls(tuple(CodedInput(**each) for each in read))

    def tables(self, schema: FeatureSchema, items: Coded | None, rows: Sequence[pa.Array]) -> tuple[Tensor, ...]:
        """What the model reads of each value of each feature; see :meth:`CodedInput.of_values`."""
        values = [*(items.values if items is not None else ()), *rows]
        return tuple(each.of_values(array) for each, array in zip(self.features, values, strict=True))


def _fitted(feature: ExtraFeature, values: pa.Array, counts: Ints) -> CodedInput:
    if feature.kind == "category":
        return CodedInput(feature.name, feature.kind, _frequent(values, counts))
    if feature.kind == "categories":
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        width = int(np.clip(lengths[counts > 0].max(initial=1), 1, LONGEST))
        return CodedInput(
            feature.name, feature.kind, _frequent(values.flatten(), np.repeat(counts, lengths)), width=width
        )
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    width = int(np.bincount(lengths, weights=counts).argmax()) if len(lengths) else 0
    chosen = np.flatnonzero((lengths == width) & (counts > 0)) if width else np.zeros(0, dtype=np.int64)
    if not len(chosen):
        nothing = (0.0,) * max(width, 1)
        return CodedInput(feature.name, feature.kind, width=len(nothing), mean=nothing, scale=nothing)
    matrix = np.asarray(values.take(pa.array(chosen)).flatten(), np.float64).reshape(-1, width)
    mean = np.average(matrix, axis=0, weights=counts[chosen])
    deviation = np.sqrt(np.average((matrix - mean) ** 2, axis=0, weights=counts[chosen]))
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
    return CodedInput(feature.name, feature.kind, width=width, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))


def _frequent(values: pa.Array, counts: Ints) -> tuple[str, ...]:
    encoded = values.dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    totals = np.bincount(codes, weights=counts, minlength=len(encoded.dictionary) + 1)[: len(encoded.dictionary)]
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    order = np.lexsort((names.astype(str), -totals))
    return tuple(names[order[totals[order] >= LEAST_ROWS]][:MOST_VALUES].tolist())
