"""Choose the behaviour encoder's settings on windows that end before the evaluation window of the codebooks.

    python benchmarks/tune_encoder.py --data DATA... [--work FOLDER] [--seeds 2]

DATA is a folder in the input contract, or ``synthetic``. For each window, the encoder is fitted on the data before the window
and evaluated on Swing pairs of clicks within it, excluding training pairs. ``benchmarks/hit_rates.py`` does the same for the
last fifth of the log, which is not used here. Results, as gains over content in item-to-item hit rate at 30, go to
``benchmarks/results/tune_encoder.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from hit_rates import built

from ranking.data.dataset import read_rows
from ranking.pipeline.presets import load_preset
from semantic_ids.encoders import BehaviourEncoder, ContentEncoder
from semantic_ids.pairs.known_items import known_items, pairs_among
from semantic_ids.pairs.mining import EVALUATION_PAIRS
from semantic_ids.quality.hit_rate import by_vectors, held_out_pairs, hit_rates
from sidkit.core.repo import Repo
from sidkit.datasets.synthetic import Sizes

RESULTS = Path(__file__).parent / "results" / "tune_encoder.json"
WINDOWS = ((0.4, 0.6), (0.6, 0.8))
GRID = {"log_q": (1.0, 2.0, 3.0), "content_weight": (0.0, 0.5)}


def gains(repo: Repo, window: tuple[float, float], seeds: int) -> list[dict[str, Any]]:
    """The gain over content of every setting in one window, averaged over seeds."""
    at = np.sort(read_rows(repo.labelled_rows).at_us)
    start_us, end_us = (int(at[int(share * len(at))]) for share in window)
    before, items = known_items(repo, start_us), known_items(repo, end_us)
    content = ContentEncoder().fit(before.content)
    vectors = content.encode(items.content)
    preset = load_preset("saviorrec").codebook
    spec = preset.pairs
    training = pairs_among(repo, items, vectors, start_us, spec.model_copy(update={"rehearsal": 0.0}))
    future = pairs_among(repo, items, vectors, end_us, EVALUATION_PAIRS, start_us=start_us)
    asked = held_out_pairs(future, np.isin(items.ids, before.ids), training, most_triggers=2000)
    pairs = pairs_among(repo, before, content.encode(before.content), start_us, spec)
    rows = []
    for setting in itertools.product(*GRID.values()):
        arguments = {**preset.encoder_arguments, **dict(zip(GRID, setting, strict=True))}
        ways = {"content": by_vectors(vectors)}
        for seed in range(seeds):
            encoder = BehaviourEncoder(**{**arguments, "seed": seed}).fit(before.content, pairs)
            ways[f"{seed}"] = by_vectors(encoder.encode(items.content))
        report = hit_rates(ways, asked)
        row = {"window": window, **dict(zip(GRID, setting, strict=True)), "seeds": seeds}
        for part in ("seen", "new"):
            found = [report.difference(f"{seed}", "content", part) for seed in range(seeds)]
            row[part] = float(np.mean([gain.value for gain in found if gain])) if all(found) else None
            row[f"{part}_pairs"] = int(asked.rows(part).sum())
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=Path(".work") / "hit_rates")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    for data in options.data:
        name = Path(data).name.replace(":", "_")
        repo = built(data, options.work / name, Sizes(1_500_000, 4_000, 2_000))
        found = [row for window in WINDOWS for row in gains(repo, window, options.seeds)]
        kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[name] = found
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        for setting in itertools.product(*GRID.values()):
            rows = [row for row in found if tuple(row[part] for part in GRID) == setting]
            means = [float(np.mean([row[part] or 0.0 for row in rows])) for part in ("seen", "new")]
            print(f"{name:18} {dict(zip(GRID, setting, strict=True))}  seen {means[0]:+.4f}  new {means[1]:+.4f}")


if __name__ == "__main__":
    main()
