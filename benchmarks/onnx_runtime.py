"""Forward passes by onnxruntime and by torch, on the same batch, in processor time of one thread.

    python benchmarks/onnx_runtime.py --repo FOLDER [--ranker NAME] [--user ID] [--candidates 500] [--repeats 300] [--out FILE]

``forward`` starts from the tensors of a request and ends with logits; ``score`` also makes the tensors from arrays of features.
The two take turns, so that other load meets both. Processor time does not count what other processes take; the smallest and the
median time are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import torch

import sidkit
from ranking.serving.onnx_export import OnnxRanker, export_ranker
from ranking.serving.scorer import Scorer
from ranking.training.ranker import Ranker
from sidkit.core.repo import Repo
from sidkit.tables import read_build

OUT = Path(__file__).parent / "results" / "onnx.json"


def times(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the processor per call of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            began = time.process_time()
            work()
            taken[name].append(1000 * (time.process_time() - began))
    return {
        name: {"min_ms": round(min(each), 3), "median_ms": round(float(np.median(each[len(each) // 10 :])), 3)}
        for name, each in taken.items()
    }


def measured(repo: Repo, name: str | None, user: str | None, candidates: int, repeats: int) -> dict[str, Any]:
    """The measurement of one ranker."""
    scorer = Scorer(repo, name)
    ranker = scorer.ranker
    if not isinstance(ranker, Ranker):
        raise SystemExit(f"{scorer.record.name} has no torch model")
    items = pq.read_table(repo.tables / "item_content.parquet", columns=["item_id"]).column(0).unique().to_pylist()
    if user is None:
        users = pq.read_table(repo.tables / "user_history.parquet", columns=["user_id"]).column(0)
        user = max(users.value_counts().to_pylist(), key=lambda each: (each["counts"], each["values"]))["values"]
    given = (items * (candidates // len(items) + 1))[:candidates]
    data = scorer.read(user, given, read_build(repo)["as_of_us"]).data
    [batch] = ranker.batches(data).batches(len(data))
    with tempfile.TemporaryDirectory() as folder:
        exported = export_ranker(repo, scorer, Path(folder) / "ranker.onnx")
        by_onnx = OnnxRanker(exported.path, ranker)

        def by_torch() -> torch.Tensor:
            with torch.inference_mode():
                return ranker.model(batch)

        difference = float(np.abs(by_onnx.logits(batch) - by_torch().numpy()).max())
        forward = times({"torch": by_torch, "onnxruntime": lambda: by_onnx.logits(batch)}, repeats)
        score = times({"torch": lambda: ranker.score(data), "onnxruntime": lambda: by_onnx.score(data)}, repeats)
    return {
        "ranker": scorer.record.name,
        "representations": list(ranker.config.representations),
        "history": ranker.config.model.history,
        "candidates": len(data),
        "items": len(batch.items.index),
        "history_length": batch.history.shape[1],
        "numeric": batch.numeric.shape[1],
        "largest_difference_of_logits": difference,
        "forward": forward,
        "score": score,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--ranker", action="append")
    parser.add_argument("--user")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    repo = sidkit.open(options.repo).repo
    rows = [
        measured(repo, name, options.user, options.candidates, options.repeats) for name in options.ranker or [None]
    ]
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    options.out.write_text(json.dumps({"machine": machine, "versions": versions, "rankers": rows}, indent=2) + "\n")
    for row in rows:
        for stage in ("forward", "score"):
            one, other = (row[stage][engine] for engine in ("torch", "onnxruntime"))
            print(
                f"{row['ranker']} {stage}: torch {one['min_ms']:.2f} ms, onnxruntime {other['min_ms']:.2f} ms "
                f"(median {one['median_ms']:.2f} and {other['median_ms']:.2f})"
            )


if __name__ == "__main__":
    main()
