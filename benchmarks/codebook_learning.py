"""Costs of learning codebooks: k-means beside the same steps on faiss, and fits of vectors that come in blocks."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from processes import peak_mb

from sidkit.core.arrays import Floats

SIZES = (256, 256, 256)
CLUSTERS = 1000
ON_FAISS: list[float] = []


def clustered(rows: int, dim: int) -> Floats:
    """Vectors ``float32 [rows, dim]`` around random centres."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(CLUSTERS, dim)).astype(np.float32)
    vectors = np.empty((rows, dim), dtype=np.float32)
    for start in range(0, rows, 65_536):
        part = vectors[start : start + 65_536]
        rng.standard_normal(out=part, dtype=np.float32)
        part += centres[rng.integers(CLUSTERS, size=len(part))]
    return vectors


def ours(vectors: Floats, iterations: int) -> None:
    from semantic_ids import ResidualKMeans

    ResidualKMeans(SIZES, iterations).fit(vectors)


def on_faiss(vectors: Floats, iterations: int) -> None:
    """The steps of residual k-means, written on faiss, on the sample that ours learns from."""
    from quantizers import faiss_fit

    from semantic_ids.quantizers.training_sample import training_sample

    sample = vectors[training_sample(vectors, SIZES, 0)]
    began = time.process_time()
    faiss_fit(sample, 0, iterations)
    ON_FAISS.append(time.process_time() - began)


def kmeans(rows: int, dim: int, iterations: int, rounds: int) -> dict[str, Any]:
    """Processor seconds of both, in turns."""
    vectors = clustered(rows, dim)
    seconds: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        ours(vectors, iterations)
        seconds.append(time.process_time() - began)
        on_faiss(vectors, iterations)
    ratio = statistics.median(seconds) / statistics.median(ON_FAISS)
    return {"ours_s": seconds, "faiss_s": ON_FAISS, "ratio": round(ratio, 3)}


def memory(rows: int, dim: int) -> dict[str, Any]:
    """Peak memory of one fit of one iteration."""
    vectors = clustered(rows, dim)
    ours(vectors, 1)
    return {"rows_mb": round(vectors.nbytes / 2**20, 1), "peak_mb": peak_mb()}


def blocks(rows: int, dim: int, block: int) -> dict[str, Any]:
    """Peak memory of one fit of one iteration of vectors that are made when they are read."""
    from semantic_ids import ResidualKMeans

    rng = np.random.default_rng(0)
    made = (rng.standard_normal((min(block, rows - at), dim), dtype=np.float32) for at in range(0, rows, block))
    cpu = time.process_time()
    ResidualKMeans(SIZES, 1).fit_blocks(made)
    return {"rows": rows, "cpu_s": round(time.process_time() - cpu, 2), "peak_mb": peak_mb()}
