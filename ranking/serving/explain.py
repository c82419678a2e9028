"""What moved a score: the change of its logit when a group of features is replaced by that of an average candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.item_table import NO_CODE
from ranking.data.numeric_features import numeric_columns
from sidkit.core.arrays import Doubles

_LEAST = 1e-12


def explain(data: Dataset, score: Callable[[Dataset], Doubles]) -> dict[str, Doubles]:
    """Changes of the logits, ``float64 [rows]``, by group of features.

    Numbers are replaced by their mean over the request's candidates, content vectors by zero, codes and attributes by missing
    ones, the history by an empty one. Groups interact, so the changes do not add up to the logit.

    Parameters
    ----------
    data : Dataset
        The candidates of one request.
    score : callable
        Returns probabilities ``float64 [rows]`` of a dataset.
    """
    base = _logit(score(data))
    names = numeric_columns(data.schema)
    groups: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        groups.setdefault(_group(name), []).append(at)
    changed = {}
    for group, columns in groups.items():
        numeric = data.numeric.copy()
        with np.errstate(invalid="ignore"):
            means = np.nanmean(np.where(np.isnan(numeric[:, columns]).all(axis=0), 0, numeric[:, columns]), axis=0)
        if np.array_equal(np.nan_to_num(numeric[:, columns]), np.broadcast_to(means, (len(data), len(columns)))):
            continue  # the same for all candidates
        numeric[:, columns] = means
        changed[group] = replace(data, numeric=numeric)
    items = data.items
    changed["content"] = replace(data, items=replace(items, content=np.zeros_like(items.content)))
    changed["codes"] = replace(data, items=replace(items, codes=np.full_like(items.codes, NO_CODE)))
    changed["history"] = replace(data, history=np.zeros_like(data.history))
    if items.attributes is not None:
        none = replace(items.attributes, codes=np.zeros_like(items.attributes.codes))
        changed["attributes"] = replace(data, items=replace(items, attributes=none))
    return {group: base - _logit(score(each)) for group, each in changed.items()}


def _group(column: str) -> str:
    if column.startswith("item_") and column.rpartition("_")[2] in {"1d", "7d", "30d", "all"}:
        return "counts of the item"
    if column.startswith("user_") and "__" not in column:
        return "counts of the user"
    if column.startswith("history_") or column == "item_in_history" or column.startswith("history__"):
        return "times of the history"
    if "__" in column:
        return column.partition("__")[0]
    return "age and price of the item"


def _logit(scores: npt.NDArray[np.float64]) -> Doubles:
    inner = np.clip(scores, _LEAST, 1 - _LEAST)
    logits: Doubles = np.log(inner / (1 - inner))
    return logits
