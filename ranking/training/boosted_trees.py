"""The trees of gradient boosting as arrays: saved without pickle, and evaluated by NumPy alone.

Read from scikit-learn's fitted trees, so that a served ranker needs neither scikit-learn nor its version of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Floats

_CELLS = 2_000_000
"""Rows times trees that are evaluated at once."""
_WORD = 32


@dataclass(frozen=True)
class BoostedTrees:
    """Trees whose leaf values add up to a logit.

    Nodes of all trees are in one array each. ``roots`` int64 [trees]; ``left`` and ``right`` int64 [nodes], indices of the
    children, a leaf's own index in a leaf; ``feature`` int64 [nodes]; ``threshold`` float64 [nodes]: values up to it go left;
    ``missing_left`` bool [nodes]; ``value`` float64 [nodes], of leaves; ``categories`` uint32 [nodes with categories, 8]: bit
    ``c`` says that category ``c`` goes left; ``category_set`` int64 [nodes], an index into it, -1 for a numeric split;
    ``known`` float64 [categorical features, categories], the categories of training in ascending order, NaN beyond the last;
    ``categorical`` int64 [categorical features], their indices; ``baseline`` float64 [1].
    """

    roots: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: Doubles
    missing_left: npt.NDArray[np.bool_]
    value: Doubles
    categories: npt.NDArray[np.uint32]
    category_set: npt.NDArray[np.int64]
    known: Doubles
    categorical: npt.NDArray[np.int64]
    baseline: Doubles

    @classmethod
    def of(cls, model: Any, trees: int) -> Self:
        """The first ``trees`` trees of a fitted binary ``HistGradientBoostingClassifier``."""
        predictors = [each[0] for each in model._predictors[:trees]]
        sizes = [len(each.nodes) for each in predictors]
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)
        nodes = np.concatenate([each.nodes for each in predictors])
        own = np.repeat(starts, sizes)
        is_leaf = nodes["is_leaf"].astype(bool)
        at = np.arange(len(nodes))
        sets = [each.raw_left_cat_bitsets for each in predictors]
        first_set = np.repeat(np.concatenate([[0], np.cumsum([len(each) for each in sets])])[:-1], sizes)
        places, known = _categories_of(model)
        order = np.array([*places, *(at for at in range(model.n_features_in_) if at not in set(places))])
        return cls(
            roots=starts,
            left=np.where(is_leaf, at, own + nodes["left"]).astype(np.int64),
            right=np.where(is_leaf, at, own + nodes["right"]).astype(np.int64),
            feature=np.where(is_leaf, 0, order[np.where(is_leaf, 0, nodes["feature_idx"])]).astype(np.int64),
            threshold=nodes["num_threshold"].astype(np.float64),
            missing_left=nodes["missing_go_to_left"].astype(bool),
            value=nodes["value"].astype(np.float64),
            categories=np.concatenate([np.zeros((0, 8), np.uint32), *sets]).astype(np.uint32),
            category_set=np.where(
                nodes["is_categorical"].astype(bool) & ~is_leaf, first_set + nodes["bitset_idx"], -1
            ).astype(np.int64),
            known=known,
            categorical=np.array(places, dtype=np.int64),
            baseline=np.asarray(model._baseline_prediction, dtype=np.float64).reshape(1),
        )

    def logits(self, features: Floats) -> Doubles:
        """Logits ``float64 [rows]`` of ``float32 [rows, features]``; NaN is missing."""
        values = features.astype(np.float64)
        for place, known in zip(self.categorical.tolist(), self.known, strict=True):
            values[:, place] = _ranked(values[:, place], known)
        size = max(1, _CELLS // max(len(self.roots), 1))
        parts = [self._of_rows(values[start : start + size]) for start in range(0, len(values), size)]
        return np.concatenate([np.zeros(0), *parts])

    def _of_rows(self, values: Doubles) -> Doubles:
        rows = np.arange(len(values))[:, None]
        at = np.broadcast_to(self.roots, (len(values), len(self.roots)))
        while (self.left[at] != at).any():
            value = values[rows, self.feature[at]]
            goes_left = value <= self.threshold[at]
            chosen = self.category_set[at]
            if (chosen >= 0).any():
                goes_left = np.where(chosen >= 0, self._in_set(chosen, value), goes_left)
            goes_left = np.where(np.isnan(value), self.missing_left[at], goes_left)
            at = np.where(goes_left, self.left[at], self.right[at])
        total: Doubles = self.baseline[0] + self.value[at].sum(axis=1)
        return total

    def _in_set(self, chosen: npt.NDArray[np.int64], value: Doubles) -> npt.NDArray[np.bool_]:
        code = np.where((chosen >= 0) & ~np.isnan(value), value, 0).astype(np.int64).clip(0, 8 * _WORD - 1)
        words = self.categories[np.maximum(chosen, 0), code // _WORD]
        found: npt.NDArray[np.bool_] = (words >> (code % _WORD).astype(np.uint32)) & 1 == 1
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {each.name: np.ascontiguousarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Read the arrays of :meth:`arrays`; a missing one raises KeyError."""
        return cls(**{each.name: arrays[each.name] for each in fields(cls)})


def _categories_of(model: Any) -> tuple[list[int], Doubles]:
    """The categorical features, in the order of the encoder, and their sorted categories."""
    if model._preprocessor is None:
        return [], np.zeros((0, 0))
    encoder = model._preprocessor.named_transformers_["encoder"]
    listed = [np.asarray(each, np.float64) for each in encoder.categories_]
    listed = [each[~np.isnan(each)] for each in listed]
    known = np.full((len(listed), max(map(len, listed), default=0)), np.nan)
    for row, each in zip(known, listed, strict=True):
        row[: len(each)] = each
    return np.flatnonzero(model.is_categorical_).tolist(), known


def _ranked(values: Doubles, known: Doubles) -> Doubles:
    """The rank of each value among the known ones; NaN for others."""
    own = known[~np.isnan(known)]
    if not len(own):
        return np.full(len(values), np.nan)
    place = np.searchsorted(own, values).clip(max=len(own) - 1)
    ranked: Doubles = np.where(own[place] == values, place.astype(np.float64), np.nan)
    return ranked
