"""Which history items a ranker attends to, with titles, so that a person can check whether it makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ranking.data.dataset import Dataset
from sidkit.core.repo import Repo
from sidkit.tables import read_log

if TYPE_CHECKING:
    from ranking.training.ranker import Ranker

EXAMPLES, SHOWN, LEAST_HISTORY = 6, 8, 5


@dataclass(frozen=True)
class AttendedItem:
    """A history item and its weight, a mean over heads."""

    id: str
    title: str | None
    weight: float


@dataclass(frozen=True)
class AttentionMap:
    """The history items with most weight in one map of scores, heaviest first."""

    name: str
    items: tuple[AttendedItem, ...]


@dataclass(frozen=True)
class AttentionExample:
    """One row: its candidate, the score, how many items the history has, and where the attention went."""

    id: str
    title: str | None
    score: float
    history: int
    maps: tuple[AttentionMap, ...]


def example_rows(data: Dataset, seed: int = 0) -> npt.NDArray[np.int64]:
    """Random clicked rows of different users with some history: drawn, not chosen, and the same for every arm."""
    length = (data.history_items[data.history] > 0).sum(axis=1)
    fit = np.flatnonzero((data.rows.label == 1) & (length >= LEAST_HISTORY))
    drawn = np.random.default_rng(seed).permutation(fit)
    first = np.unique(data.rows.user_ids[drawn].astype(str), return_index=True)[1]
    return np.sort(drawn[np.sort(first)[:EXAMPLES]])


def item_titles(repo: Repo, ids: npt.NDArray[np.object_]) -> dict[str, str]:
    """The titles of items, their latest; items without one are left out."""
    path = read_log(repo).items
    if "title" not in pq.read_schema(path).names:
        return {}
    table = pq.read_table(path, columns=["item_id", "title"])
    wanted = set(ids)
    pairs = zip(table.column("item_id").to_pylist(), table.column("title").to_pylist(), strict=True)
    return {item: title for item, title in pairs if title is not None and item in wanted}


def attention_examples(ranker: Ranker, data: Dataset, titles: Mapping[str, str]) -> tuple[AttentionExample, ...] | None:
    """One example per row; None for a ranker without attention."""
    weights = attention_weights(ranker, data)
    if weights is None:
        return None
    scores = ranker.score(data)
    found = []
    for row in range(len(data)):
        history = data.history_items[data.history[row]]
        item = data.items.ids[data.candidate[row]]
        maps = tuple(
            AttentionMap(name, _heaviest(each[row], data.items.ids[history], titles)) for name, each in weights.items()
        )
        found.append(AttentionExample(item, titles.get(item), float(scores[row]), int((history > 0).sum()), maps))
    return tuple(found)


def attention_weights(ranker: Ranker, data: Dataset) -> dict[str, npt.NDArray[np.float64]] | None:
    """Weights ``float64 [rows, length]`` per map of scores, means over heads; None for a history without attention."""
    from ranking.data.batches import Batches
    from ranking.experiments.comparison.explain import attention_maps

    maps = attention_maps(ranker.model, Batches(data, ranker.scaling, ranker.vocabulary))
    return {name: each.mean(axis=1, dtype=np.float64) for name, each in maps.items()} or None


def _heaviest(
    weight: npt.NDArray[np.float64], ids: npt.NDArray[np.object_], titles: Mapping[str, str]
) -> tuple[AttendedItem, ...]:
    order = np.argsort(-weight, kind="stable")[:SHOWN]
    return tuple(
        AttendedItem(ids[place], titles.get(ids[place]), float(weight[place])) for place in order if ids[place]
    )
