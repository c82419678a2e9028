"""Gradient-boosting baseline on the same point-in-time features as the neural arms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import auc
from sidkit.core.arrays import Floats

_CONTENT_COLUMNS = 16
_CHUNK = 20_000
_STEP = 10
TREES = 400
"""Maximum number of trees; the validation AUC selects how many are used."""


@dataclass(frozen=True)
class Boosted:
    """Validation AUC at the best number of trees, and the predictions on the other sets."""

    validation_auc: float
    trees: int
    grown: int
    """Number of trees that were trained."""
    predictions: tuple[npt.NDArray[np.float64], ...]


def boosted_features(data: Dataset, columns: tuple[int, int] | None = None) -> Floats:
    """Features ``float32 [rows, features]``: numeric features; cosine similarity of the candidate's content to the mean and
    to the nearest item of the history; and the first principal axes of the candidate's content.

    ``columns`` is the half-open range of content columns that was not trained on clicks (None: all).
    """
    content = data.items.content[:, slice(*columns) if columns is not None else slice(None)]
    unit = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-9)
    mean, nearest = np.zeros(len(data), np.float32), np.zeros(len(data), np.float32)
    for start in range(0, len(data), _CHUNK):
        rows = slice(start, start + _CHUNK)
        history = data.history_items[data.history[rows]]
        valid = history != 0
        candidate = unit[data.candidate[rows]]
        cosine = np.einsum("bd,bld->bl", candidate, unit[history])
        profile = np.einsum("bld,bl->bd", unit[history], valid.astype(np.float32))
        length = np.linalg.norm(profile, axis=1)
        mean[rows] = np.einsum("bd,bd->b", candidate, profile) / np.maximum(length, 1e-9)
        nearest[rows] = np.where(valid.any(axis=1), np.where(valid, cosine, -1).max(axis=1), 0)
    axes = content[data.candidate][:, :_CONTENT_COLUMNS]
    return np.concatenate([data.features, mean[:, None], nearest[:, None], axes], axis=1)


def boost(
    training: Dataset,
    validation: Dataset,
    others: tuple[Dataset, ...],
    *,
    seed: int,
    trees: int | None = None,
    columns: tuple[int, int] | None = None,
) -> Boosted:
    """Fit scikit-learn's histogram gradient boosting; the validation AUC selects the number of trees, at most :data:`TREES`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=TREES if trees is None else trees,
        learning_rate=0.05,
        max_leaf_nodes=31,
        min_samples_leaf=40,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(boosted_features(training, columns), training.rows.label)
    label = validation.rows.label
    best, best_trees = -1.0, _STEP
    for number, probability in enumerate(model.staged_predict_proba(boosted_features(validation, columns)), start=1):
        if number % _STEP == 0 and (reached := auc(label, probability[:, 1])) > best:
            best, best_trees = reached, number
    predictions = tuple(_staged(model, boosted_features(data, columns), best_trees) for data in others)
    return Boosted(best, best_trees, int(model.n_iter_), predictions)


def _staged(model: object, features: Floats, trees: int) -> npt.NDArray[np.float64]:
    for number, probability in enumerate(model.staged_predict_proba(features), start=1):  # type: ignore[attr-defined]
        if number == trees:
            positive: npt.NDArray[np.float64] = probability[:, 1]
            return positive
    raise AssertionError(f"the model has fewer than {trees} trees")
