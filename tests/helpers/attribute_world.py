"""An invented log with attributes: users with a versioned country, items with attributes of every kind, a context column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from helpers.builders import DAY, START, fresh_repo, moments, write_tables
from sidkit.core.repo import Repo

COUNTRIES, CATEGORIES = ("at", "ch", "de"), ("bread", "cheese", "wine")
GENRES = ("dry", "fruity", "old", "young")
DEVICES = ("phone", "tablet", "web")
ITEMS, USERS, EVENTS = 60, 80, 3000

FEATURES = """
[features]
affinity = ["category"]

[features.items]
category = "category"
genres = "categories"
weight = "number"
best_before = "date"
organic = "flag"
shape = "vector"

[features.users]
country = "category"

[features.context]
device = "category"
"""
"""Settings of all columns of the world."""


def attribute_tables(events: int = EVENTS, seed: int = 0) -> dict[str, pa.Table]:
    """The source. Clicks depend on country x category and on device x weight, so that rankers can learn from attributes.

    Half of the users move to another country in the middle of the log (``updated_at``); every tenth item loses a genre.
    """
    rng = np.random.default_rng(seed)
    category, country = rng.integers(3, size=ITEMS), rng.integers(3, size=USERS)
    weight = np.round(rng.gamma(2, 0.4, size=ITEMS), 3)
    user, item = rng.integers(USERS, size=events), rng.integers(ITEMS, size=events)
    device = rng.integers(3, size=events)
    at = START + np.sort(rng.integers(0, 40 * DAY, size=events))
    moved = (at >= START + 20 * DAY) & (user % 2 == 0)
    lives = (country[user] + moved) % 3
    logit = -1.2 + 2.2 * (lives == category[item]) + 0.8 * (device == 0) * (weight[item] < 0.6)
    label = rng.random(events) < 1 / (1 + np.exp(-logit))
    genres = [[GENRES[n % 4], GENRES[(n // 4) % 4]][: 1 + n % 2] for n in range(ITEMS)]
    changed = [n for n in range(ITEMS) if n % 10 == 0]
    rows = [*range(ITEMS), *changed]
    moving = [n for n in range(USERS) if n % 2 == 0]
    return {
        "interactions": pa.table(
            {
                "user_id": [f"u{n}" for n in user],
                "item_id": [f"i{n}" for n in item],
                "timestamp": moments(at.tolist()),
                "label": pa.array(label.astype("i1")),
                "request_id": [f"r{n // 3}" for n in range(events)],
                "device": [DEVICES[n] for n in device],
                "dwell_time": pa.array(np.where(label, rng.gamma(2, 10, events), 0.0)),
            }
        ),
        "items": pa.table(
            {
                "item_id": [f"i{n}" for n in rows],
                "created_at": moments([START - (1 + n % 9) * DAY for n in rows]),
                "updated_at": moments([None] * ITEMS + [START + 15 * DAY] * len(changed)),
                "title": [f"item {n}" for n in rows],
                "category": [CATEGORIES[category[n]] for n in rows],
                "genres": ["|".join(genres[n]) for n in range(ITEMS)] + ["old" for _ in changed],
                "weight": pa.array([None if n % 13 == 5 else float(weight[n]) for n in rows], pa.float64()),
                "best_before": pa.array([20_000 + n for n in rows], pa.int32()).cast(pa.date32()),
                "organic": [n % 3 == 0 for n in rows],
                "shape": pa.array([[float(n % 5), 1.5] for n in rows], pa.list_(pa.float32())),
            }
        ),
        "item_embeddings": pa.table(
            {
                "item_id": [f"i{n}" for n in range(ITEMS)],
                "text": pa.array(rng.normal(size=(ITEMS, 6)).astype("f4").tolist(), pa.list_(pa.float32())),
            }
        ),
        "users": pa.table(
            {
                "user_id": [f"u{n}" for n in [*range(USERS), *moving]],
                "updated_at": moments([None] * USERS + [START + 20 * DAY] * len(moving)),
                "country": [COUNTRIES[country[n]] for n in range(USERS)]
                + [COUNTRIES[(country[n] + 1) % 3] for n in moving],
            }
        ),
    }


def attribute_source(folder: Path, **changed: pa.Table) -> Path:
    """Write the source; ``changed`` replaces tables."""
    return write_tables(folder, {**attribute_tables(), **changed})


def attribute_repo(path: Path, source: Path, features: str = FEATURES, **settings: Any) -> Repo:
    """A repo on the source with the features of the world."""
    repo = fresh_repo(path, source, **settings)
    set_features(repo, features)
    return repo


def set_features(repo: Repo, features: str) -> None:
    """Replace ``[features]`` in a repo's settings."""
    path = repo.path / "sidkit.toml"
    text = path.read_text()
    begin, end = text.index("[features]"), text.index("[catalog]")
    path.write_text(f"{text[:begin]}{features.strip()}\n\n{text[end:]}")
    repo.__dict__.pop("settings", None)
