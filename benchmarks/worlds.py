"""Ceilings of the synthetic worlds: AUC of the true and of the knowable click probabilities.

    python benchmarks/worlds.py --impressions 200000 --seed 0

Prints a Markdown table of the last 10 % of the log in time. Cold rows have an item with fewer than 10 earlier impressions.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.datasets.worlds import WORLDS

COLD_BELOW = 10
TEST_SHARE = 0.1


def main() -> None:
    """Write each world into a temporary folder and print its line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| world | rows | positives | oracle | fair ceiling | cold rows | cold positives | oracle | fair ceiling |")
    print("| --- " * 9 + "|")
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / world
            write_world(written, world, Sizes(options.impressions), options.seed)
            print(f"| `{world}` | {' | '.join(cells(written))} |")


def cells(folder: Path) -> list[str]:
    """Return rows, positives, oracle and ceiling of all test rows, then of cold ones."""
    log = pq.read_table(folder / "oracle.parquet").to_pandas()
    log["label"] = pq.read_table(folder / "interactions.parquet", columns=["label"])["label"].to_numpy()
    cold = log.groupby("item_id").cumcount() < COLD_BELOW
    test = np.arange(len(log)) >= (1 - TEST_SHARE) * len(log)
    return [*_cells(log[test]), *_cells(log[test & cold])]


def _cells(rows: pd.DataFrame) -> list[str]:
    label = rows["label"]
    aucs = [roc_auc_score(label, rows[name]) for name in ("probability", "knowable_probability")]
    return [f"{len(rows):,}", f"{label.sum():,}", *(f"{auc:.4f}".removeprefix("0") for auc in aucs)]


if __name__ == "__main__":
    main()
