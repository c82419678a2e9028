"""Permutation importance: how much a ranker's AUC drops when a feature is shuffled among the rows.

Breiman, "Random Forests" (2001), on held-out rows. Features that tell the same hide each other: shuffling one of them costs
little. The built-in counts are therefore shuffled together, as one family, and so are the statistics of codes of one depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ranking.data.code_schema import family_of
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_columns
from ranking.data.schema import FeatureSchema
from ranking.evaluation.metrics import auc
from ranking.evaluation.slices import slices
from sidkit.core.arrays import Doubles, Ints

MOST_ROWS = 4_000
REPEATS = 2
SLICES = ("all", "cold")
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "item_stats": ("item_exposures", "item_clicks", "item_rate", "item_conversions"),
    "user_stats": ("user_exposures", "user_clicks", "user_rate"),
    "item_age": ("item_age_days", "item_without_content"),
    "item_price": ("item_price",),
    "user_history": ("history_length", "history_gap_days", "history_span_days", "item_in_history"),
}
"""Family of built-in features -> beginnings of the names of its columns."""

Score = Callable[[Dataset], Doubles]


@dataclass(frozen=True)
class Importance:
    """The drop of the AUC on one slice of validation rows, the mean and half the range of the repeats."""

    feature: str
    slice: str
    drop: float
    spread: float


def permutation_importance(score: Score, data: Dataset, seed: int = 0) -> tuple[Importance, ...]:
    """Measure all families of built-in features and every further feature, largest drop on all rows first.

    Parameters
    ----------
    score : callable
        Scores ``float64 [rows]`` of a dataset.
    data : Dataset
        Validation rows; at most :data:`MOST_ROWS` of them, sampled, are used.
    seed : int
        Seed of the sample and of the permutations.
    """
    rng = np.random.default_rng(seed)
    if len(data) > MOST_ROWS:
        data = data.take(np.sort(rng.choice(len(data), MOST_ROWS, replace=False))).with_own_tables()
    label = data.rows.label
    masks = {name: mask for name, mask in slices(data).items() if name in SLICES and 0 < label[mask].mean() < 1}
    before = _aucs(score(data), label, masks)
    measured: list[Importance] = []
    for feature in features_of(data.schema):
        after = [_aucs(score(_permuted(data, feature, rng)), label, masks) for _ in range(REPEATS)]
        for name in masks:
            drops = [before[name] - each[name] for each in after]
            measured.append(Importance(feature, name, float(np.mean(drops)), (max(drops) - min(drops)) / 2))
    first = {each.feature: -each.drop for each in measured if each.slice == "all"}
    return tuple(sorted(measured, key=lambda each: (first.get(each.feature, 0.0), each.feature, each.slice)))


def features_of(schema: FeatureSchema) -> tuple[str, ...]:
    """The families of built-in features, then the features of a schema, with those of one kind and depth of codes as one."""
    return (*FAMILIES, *dict.fromkeys(map(family_of, schema.names)))


def _aucs(scores: Doubles, label: npt.NDArray[np.int8], masks: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, float]:
    return {name: auc(label[mask], scores[mask]) for name, mask in masks.items()}


def _permuted(data: Dataset, feature: str, rng: np.random.Generator) -> Dataset:
    """The rows with one feature shuffled; an attribute of items is shuffled among the candidates."""
    coded = {each.name: at for at, each in enumerate(data.schema.item_coded)}
    if feature in coded and data.items.attributes is not None:
        attributes = data.items.attributes
        codes = attributes.codes.copy()
        shown = np.unique(data.candidate)
        codes[shown, coded[feature]] = codes[rng.permutation(shown), coded[feature]]
        return replace(data, items=replace(data.items, attributes=replace(attributes, codes=codes)))
    order: Ints = rng.permutation(len(data))
    of_rows = {each.name: at for at, each in enumerate(data.schema.row_coded)}
    if feature in of_rows and data.coded is not None:
        codes = data.coded.codes.copy()
        codes[:, of_rows[feature]] = codes[order, of_rows[feature]]
        return replace(data, coded=replace(data.coded, codes=codes))
    begins = FAMILIES.get(feature)
    names = numeric_columns(data.schema)
    places = [
        at for at, name in enumerate(names) if (name.startswith(begins) if begins else family_of(name) == feature)
    ]
    numeric = data.numeric.copy()
    numeric[:, places] = numeric[order][:, places]
    return replace(data, numeric=numeric)
