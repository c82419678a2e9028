"""Item-to-item hit rate at 30 of encoders and quantizers, on pairs of clicks after the fit.

    python benchmarks/hit_rates.py --data DATA... [--work FOLDER] [--seeds 3]

DATA is a folder in the input contract, or ``synthetic``, ``synthetic:weak`` and so on. Every codebook is fitted on the data
before the 80 % quantile of the labelled rows' times and evaluated on Swing pairs of later clicks, excluding training pairs.
Baselines are popularity, raw content and co-occurrence. Intervals are over triggers; results of several seeds
are averaged per pair. Results go to ``benchmarks/results/hit_rates.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from ranking.data.dataset import read_rows
from ranking.data.split import TimeSplit
from ranking.pipeline.prepare import end_of_log, prepare_repo
from ranking.pipeline.presets import load_preset
from semantic_ids import lifecycle
from semantic_ids.lifecycle import CodebookSpec
from semantic_ids.quality.future_hit_rate import future_hits
from semantic_ids.quality.hit_rate import SLICES, HitReport, NotMeasured
from sidkit.core.repo import Repo
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.tables import build_tables, ingest
from sidkit.tables.labelled_rows import build_labelled_rows

RESULTS = Path(__file__).parent / "results" / "hit_rates.json"


def built(data: str, folder: Path, sizes: Sizes) -> Repo:
    """A repo with its log and feature tables; built once."""
    repo = prepare_repo(data, folder)
    source = Path(repo.settings.source.url)
    if data.startswith("synthetic") and not source.exists():
        write_world(source, data.partition(":")[2] or "strong", sizes)
    with repo.locked():
        ingest(repo)
        build_labelled_rows(repo)
        build_tables(repo, end_of_log(repo))
    return repo


def evaluated(repo: Repo, seeds: int) -> tuple[HitReport, dict[str, Any]]:
    split = TimeSplit.of(read_rows(repo.labelled_rows).at_us, repo.settings.split)
    presets = {name: load_preset(name).codebook for name in ("saviorrec", "smile")}
    mined = presets["saviorrec"].pairs  # the same behaviour for all
    specs: dict[str, CodebookSpec] = {
        encoder: CodebookSpec(encoder=encoder, encoder_arguments={"dim": 64}, beam=4, pairs=mined)
        for encoder in ("content", "collaborative")
    }
    specs["behaviour"] = presets["saviorrec"].model_copy(
        update={"quantizer": "residual_kmeans", "quantizer_arguments": {}, "beam": 4}
    )
    specs |= presets
    reports: dict[str, list[HitReport]] = {}
    told: dict[str, Any] = {}
    for key, spec in specs.items():
        for seed in range(seeds):
            arguments = dict(spec.encoder_arguments) | ({"seed": seed} if spec.encoder == "behaviour" else {})
            quantizer = dict(spec.quantizer_arguments) | {"seed": seed}
            made = spec.model_copy(update={"encoder_arguments": arguments, "quantizer_arguments": quantizer})
            name = f"bench_{key}_{seed}"
            began = time.monotonic()
            with repo.locked():
                lifecycle.fit(repo, name, made, split.train_end_us)
            told.setdefault(key, []).append(round(time.monotonic() - began, 1))
            found = future_hits(repo, [name], end_of_log(repo), baselines=seed == 0 and key == "content")
            if isinstance(found, NotMeasured):
                raise SystemExit(found.reason)
            reports.setdefault(key, []).append(found)
    first = reports["content"][0]
    ways = {way: first.hits[way] for way in ("popularity", "content", "collaborative")}
    hits = {f"baseline:{way}": values for way, values in ways.items()}
    for key, found in reports.items():
        for suffix in ("", ":decoded", ":codes"):
            rows = [report.hits[f"bench_{key}_{seed}{suffix}"] for seed, report in enumerate(found)]
            hits[key + suffix] = np.mean(rows, axis=0)
    return HitReport(first.pairs, first.k, hits), {"fit_seconds": told, "fit_end": split.describe()}


def rows_of(data: str, report: HitReport, seeds: int) -> list[dict[str, Any]]:
    rows = []
    for way in report.hits:
        for part in SLICES:
            rate, gain = report.rate(way, part), report.difference(way, "content", part)
            if rate is None or gain is None:
                continue
            rows.append(
                {
                    "data": data, "way": way, "slice": part, "seeds": seeds, "pairs": int(report.pairs.rows(part).sum()),
                    **rate.as_json(), "minus_content": gain.as_json(),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=Path(".work") / "hit_rates")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--impressions", type=int, default=1_500_000, help="of a synthetic world")
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=2_000)
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for data in options.data:
        name = Path(data).name.replace(":", "_")
        repo = built(data, options.work / name, Sizes(options.impressions, options.users, options.items))
        report, facts = evaluated(repo, options.seeds)
        kept[name] = {**facts, "rows": rows_of(name, report, options.seeds)}
        for row in kept[name]["rows"]:
            gain = row["minus_content"]
            print(
                f"{name:18} {row['way']:24} {row['slice']:5} {row['pairs']:6,} {row['value']:.4f} "
                f"[{row['low']:.4f}, {row['high']:.4f}]  - content {gain['value']:+.4f} "
                f"[{gain['low']:+.4f}, {gain['high']:+.4f}]",
                flush=True,
            )
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
