"""Coded features as columns for gradient boosting: categorical splits, a column per frequent value of a list, and vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.coded_inputs import CodedInput, CodedInputs
from ranking.data.dataset import Dataset
from sidkit.core.arrays import Floats

CATEGORIES = 254
"""Categories with a code of their own, the most frequent ones; scikit-learn splits on at most 255."""
LIST_VALUES = 24
"""Values of a list with a column of their own, the most frequent ones."""
AXES = 16
"""Leading numbers of a vector that are features."""


def width(feature: CodedInput) -> int:
    """Number of columns of a feature."""
    if feature.kind == "category":
        return 1
    return min(len(feature.categories), LIST_VALUES) if feature.kind == "categories" else min(feature.width, AXES)


def coded_columns(data: Dataset, inputs: CodedInputs) -> Floats:
    """The columns of all coded features, ``float32 [rows, columns]``; NaN where missing.

    A category is its rank by frequency, and 254 beyond; a list has a column per frequent value, 1 if it contains it; a vector
    has its leading numbers, scaled.
    """
    blocks = [np.zeros((len(data), 0), dtype=np.float32)]
    columns = data.coded_columns() if inputs.features else iter(())
    for feature, (_, values, codes) in zip(inputs.features, columns, strict=True):
        blocks.append(_of_values(feature, values)[codes])
    return np.concatenate(blocks, axis=1)


def categorical_places(columns: int, inputs: CodedInputs) -> list[int]:
    """Indices of the categorical columns of a matrix whose last columns are :func:`coded_columns`."""
    at = columns - sum(map(width, inputs.features))
    places = []
    for feature in inputs.features:
        if feature.kind == "category":
            places.append(at)
        at += width(feature)
    return places


def _of_values(feature: CodedInput, values: pa.Array) -> Floats:
    missing = pc.is_null(values).to_numpy(zero_copy_only=False)
    if feature.kind == "category":
        rows = feature.of_values(values).numpy().astype(np.float32) - 2
        ranked = np.where((rows < 0) | (rows >= CATEGORIES), CATEGORIES, rows)[:, None]
    elif feature.kind == "categories":
        rows = feature.of_values(values).numpy()
        ranked = np.stack([(rows == at + 2).any(axis=1) for at in range(width(feature))], axis=1).astype(np.float32)
    else:
        ranked = feature.of_values(values).numpy()[:, : width(feature)]
    ranked[missing] = np.nan
    columns: Floats = ranked.astype(np.float32)
    return columns
