"""Examples of the history items that a ranker attends to, with titles, for inspection by people."""

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
    """A history item and its attention weight, averaged over heads."""

    id: str
    title: str | None
    weight: float


@dataclass(frozen=True)
class AttentionMap:
    """The history items with the largest weights in one attention map, in descending order."""

    name: str
    items: tuple[AttendedItem, ...]


@dataclass(frozen=True)
class AttentionExample:
    """One row: its candidate, score, history length and attention maps."""

    id: str
    title: str | None
    score: float
    history: int
    maps: tuple[AttentionMap, ...]


def example_rows(data: Dataset, seed: int = 0) -> npt.NDArray[np.int64]:
    """Sample clicked rows of different users with enough history; the same rows for every arm."""
    length = (data.history_items[data.history] > 0).sum(axis=1)
    eligible = np.flatnonzero((data.rows.label == 1) & (length >= LEAST_HISTORY))
    shuffled = np.random.default_rng(seed).permutation(eligible)
    first = np.unique(data.rows.user_ids[shuffled].astype(str), return_index=True)[1]
    return np.sort(shuffled[np.sort(first)[:EXAMPLES]])


def item_titles(repo: Repo, ids: npt.NDArray[np.object_]) -> dict[str, str]:
    """Return the latest title of each item; items without a title are omitted."""
    path = read_log(repo).items
    if "title" not in pq.read_schema(path).names:
        return {}
    table = pq.read_table(path, columns=["item_id", "title"])
    requested = set(ids)
    pairs = zip(table.column("item_id").to_pylist(), table.column("title").to_pylist(), strict=True)
    return {item: title for item, title in pairs if title is not None and item in requested}


def attention_examples(ranker: Ranker, data: Dataset, titles: Mapping[str, str]) -> tuple[AttentionExample, ...] | None:
    """Return one example per row, or None for a ranker without attention."""
    weights = attention_weights(ranker, data)
    if weights is None:
        return None
    scores = ranker.score(data)
    examples = []
    for row in range(len(data)):
        history = data.history_items[data.history[row]]
        item = data.items.ids[data.candidate[row]]
        maps = tuple(
            AttentionMap(name, _heaviest(weight[row], data.items.ids[history], titles))
            for name, weight in weights.items()
        )
        examples.append(AttentionExample(item, titles.get(item), float(scores[row]), int((history > 0).sum()), maps))
    return tuple(examples)


def attention_weights(ranker: Ranker, data: Dataset) -> dict[str, npt.NDArray[np.float64]] | None:
    """Return weights ``float64 [rows, length]`` per attention map, averaged over heads; None without attention."""
    from ranking.experiments.comparison.explain import attention_maps

    maps = attention_maps(ranker.model, ranker.batches(data))
    return {name: weights.mean(axis=1, dtype=np.float64) for name, weights in maps.items()} or None


def _heaviest(
    weight: npt.NDArray[np.float64], ids: npt.NDArray[np.object_], titles: Mapping[str, str]
) -> tuple[AttendedItem, ...]:
    order = np.argsort(-weight, kind="stable")[:SHOWN]
    return tuple(AttendedItem(ids[slot], titles.get(ids[slot]), float(weight[slot])) for slot in order if ids[slot])
