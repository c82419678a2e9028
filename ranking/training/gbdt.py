"""Gradient-boosting baseline on the same point-in-time features as the neural arms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.data.batches import NO_INPUTS
from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.evaluation.importance import Importance, permutation_importance
from ranking.evaluation.metrics import auc
from ranking.training.boosted_categories import categorical_places, coded_columns
from ranking.training.boosted_trees import BoostedTrees
from ranking.training.boosting_spec import BoostingSpec
from sidkit.core.arrays import Floats

_CHUNK = 20_000
_STEP = 10
_FEW = 5
_DEFAULT = BoostingSpec()


@dataclass(frozen=True)
class Boosted:
    """Validation AUC at the best number of trees, and the predictions on the other sets."""

    validation_auc: float
    trees: int
    grown: int
    """Number of trees that were trained."""
    predictions: tuple[npt.NDArray[np.float64], ...]
    importance: tuple[Importance, ...] = ()
    """Permutation importance on the validation rows, if it was measured."""
    saved: SavedTrees | None = None
    """What scores other rows, if it was asked for."""


@dataclass(frozen=True)
class SavedTrees:
    """The trees that validation selected, and their features."""

    trees: BoostedTrees
    inputs: CodedInputs
    unknown: tuple[int, ...]
    """Indices of the features that no training row had; they are 0."""


def boosted_features(
    data: Dataset,
    columns: tuple[int, int] | None = None,
    spec: BoostingSpec = _DEFAULT,
    inputs: CodedInputs = NO_INPUTS,
) -> Floats:
    """Features ``float32 [rows, features]``: numeric features; cosines of the candidate's content with the history; the first
    principal axes of the candidate's content and of the history's mean content; and the coded features, of which
    :func:`ranking.training.boosted_categories.coded_columns` tells the form.

    Parameters
    ----------
    data : Dataset
        The rows.
    columns : (int, int), optional
        Half-open range of content columns that was not trained on clicks; default: all.
    spec : BoostingSpec
        Which features are used.
    inputs : CodedInputs
        The coded features, from the training rows; default: none.
    """
    content = data.items.content[:, slice(*columns) if columns is not None else slice(None)]
    unit = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-9)
    axes = content[:, : spec.history_axes]
    similar = np.zeros((len(data), len(spec.similarities)), np.float32)
    profile = np.zeros((len(data), axes.shape[1]), np.float32)
    for start in range(0, len(data), _CHUNK):
        rows = slice(start, start + _CHUNK)
        history = data.history_items[data.history[rows]]
        candidate, past = unit[data.candidate[rows]], unit[history]
        for at, name in enumerate(spec.similarities):
            similar[rows, at] = _SIMILARITIES[name](candidate, past, history != 0)
        profile[rows] = axes[history].sum(axis=1) / np.maximum((history != 0).sum(axis=1, keepdims=True), 1)
    own = content[data.candidate][:, : spec.content_axes]
    return np.concatenate([data.features, similar, own, profile, coded_columns(data, inputs)], axis=1)


def _to_mean(candidate: Floats, history: Floats, valid: npt.NDArray[np.bool_]) -> Floats:
    """Cosine to the mean of the history's unit vectors; 0 without a history."""
    mean = np.einsum("bld,bl->bd", history, valid.astype(np.float32))
    cosine: Floats = np.einsum("bd,bd->b", candidate, mean) / np.maximum(np.linalg.norm(mean, axis=1), 1e-9)
    return cosine


def _to_nearest(candidate: Floats, history: Floats, valid: npt.NDArray[np.bool_], count: int = 1) -> Floats:
    """Mean of the highest cosines to items of the history; 0 without a history."""
    cosine = np.where(valid, np.einsum("bd,bld->bl", candidate, history), -np.inf)
    highest = -np.sort(-cosine, axis=1)[:, :count]
    total = np.where(np.isfinite(highest), highest, 0).sum(axis=1)
    mean: Floats = total / np.maximum(np.isfinite(highest).sum(axis=1), 1)
    return mean


_Cosine = Callable[[Floats, Floats, npt.NDArray[np.bool_]], Floats]
_SIMILARITIES: dict[str, _Cosine] = {
    "mean": _to_mean,
    "nearest": _to_nearest,
    "nearest_5": lambda candidate, history, valid: _to_nearest(candidate, history, valid, _FEW),
    "newest": lambda candidate, history, valid: _to_mean(candidate, history[:, :1], valid[:, :1]),
    "newest_5": lambda candidate, history, valid: _to_mean(candidate, history[:, :_FEW], valid[:, :_FEW]),
}
"""Similarity -> its cosine, given unit vectors of candidates ``[rows, dim]`` and of histories ``[rows, length, dim]`` (newest
first), and which items of a history are not padding.
"""


def boost(
    training: Dataset,
    validation: Dataset,
    others: tuple[Dataset, ...],
    *,
    seed: int,
    spec: BoostingSpec = _DEFAULT,
    columns: tuple[int, int] | None = None,
    importance: bool = False,
    save: bool = False,
) -> Boosted:
    """Fit scikit-learn's histogram gradient boosting; the validation AUC selects the number of trees.

    Parameters
    ----------
    training, validation : Dataset
        Rows to fit on, and to select the number of trees on.
    others : tuple of Dataset
        Rows to predict.
    seed : int
        Seed of the random features of a split.
    spec : BoostingSpec
        Trees and features.
    columns : (int, int), optional
        Half-open range of content columns that was not trained on clicks; default: all.
    importance : bool
        Also measure the permutation importance of the features.
    save : bool
        Also return the trees.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    inputs = CodedInputs.fit(training)
    rows = boosted_features(training, columns, spec, inputs)
    unknown = np.isnan(rows).all(axis=0)
    rows[:, unknown] = 0

    def features_of(data: Dataset) -> Floats:
        features = boosted_features(data, columns, spec, inputs)
        features[:, unknown] = 0  # scikit-learn refuses a feature without any value in training
        return features

    model = HistGradientBoostingClassifier(
        categorical_features=categorical_places(rows.shape[1], inputs) or None,
        max_iter=spec.trees,
        learning_rate=spec.learning_rate,
        max_leaf_nodes=spec.leaves,
        min_samples_leaf=spec.leaf_rows,
        l2_regularization=spec.l2,
        max_features=spec.feature_share,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(rows, training.rows.label)
    label, seen = validation.rows.label, features_of(validation)
    best, best_trees = -1.0, _STEP
    for number, probability in enumerate(model.staged_predict_proba(seen), start=1):
        if number % _STEP == 0 and (reached := auc(label, probability[:, 1])) > best:
            best, best_trees = reached, number
    predictions = tuple(
        _staged(model, seen if data is validation else features_of(data), best_trees) for data in others
    )
    measured: tuple[Importance, ...] = ()
    if importance:
        measured = permutation_importance(lambda data: _staged(model, features_of(data), best_trees), validation, seed)
    saved = (
        SavedTrees(BoostedTrees.of(model, best_trees), inputs, tuple(np.flatnonzero(unknown).tolist()))
        if save
        else None
    )
    return Boosted(best, best_trees, int(model.n_iter_), predictions, measured, saved)


def _staged(model: object, features: Floats, trees: int) -> npt.NDArray[np.float64]:
    for number, probability in enumerate(model.staged_predict_proba(features), start=1):  # type: ignore[attr-defined]
        if number == trees:
            positive: npt.NDArray[np.float64] = probability[:, 1]
            return positive
    raise AssertionError(f"the model has fewer than {trees} trees")
