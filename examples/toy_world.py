"""A custom data set: users click items close to their taste vector.

sidkit run --data examples/toy_world.py:ToyWorld --impressions 3000 --repo work/toy --preset examples/quantile_codes.toml
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.datasets.base import GeneratedDataset

START_US, DAY_US = 1_704_067_200_000_000, 86_400_000_000  # 2024-01-01
ITEMS, USERS, DIM = 90, 40, 6


class ToyWorld(GeneratedDataset):
    """Random impressions over 30 days; with ``ToyWorld:noisy``, clicks are random."""

    modalities = ("text",)

    def write(self, folder: Path, impressions: int) -> int:
        """Write the tables and return the number of impressions; see :class:`GeneratedDataset`."""
        rng = np.random.default_rng(0)
        items, users = rng.normal(size=(ITEMS, DIM)), rng.normal(size=(USERS, DIM))
        item, user = rng.integers(0, ITEMS, impressions), rng.integers(0, USERS, impressions)
        taste = 0.0 if self.variant == "noisy" else (items[item] * users[user]).sum(axis=1)
        clicked = rng.random(impressions) < 1 / (1 + np.exp(1.0 - taste))
        at = START_US + np.sort(rng.integers(0, 30 * DAY_US, impressions))
        ids = pa.array([f"i{number}" for number in range(ITEMS)])
        pq.write_table(
            pa.table(
                {
                    "user_id": pa.array([f"u{number}" for number in user]),
                    "item_id": ids.take(pa.array(item)),
                    "timestamp": pa.array(at, pa.timestamp("us", tz="UTC")),
                    "label": pa.array(clicked.astype(np.int8)),
                }
            ),
            folder / "interactions.parquet",
        )
        created = pa.array(np.full(ITEMS, START_US - DAY_US), pa.timestamp("us", tz="UTC"))
        pq.write_table(
            pa.table({"item_id": ids, "created_at": created, "category": pa.array(["toy"] * ITEMS)}),
            folder / "items.parquet",
        )
        vectors = pa.array(list(items.astype(np.float32)), pa.list_(pa.float32()))
        pq.write_table(pa.table({"item_id": ids, "text": vectors}), folder / "item_embeddings.parquet")
        return impressions
