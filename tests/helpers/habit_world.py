"""An invented log in which each user clicks one category, and nothing else matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from helpers.attribute_world import attribute_repo
from helpers.builders import DAY, START, moments, write_tables
from ranking.pipeline.prepare import Prepared
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.stores.feast_repo import materialize
from sidkit.tables.labelled_rows import build_labelled_rows

END = START + 31 * DAY
USERS, ITEMS, EVENTS = 60, 30, 3600
FEATURES = """
[features]
affinity = ["category", "genres"]

[features.items]
category = "category"
genres = "categories"
"""


def habit_source(folder: Path, seed: int = 0) -> Path:
    """Write the source; an item's category changes in the middle of the log for every tenth item."""
    rng = np.random.default_rng(seed)
    liked = rng.integers(5, size=USERS)
    user, item = rng.integers(USERS, size=EVENTS), rng.integers(ITEMS, size=EVENTS)
    at = START + np.sort(rng.choice(30 * 24 * 3600, size=EVENTS, replace=False)) * 1_000_000
    moved = (item % 10 == 0) & (at >= START + 15 * DAY)
    category = (item + moved) % 5
    label = rng.random(EVENTS) < np.where(liked[user] == category, 0.75, 0.1)
    names = [*range(ITEMS), *range(0, ITEMS, 10)]
    now = [n % 5 for n in range(ITEMS)] + [(n + 1) % 5 for n in range(0, ITEMS, 10)]
    return write_tables(
        folder,
        {
            "interactions": pa.table(
                {
                    "user_id": [f"u{n}" for n in user],
                    "item_id": [f"i{n}" for n in item],
                    "timestamp": moments(at.tolist()),
                    "label": pa.array(label.astype("i1")),
                }
            ),
            "items": pa.table(
                {
                    "item_id": [f"i{n}" for n in names],
                    "created_at": moments([START - DAY] * len(names)),
                    "updated_at": moments([None] * ITEMS + [START + 15 * DAY - 60_000_000] * (len(names) - ITEMS)),
                    "title": [f"item {n}" for n in names],
                    "category": [f"c{n}" for n in now],
                    "genres": [None if n == 7 else ["g", f"g{k}", f"g{k}"] for n, k in zip(names, now, strict=True)],
                }
            ),
            "item_embeddings": pa.table(
                {
                    "item_id": [f"i{n}" for n in range(ITEMS)],
                    "text": pa.array(rng.normal(size=(ITEMS, 4)).astype("f4").tolist(), pa.list_(pa.float32())),
                }
            ),
        },
    )


def habit_repo(folder: Path) -> Repo:
    """A repo with tables, the published codebook ``c``, labelled rows and materialized features."""
    repo = attribute_repo(folder / "repo", habit_source(folder / "source"), FEATURES)
    prepared = Prepared(repo, Stages(repo.runs / "some" / "stages.json"), repo.settings.source.url, 0)
    with repo.locked():
        log = prepared.ingest()
        facts = prepared.tables(log, END).facts
        prepared.codebook("c", CodebookSpec(force=True, sizes=(4, 4)), START + 20 * DAY, [log, facts["rows"]])
        build_labelled_rows(repo)
    materialize(repo, END)
    return repo
