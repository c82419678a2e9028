"""Do behaviour vectors memorise the popularity of their window? R2 of log clicks within and after it, by encoder settings.

    python benchmarks/popularity.py --data DATA... [--work .work/mechanisms] [--seeds 2]

DATA are data sets that ``benchmarks/mechanisms.py`` prepared in the same work folder. Encoders and the RQ-VAE are fitted on the
first 30 % of the log, like the codebooks of rankers. A ridge regression on their vectors predicts ``log(1 + clicks)`` of the
items known then: the clicks of the window, and those after it, up to the end of the training rows. R2 is that of five-fold
cross-validation over items, so that it measures what the vectors hold and not what the regression memorises; the mean over
seeds. Pairs are Swing pairs after the window, excluding those of the fit: the share whose target is among the 30 nearest items.
Results go to ``benchmarks/results/popularity.json``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import duckdb
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from ranking.data.split import TimeSplit, codebook_end
from ranking.experiments.comparison.comparison import data_name
from ranking.pipeline.presets import load_preset
from semantic_ids.encoders import ContentEncoder
from semantic_ids.fitting import build_models
from semantic_ids.pairs.known_items import KnownItems, known_items, pairs_among
from semantic_ids.pairs.mining import EVALUATION_PAIRS
from semantic_ids.quality.hit_rate import by_vectors, held_out_pairs, hit_rates
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.files import read_json, write_json
from sidkit.core.repo import Repo
from sidkit.tables import read_log
from sidkit.tables.labelled_rows import log_moments

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "popularity.json"
LOG_Q = (0.0, 1.0, 2.0)
CONTRAST = (0.0, 0.1, 1.0)
ALPHAS = tuple(10.0**power for power in range(-1, 5))
SHARE = 0.3


def clicks(repo: Repo, items: KnownItems, start_us: int, end_us: int) -> Doubles:
    """``log(1 + clicks)`` of the items in ``[start_us, end_us)``."""
    files = [str(path) for path in read_log(repo).parts]
    rows = duckdb.sql(
        "SELECT item_id, count(*) AS clicks FROM read_parquet($files) WHERE label = 1 AND epoch_us(timestamp) >= $start "
        "AND epoch_us(timestamp) < $end GROUP BY item_id",
        params={"files": files, "start": start_us, "end": end_us},
    ).fetchall()
    known = dict(rows)
    return np.log1p(np.array([known.get(item, 0) for item in items.ids], np.float64))


def r_squared(vectors: Floats, target: Doubles) -> float:
    """R2 of five-fold cross-validation."""
    scaled = StandardScaler().fit_transform(vectors.astype(np.float64))
    folds = KFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(RidgeCV(ALPHAS), scaled, target, cv=folds)
    return float(1 - ((target - predicted) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def measured(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one data set, by encoder or quantizer."""
    repo = Repo.open(options.work / data_name(data))
    moments = log_moments(repo)
    split, end_us = TimeSplit.of(moments, repo.settings.split), codebook_end(moments, SHARE)
    items = known_items(repo, end_us)
    within, after = clicks(repo, items, 0, end_us), clicks(repo, items, end_us, split.train_end_us)
    preset = load_preset("saviorrec").codebook
    content = ContentEncoder().fit(items.content).encode(items.content)
    pairs = pairs_among(repo, items, content, end_us, preset.pairs)
    future = pairs_among(repo, items, content, split.train_end_us, EVALUATION_PAIRS, start_us=end_us)
    asked = held_out_pairs(future, np.ones(len(items), bool), pairs, most_triggers=2000)
    found: dict[str, list[dict[str, float]]] = {}

    def note(name: str, vectors: Floats) -> None:
        hits = hit_rates({name: by_vectors(vectors)}, asked).rate(name, "all")
        facts = {
            "within": r_squared(vectors, within),
            "after": r_squared(vectors, after),
            "hits": hits.value if hits else None,
        }
        found.setdefault(name, []).append(facts)
        print(data_name(data), name, facts, flush=True)

    note("content", content)
    for seed in range(options.seeds):
        for log_q in LOG_Q:
            arguments = {**preset.encoder_arguments, "log_q": log_q, "seed": seed}
            spec = preset.model_copy(update={"encoder_arguments": arguments})
            encoder, _ = build_models(spec, len(items), distinct=items.content.distinct())
            vectors = encoder.fit(items.content, pairs).encode(items.content)
            note(f"behaviour, log_q {log_q:g}", vectors)
        for contrast in CONTRAST:  # on the vectors of the preset's encoder, the last of LOG_Q
            spec = preset.model_copy(update={"quantizer_arguments": {"contrast": contrast, "seed": seed}})
            _, quantizer = build_models(spec, len(items), distinct=items.content.distinct())
            quantizer.fit(vectors, pairs if contrast else None)
            note(f"RQ-VAE of log_q {LOG_Q[-1]:g}, contrast {contrast:g}", quantizer.decode(quantizer.encode(vectors)))
    return {
        "items": len(items),
        "clicked_within": int((within > 0).sum()),
        "pairs": len(pairs),
        "future_pairs": len(asked.trigger),
        "r_within_after": float(np.corrcoef(within, after)[0, 1]),
        "vectors": {
            name: {key: float(np.mean([each[key] for each in by_seed])) for key in by_seed[0]}
            for name, by_seed in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "mechanisms")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    for data in options.data:
        facts = measured(data, options)
        write_json(RESULTS, {**(read_json(RESULTS) if RESULTS.exists() else {}), data_name(data): facts})


if __name__ == "__main__":
    main()
