"""Does the weighting of pairs by behaviour mass (MMQ-v2) make a better encoder, where the encoder does not keep content?

    python benchmarks/mass_encoders.py --data DATA [--work .work/family] [--seeds 2]

Fits the encoders of the arms ``id_codes_behaviour`` (all pairs alike), ``id_codes_mass`` (by mass) and
``id_codes_mass_shuffled`` (by the mass of random items) on the repository of ``benchmarks/family.py``, up to the end of the
window of its codebooks that learn from clicks. Results go to ``benchmarks/results/mass_encoders.json``: the mean log rank of
held-out pairs, for content and at the best evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from planning import record

from ranking.experiments.comparison.arms import shipped_arms
from ranking.experiments.comparison.comparison import data_name
from semantic_ids.catalog import Catalog
from semantic_ids.fit_pairs import known_at, pairs_of_fit
from semantic_ids.fitting import build_models
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mass_encoders.json"
ARMS = ("id_codes_behaviour", "id_codes_mass", "id_codes_mass_shuffled")


def main() -> None:
    """Fit the encoders with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "family")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    repo = Repo.open(options.work / data_name(options.data))
    arms = {name: shipped_arms()[name].codebook_spec() for name in ARMS}
    ends = {record.fit_end_us for record in Catalog.open(repo).codebooks() if record.encoder.startswith("behaviour")}
    if len(ends) != 1:
        raise SystemExit(
            "expected one window of codebooks that learn from clicks; run benchmarks/family.py first, one origin"
        )
    fit_end_us, known = known_at(repo, ends.pop())
    pairs = pairs_of_fit(repo, "mass_encoders", known, fit_end_us, arms["id_codes_mass"].pairs, None)
    for name, spec in arms.items():
        encoder, _ = build_models(spec, len(known), distinct=known.content.distinct())
        curves = []
        for seed in range(options.seeds):  # which also draws the held-out items
            encoder.seed = seed
            curves.append(encoder.fit(known.content, pairs).curve_)
        by_seed = {"content": [curve[0] for curve in curves], "best": [min(curve) for curve in curves]}
        found = {"encoder": spec.encoder_arguments, "pairs": len(pairs), **by_seed}
        record(RESULTS, data_name(options.data), name, found)
        print(name, found, flush=True)


if __name__ == "__main__":
    main()
