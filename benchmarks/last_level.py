"""The last level of residual k-means: global, balanced, or local to a parent, at equal sizes and at equal stored floats.

    OMP_NUM_THREADS=1 python benchmarks/last_level.py [--rows 20000] [--seeds 3]

Sizes are (128, 32, 16). A local level stores codewords per parent, so it is also compared with a global level and with OPQ
codes of as many stored floats (at most one codeword per row; five iterations). ``unique`` is the share of rows of the fit
with a code of their own, ``error`` sum |x - x_hat|^2 / sum |x - mean|^2 on rows of the fit, ``held_out`` the same on 5,000
other rows of the same mixture. Results go to ``benchmarks/results/last_level.json``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and faiss are loaded

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from semantic_ids.quality.code_metrics import independent_code_rate, reconstruction_error
from semantic_ids.quantizers import Quantizer, ResidualKMeans, ResidualOPQ
from sidkit.core.arrays import Floats
from sidkit.core.files import write_json

RESULTS = Path(__file__).parent / "results" / "last_level.json"
SIZES = (128, 32, 16)


def mixture(rows: int, dim: int, clusters: int, seed: int) -> Floats:
    """Rows of clusters of Zipf sizes."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, clusters + 1)
    centres = rng.normal(size=(clusters, dim))
    place = rng.choice(clusters, rows, p=weights / weights.sum())
    return np.asarray(centres[place] + 0.5 * rng.normal(size=(rows, dim)), dtype=np.float32)


def stored_floats(quantizer: Quantizer) -> int:
    """Floats of all codebooks and rotations."""
    return sum(tensor.size for tensor in quantizer.tensors().values() if tensor.dtype.kind == "f")


def measured(quantizer: Quantizer, fitted: Floats, held: Floats) -> dict[str, float]:
    """Fit a quantizer and measure it."""
    began = time.process_time()
    quantizer.fit(fitted)
    fit_s = time.process_time() - began
    codes = quantizer.encode(fitted)
    return {
        "stored_floats": stored_floats(quantizer),
        "unique": independent_code_rate(codes),
        "error": reconstruction_error(fitted, quantizer.decode(codes)),
        "held_out": reconstruction_error(held, quantizer.decode(quantizer.encode(held))),
        "fit_s": fit_s,
    }


def compare(rows: int, seed: int) -> dict[str, dict[str, float]]:
    """All variants on one mixture."""
    data = mixture(rows + 5_000, 32, 400, seed)
    fitted, held = data[:rows], data[rows:]

    def residual(sizes: tuple[int, ...] = SIZES, **arguments: Any) -> dict[str, float]:
        return measured(ResidualKMeans(sizes, seed=seed, force=True, **arguments), fitted, held)

    def opq(last: int) -> dict[str, float]:
        return measured(ResidualOPQ(SIZES, (last, last), seed=seed, force=True), fitted, held)

    found = {
        "global": residual(),
        "balanced": residual(last_level="balanced"),
        "local to the level before": residual(last_level="local", local_parent="level"),
        "local to the prefix": residual(last_level="local"),
        "global and two OPQ codes of 16": opq(16),
    }
    for name in ("local to the level before", "local to the prefix"):
        words = min(int(found[name]["stored_floats"]) // 32 - sum(SIZES[:2]), rows)
        found[f"global, floats of {name}"] = residual((*SIZES[:2], words), iterations=5)
    left = found["local to the level before"]["stored_floats"] - sum(SIZES) * 32 - 32 * 32
    found["global and two OPQ codes, floats of local to the level before"] = opq(int(left // 32))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    runs = [compare(options.rows, seed) for seed in range(options.seeds)]
    mean = {name: {key: float(np.mean([run[name][key] for run in runs])) for key in runs[0][name]} for name in runs[0]}
    write_json(RESULTS, {"rows": options.rows, "seeds": options.seeds, "sizes": SIZES, "mean": mean, "runs": runs})
    for name, row in mean.items():
        print(
            f"{name:60} {row['stored_floats']:>9,.0f} floats, unique {row['unique']:.3f}, error {row['error']:.3f}, "
            f"held out {row['held_out']:.3f}, fit {row['fit_s']:.1f} s"
        )


if __name__ == "__main__":
    main()
