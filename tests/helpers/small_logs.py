"""Logs of a few items and a preset that trains for one epoch, for tests of what surrounds a ranker."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers.builders import (
    DAY,
    START,
    FinishedJob,
    embeddings_table,
    interactions_table,
    items_table,
    run_fast_job,
    write_tables,
)
from oracle.features import EmbeddingVersion, Event, ItemVersion

PRESET = """
[codebook]
encoder = "{encoder}"
{encoder_arguments}
quantizer = "{quantizer}"
falling = {falling}
[codebook.pairs]
sources = ["swing"]
[ranker]
serve = ["id", "id_codes"]
[ranker.model]
dim = 4
hidden = [4]
[ranker.training]
epochs = 1
[arms.id]
representations = ["id"]
features = ["!*code_*"]
[arms.id_codes]
representations = ["id", "prefix_ngram"]
"""


def write_log(
    folder: Path, items: int, *, users: int, width: int = 6, test_label: int | None = None, prefix: str = ""
) -> Path:
    """900 events on that many items; without ``users`` each event has a user of its own; ids begin with ``prefix``."""
    rng = np.random.default_rng(items)
    names = [f"{prefix}i{number}" for number in range(items)]
    label = (rng.random(900) < 0.4).astype(int)
    if test_label is not None:
        label[-90:] = test_label
    events = [
        Event(
            f"{prefix}u{number % users if users else number}",
            names[rng.integers(items)],
            START + number * DAY // 30,
            int(label[number]),
        )
        for number in range(900)
    ]
    vectors = rng.normal(size=(items, width)).astype("f4").tolist()
    return write_tables(
        folder,
        {
            "interactions": interactions_table(events),
            "items": items_table([ItemVersion(name, START, None, None, "c", 1.0) for name in names]),
            "item_embeddings": embeddings_table(
                [
                    EmbeddingVersion(name, None, {"text": tuple(vector)})
                    for name, vector in zip(names, vectors, strict=True)
                ],
                ("text",),
            ),
        },
    )


def run_small_job(tmp_path: Path, source: Path, **preset: str) -> FinishedJob:
    defaults = {"encoder": "content", "encoder_arguments": "", "quantizer": "residual_kmeans", "falling": "false"}
    path = tmp_path / "small.toml"
    path.write_text(PRESET.format(**{**defaults, **preset}))
    return run_fast_job(tmp_path / "repo", path, data=str(source))
