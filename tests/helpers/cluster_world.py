"""A log in which the cluster of an item's vector decides how often it is clicked, for tests of statistics of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from helpers.builders import DAY, START, FinishedJob, moments, run_fast_job, write_tables

RATES = np.array([0.04, 0.12, 0.3, 0.5, 0.7, 0.9])
ITEMS, USERS, EVENTS, DAYS = 72, 50, 5000, 40

PRESET = """
[codebook]
force = true
encoder = "content"
quantizer = "residual_kmeans"
sizes = [6, 4]
[codebook.stats]
depths = [1, 2]
[ranker]
serve = ["id"]
[ranker.model]
dim = 4
hidden = [4]
[ranker.training]
epochs = 1
[arms.id]
representations = ["id"]
features = ["!*code_*"]
[arms.content_codes]
representations = ["content"]
[arms.content_codes_shuffled]
representations = ["content"]
shuffle_codes = true
[arms.decoded_shuffled]
representations = ["content", "prefix_ngram"]
vectors = "decoded"
shuffle_codes = true
[arms.gbdt_codes]
kind = "gbdt"
[arms.gbdt_codes_shuffled]
kind = "gbdt"
shuffle_codes = true
[arms.gbdt_codes_random]
kind = "gbdt"
random_codes = true
"""


def cluster_tables(*, positives_only: bool = False, seed: int = 0) -> dict[str, pa.Table]:
    """The source. Item n is of cluster ``n % 6``; every twelfth moves to the next cluster in the middle of the log, and every
    eighth appears after a quarter of it.
    """
    rng = np.random.default_rng(seed)
    moving, late = np.arange(ITEMS) % 12 == 0, np.arange(ITEMS) % 8 == 1
    created = START + late * DAYS // 4 * DAY
    at = START + DAY + np.sort(rng.integers(0, (DAYS - 1) * DAY, size=EVENTS))
    item = rng.integers(ITEMS, size=EVENTS)
    item = np.where(created[item] < at, item, item - 1)
    middle = START + DAYS // 2 * DAY
    cluster = (item % 6 + (moving[item] & (at >= middle))) % 6
    label = np.ones(EVENTS, bool) if positives_only else rng.random(EVENTS) < RATES[cluster]
    versions = [*((n, created[n], n % 6) for n in range(ITEMS))]
    versions += [(n, middle, (n + 1) % 6) for n in range(ITEMS) if moving[n]]
    vectors = 4 * np.eye(6)[[cluster for *_, cluster in versions]] + rng.normal(0, 0.3, size=(len(versions), 6))
    interactions = {
        "user_id": pa.array([f"u{n}" for n in rng.integers(USERS, size=EVENTS)]),
        "item_id": pa.array([f"i{n}" for n in item]),
        "timestamp": moments(at.tolist()),
        "label": pa.array(label.astype(np.int8)),
    }
    if not positives_only:
        interactions["converted"] = pa.array((label & (rng.random(EVENTS) < 0.3)).astype(np.int8))
    return {
        "interactions": pa.table(interactions),
        "items": pa.table(
            {
                "item_id": pa.array([f"i{n}" for n in range(ITEMS)]),
                "created_at": moments(created.tolist()),
            }
        ),
        "item_embeddings": pa.table(
            {
                "item_id": pa.array([f"i{n}" for n, *_ in versions]),
                "updated_at": moments([int(moment) for _, moment, _ in versions]),
                "text": pa.array(vectors.astype("f4").tolist(), pa.list_(pa.float32())),
            }
        ),
    }


def cluster_job(folder: Path, *, positives_only: bool = False, stream_rows: int | None = None) -> FinishedJob:
    """The main job on this log, with arms on true, shuffled and random codes."""
    source = write_tables(folder / "source", cluster_tables(positives_only=positives_only))
    preset = folder / "clusters.toml"
    limit = f"epochs = 1\nstream_rows = {stream_rows}" if stream_rows is not None else "epochs = 1"
    preset.write_text(PRESET.replace("epochs = 1", limit))
    return run_fast_job(folder / "repo", preset, str(source))
