"""What a ranker looks at in a history, with titles, so that a person can judge whether it makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ranking.data.dataset import Dataset
from sidkit.core.repo import Repo
from sidkit.tables import read_log

if TYPE_CHECKING:
    from ranking.training.ranker import Ranker

EXAMPLES, SHOWN, LEAST_HISTORY = 6, 8, 5


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


def attention_examples(ranker: Ranker, data: Dataset, titles: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Per row: the candidate, the score, and per map of scores what got most weight; None without an attention.

    Each of ``maps`` has a ``name`` and ``items``: title, id and weight (a mean over heads), heaviest first.
    """
    weights = attention_weights(ranker, data)
    if weights is None:
        return None
    scores = ranker.score(data)
    found = []
    for row in range(len(data)):
        history = data.history_items[data.history[row]]
        found.append(
            {
                **_named(data.items.ids[data.candidate[row]], titles),
                "score": float(scores[row]),
                "history": int((history > 0).sum()),
                "maps": [
                    {"name": name, "items": _heaviest(each[row], data.items.ids[history], titles)}
                    for name, each in weights.items()
                ],
            }
        )
    return found


def attention_weights(ranker: Ranker, data: Dataset) -> dict[str, npt.NDArray[np.float64]] | None:
    """Weights ``float64 [rows, length]`` per map of scores, means over heads; None for a history without attention."""
    from ranking.data.batches import Batches
    from ranking.experiments.comparison.explain import attention_maps

    maps = attention_maps(ranker.model, Batches(data, ranker.scaling, ranker.vocabulary))
    return {name: each.mean(axis=1, dtype=np.float64) for name, each in maps.items()} or None


def _heaviest(
    weight: npt.NDArray[np.float64], ids: npt.NDArray[np.object_], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    order = np.argsort(-weight, kind="stable")[:SHOWN]
    return [{**_named(ids[place], titles), "weight": float(weight[place])} for place in order if ids[place]]


def _named(item: str, titles: Mapping[str, str]) -> dict[str, str | None]:
    return {"id": item, "title": titles.get(item)}
