"""Context columns that predict the label nearly alone, which usually means that they are known only after the user reacted.

Each column is evaluated by itself on the labelled rows: numbers, flags and dates by their AUC in either direction, by whether
they are missing, and by quantile; categories by their mean label, estimated on the other folds. Sampled negatives have the
context of their positive, so on a log of positives every column is uninformative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.evaluation.metrics import auc
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.errors import ContractError
from sidkit.core.feature_settings import AttributeKind

LIMIT = 0.9
"""AUC of a single column above which a run stops."""
SAMPLE_ROWS = 200_000
_FEWEST = 30
"""Rows of either class below which an AUC says nothing."""
_FOLDS, _BINS = 5, 20


def refuse_revealing_context(measured: Mapping[str, float], waived: Iterable[str]) -> None:
    """Raise if a column that is not ``waived`` has an AUC above :data:`LIMIT`.

    Raises
    ------
    ContractError
        Names the column, its AUC and the lines of ``sidkit.toml`` to change.
    """
    for name, value in measured.items():
        if value > LIMIT and name not in set(waived):
            raise ContractError(
                "interactions",
                f"expected context columns that are known before the user reacts, got {name!r}, which alone predicts the label "
                f"with an AUC of {value:.3f} (limit {LIMIT}): it is probably recorded after the reaction. Remove it from "
                f'[features.context], or, if it is known when a request arrives, set context_waived = ["{name}"] in [features]',
            )


def context_auc(path: Path, context: Mapping[str, AttributeKind]) -> dict[str, float]:
    """Compute the AUC of each context column alone on labelled rows.

    Parameters
    ----------
    path : Path
        File of labelled rows; at most about :data:`SAMPLE_ROWS` evenly spaced rows are used.
    context : mapping
        Column -> kind.

    Returns
    -------
    dict
        Column -> AUC, at least 0.5 for columns without categories; empty with fewer than 30 rows of either class.
    """
    table = _sample(path, ["label", *context])
    label = table["label"].to_numpy().astype(np.int8)
    if not context or min(int(label.sum()), int((1 - label).sum())) < _FEWEST:
        return {}
    return {name: _auc_of(table[name].combine_chunks(), kind, label) for name, kind in context.items()}


def _sample(path: Path, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        step = -(-file.metadata.num_rows // SAMPLE_ROWS) or 1
        parts, first = [], 0
        for batch in file.iter_batches(columns=columns):
            places = np.arange(-first % step, batch.num_rows, step)
            parts.append(pa.table(batch.take(pa.array(places))))
            first += batch.num_rows
    return pa.concat_tables(parts) if parts else pq.read_table(path, columns=columns)


def _auc_of(column: pa.Array, kind: AttributeKind, label: npt.NDArray[np.int8]) -> float:
    if kind == "vector":
        vectors = pd.Series(column.to_pylist())
        width = max((len(vector) for vector in vectors.dropna()), default=0)
        parts = [vectors.map(lambda vector, at=at: vector[at], na_action="ignore") for at in range(width)]
        return max((_numeric(part.to_numpy(np.float64, na_value=np.nan), label) for part in parts), default=0.5)
    if kind in {"category", "categories"}:
        texts: Any = column.to_pandas()
        if kind == "categories":
            texts = texts.map(lambda parts: "\n".join(sorted(parts)), na_action="ignore")
        return auc(label, _mean_label(pd.factorize(texts, use_na_sentinel=False)[0].astype(np.int64), label))
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return _numeric(column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64), label)


def _numeric(values: Doubles, label: npt.NDArray[np.int8]) -> float:
    missing = np.isnan(values)
    known = values[~missing]
    filled = np.where(missing, (known.min() if len(known) else 0.0) - 1.0, values)
    bins = np.searchsorted(np.unique(np.quantile(filled, np.linspace(0, 1, _BINS + 1)[1:-1])), filled)
    scores = [auc(label, filled), auc(label, missing.astype(np.float64))]
    return max(*scores, *(1 - score for score in scores), auc(label, _mean_label(bins.astype(np.int64), label)))


def _mean_label(code: Ints, label: npt.NDArray[np.int8]) -> Doubles:
    """Mean label of each row's code on the rows of the other folds; the overall mean for a code that they lack."""
    fold = np.arange(len(code)) % _FOLDS
    cell = code * _FOLDS + fold
    size = int(code.max(initial=0) + 1) * _FOLDS
    positives = np.bincount(cell, label, size).reshape(-1, _FOLDS)
    rows = np.bincount(cell, minlength=size).reshape(-1, _FOLDS)
    others, count = positives.sum(axis=1, keepdims=True) - positives, rows.sum(axis=1, keepdims=True) - rows
    mean = float(label.mean())
    estimates: Doubles = ((others + mean) / (count + 1))[code, fold]
    return estimates
