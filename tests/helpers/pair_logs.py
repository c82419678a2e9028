"""Logs to mine pairs from, and the pairs mined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from helpers.builders import START, interactions_table
from oracle.features import Event
from semantic_ids.pairs.mining import ItemPairs, PairSpec, mine_pairs
from sidkit.core.arrays import Floats
from sidkit.core.config import EngineSettings

DELAY = 60
ITEMS = [f"i{number}" for number in range(9)]
KNOWN = ["i4", "i0", "i7", "i2", "i1", "i3", "i6"]  # neither sorted nor all of them
VECTORS = np.random.default_rng(5).normal(size=(len(KNOWN), 3)).astype(np.float32)
VECTORS[2] = VECTORS[4]  # i7 and i1 are equally similar to everything
VECTORS[6] = 0


def mined(
    folder: Path,
    events: list[Event],
    spec: PairSpec | None = None,
    *,
    end: int = START + 10_000,
    start: int | None = None,
    ids: list[str] | None = None,
    vectors: Floats | None = None,
    files: int = 1,
    threads: int = 1,
) -> ItemPairs:
    """Pairs of a log that is written as ``files`` parts, in the order given."""
    parts = []
    for number in range(files):
        parts.append(folder / f"part-{number}.parquet")
        pq.write_table(interactions_table(events[number::files]), parts[-1], row_group_size=7)
    return mine_pairs(
        parts,
        ids or KNOWN,
        VECTORS if vectors is None else vectors,
        end,
        spec,
        delay_us=DELAY,
        engine=EngineSettings(threads=threads),
        spill=folder / "spill",
        start_us=start,
    )


def random_log(rows: int = 900, users: int = 40, seed: int = 0) -> list[Event]:
    rng = np.random.default_rng(seed)
    return [
        Event(f"u{rng.integers(users)}", ITEMS[int(9 * rng.random() ** 2)], START + int(rng.integers(0, 400)), 1, None)
        for _ in range(rows)
    ]


def the_same(left: ItemPairs, right: ItemPairs) -> None:
    for name in ("trigger", "target", "weight", "clicks"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
