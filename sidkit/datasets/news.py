"""A synthetic news log: positives only, items that live two days, half of the clicks on items of the last day.

It changes faster than ordinary logs, so it reveals flaws of negative sampling. Most items have few readers and a few have
many: an item's appeal is log-normal, and the clicks at a time are distributed over items of the last day, and over older
ones, in proportion to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.clock import DAY_US

_START_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
_LIFE_US = 2 * DAY_US
_MOMENT = pa.timestamp("us", tz="UTC")
_WIDTH = 8


def write_news(
    folder: Path,
    *,
    days: int = 20,
    items_per_day: int = 150,
    clicks_per_day: int = 4000,
    users: int = 800,
    removed_at: bool = True,
    seed: int = 0,
) -> dict[str, int]:
    """Write the log as tables of the input contract.

    Parameters
    ----------
    folder : Path
        Output folder.
    days, items_per_day, clicks_per_day, users : int
        Sizes; clicks start after the first day.
    removed_at : bool
        Write the end of an item's life; otherwise it remains without further clicks.
    seed : int
        Random seed.

    Returns
    -------
    dict
        ``clicks``, ``items`` and ``users`` as written.
    """
    random = np.random.default_rng(seed)
    count, clicks = days * items_per_day, (days - 1) * clicks_per_day
    created = np.sort(_START_US + random.integers(0, days * DAY_US, count))
    created[:2] = _START_US  # both halves of the clicks have an item from the beginning
    appeal = np.exp(random.normal(0, 1.2, count))
    moment = np.sort(_START_US + DAY_US + random.integers(0, (days - 1) * DAY_US, clicks))
    item = _clicked(random, created, appeal, moment)
    user = random.integers(0, users, clicks)
    _, once = np.unique(np.stack([user, item]), axis=1, return_index=True)  # nobody reads an article twice
    once.sort()
    names = np.array([f"n{number:06d}" for number in range(count)])
    folder.mkdir(parents=True, exist_ok=True)
    interactions = {
        "user_id": pa.array([f"u{number:05d}" for number in user[once]]),
        "item_id": pa.array(names[item[once]]),
        "timestamp": pa.array(moment[once], _MOMENT),
        "label": pa.array(np.ones(len(once), np.int8)),
    }
    items = {"item_id": pa.array(names), "created_at": pa.array(created, _MOMENT)}
    if removed_at:
        items["removed_at"] = pa.array(created + _LIFE_US, _MOMENT)
    vectors = random.normal(size=(count, _WIDTH)).astype(np.float32)
    embeddings = {"item_id": pa.array(names), "text": pa.array(list(vectors), pa.list_(pa.float32()))}
    for name, columns in (("interactions", interactions), ("items", items), ("item_embeddings", embeddings)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return {"clicks": len(once), "items": count, "users": users}


def _clicked(
    random: np.random.Generator,
    created: np.ndarray[tuple[int], np.dtype[np.int64]],
    appeal: np.ndarray[tuple[int], np.dtype[np.float64]],
    moment: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Draw the item of each click."""
    born = np.searchsorted(created, moment, side="right")
    fresh = np.searchsorted(created, moment - DAY_US, side="right")
    alive = np.searchsorted(created, moment - _LIFE_US, side="right")
    new = random.random(len(moment)) < 0.5
    new |= fresh == alive  # no older item is left
    first, last = np.where(new, fresh, alive), np.where(new, born, fresh)
    total = np.concatenate([[0.0], np.cumsum(appeal)])
    drawn = total[first] + random.random(len(moment)) * (total[last] - total[first])
    return np.asarray(np.clip(np.searchsorted(total, drawn, side="right") - 1, first, last - 1))
