"""Memory of writing a frame and training on it as the number of rows grows, on disk and in memory.

    python benchmarks/streaming.py --work FOLDER [--rows 300000 3000000] [--impressions 60000]

FOLDER holds a repo with a small synthetic world, its tables and a codebook; an existing one is reused. The labelled rows are
sampled with replacement from the world's rows, so more rows add no items and hardly any histories (and compress better than
a real log). Every cell runs in its own process on one thread; ``peak_mb`` is its peak resident memory, ``cpu_s`` its CPU
seconds. ``frame`` retrieves and writes the training part; ``train`` fits scaling and vocabulary, trains one epoch of the arm
that uses ids only, and scores the evaluation rows. Results go to ``benchmarks/results/streaming.json``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import importlib.metadata
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import in_a_process, peak_mb

RESULTS = Path(__file__).parent / "results" / "streaming.json"
EVALUATION_ROWS, BATCH_ROWS = 10_000, 4096
NO_CAP = 10**9


def prepared(work: Path, impressions: int) -> dict[str, Any]:
    """A repo with a fitted codebook; returns the codebook's name."""
    from ranking.data.labelled_rows import read_moments
    from ranking.data.split import TimeSplit
    from ranking.pipeline.prepare import Prepared, end_of_log, prepare_repo
    from ranking.pipeline.presets import load_preset
    from ranking.pipeline.run import JobOptions
    from sidkit.core.stages import Stages

    repo = prepare_repo("synthetic", work / "repo")
    own = work / "own-rows.parquet"
    if own.exists():
        repo.labelled_rows.write_bytes(own.read_bytes())
    options = JobOptions("synthetic", "rqkmeans", load_preset("rqkmeans"), impressions=impressions)
    with repo.locked():
        stages = Prepared(repo, Stages(work / "repo" / "stages.json"), "synthetic", impressions)
        log = stages.ingest()
        stages.rows(log)
        stages.tables(log, end_of_log(repo))
        split = TimeSplit.of(read_moments(repo.labelled_rows), repo.settings.split)
        name = stages.codebook("bench", options.preset.codebook, split.train_end_us, [log])
    own.write_bytes(repo.labelled_rows.read_bytes())
    return {"codebook": name, "split": asdict(split)}


def draw_rows(work: Path, rows: int, split: Any) -> None:
    """Replace the labelled rows: ``rows`` training rows sampled with replacement, the others unchanged."""
    from sidkit.core.repo import Repo

    table = pq.read_table(work / "own-rows.parquet")
    at_us = table.column("event_timestamp").cast(pa.int64()).to_numpy()
    trained = np.searchsorted(at_us, split.train_end_us)
    chosen = np.sort(np.random.default_rng(0).integers(0, trained, rows))
    with pq.ParquetWriter(Repo(work / "repo").labelled_rows, table.schema) as writer:
        for start in range(0, rows, 200_000):
            writer.write_table(table.take(pa.array(chosen[start : start + 200_000])))
        writer.write_table(table.slice(trained))


def frame_cell(work: Path, rows: int, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Retrieve the features of all rows and save them."""
    from ranking.data.caps import Caps
    from ranking.data.dataset import read_rows
    from ranking.data.disk_frame import DiskFrame, write_disk_frame
    from ranking.data.split import TimeSplit
    from ranking.pipeline.prepare import Prepared
    from sidkit.core.repo import Repo
    from sidkit.core.stages import Stages

    repo = Repo.open(work / "repo")
    split = TimeSplit(**facts["split"])
    draw_rows(work, rows, split)
    caps, folder = Caps(NO_CAP, EVALUATION_ROWS), work / f"frame-{kind}"
    before, began = peak_mb(), time.process_time()
    if kind == "streamed":
        write_disk_frame(repo, facts["codebook"], repo.labelled_rows, split, caps, folder)
    else:
        stages = Stages(work / f"stages-{kind}-{rows}.json")
        kept = Prepared(repo, stages, "synthetic", 0)
        kept.frame("frame", [began], facts["codebook"], read_rows(repo.labelled_rows), split, caps, folder)
    told = {"cpu_s": round(time.process_time() - began, 1), "before_mb": before, "peak_mb": peak_mb()}
    data = DiskFrame.load(folder)
    return {
        **told,
        "rows_per_cpu_s": round(rows / told["cpu_s"]),
        "items": len(data.data.items),
        "histories": len(data.data.history_items),
        "disk_mb": round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20, 1),
    }


def train_cell(work: Path, rows: int, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Train one epoch on a saved frame."""
    import dataclasses

    from ranking.data.split import TimeSplit
    from ranking.pipeline.prepare import training_context
    from ranking.pipeline.presets import load_preset
    from ranking.training.arms import train_arm
    from ranking.training.spec import TrainingSpec
    from sidkit.core.repo import Repo

    preset = load_preset("rqkmeans")
    split = TimeSplit(**facts["split"])
    before, began = peak_mb(), time.process_time()
    context = training_context(
        Repo.open(work / "repo"), facts["codebook"], split, work / f"frame-{kind}", preset.ranker, None, threads=1
    )
    assert len(context.train) == rows
    training = TrainingSpec(epochs=1, batch_rows=BATCH_ROWS, device="cpu")
    context = dataclasses.replace(context, spec=context.spec.model_copy(update={"training": training}))
    result = train_arm(context, "id", preset.arms["id"], 0, "bench")
    seconds = time.process_time() - began
    return {
        "cpu_s": round(seconds, 1),
        "before_mb": before,
        "peak_mb": peak_mb(),
        "rows_per_cpu_s": round(rows / seconds),
        "validation_auc": round(result.validation_auc, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 3_000_000])
    parser.add_argument("--impressions", type=int, default=60_000)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    facts = in_a_process(prepared, asked.work, asked.impressions)
    records: list[dict[str, Any]] = []
    for kind in ("streamed", "in_memory"):
        for rows in asked.rows:
            for cell, work in (("frame", frame_cell), ("train", train_cell)):
                told = in_a_process(work, asked.work, rows, kind, facts)
                records.append({"cell": cell, "kind": kind, "rows": rows, **told})
                print(records[-1], flush=True)
                write(records, asked)


def write(records: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Write the results so far."""
    result = {
        "command": f"python benchmarks/streaming.py --work FOLDER --rows {' '.join(map(str, asked.rows))} "
        f"--impressions {asked.impressions}",
        "shapes": {"evaluation_rows": EVALUATION_ROWS, "batch_rows": BATCH_ROWS, "threads": 1, "epochs": 1},
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "numpy", "pyarrow", "duckdb", "feast")
        }
        | {"python": platform.python_version()},
        "records": records,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
