"""Other settings for the systems of the family whose parts do not act with the shipped ones.

    python benchmarks/family_tries.py --data DATA [--work .work/family] [--systems NAME...] [--seeds 2]

Reads which systems have no part that acts from ``--results`` (``benchmarks/results/family.json``), trains their arms with each
of :data:`TRIED` on the frames of ``benchmarks/family.py``, and forces their parts off on validation rows again. Its result is
the entry ``tries`` of the data set, one per system and setting; finished ones are not repeated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from arms import with_settings
from family import RESULTS, Compared, planned
from family_page import system_parts
from family_systems import SYSTEMS
from mechanism_settings import SETTINGS
from planning import record, results_of, with_rows

from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.trials import context_of
from ranking.training.arms import train_arm
from ranking.training.liveness import PartLiveness
from sidkit.core.repo import Repo

TRIED = ("learnt", "gentle", "all at once")
"""Settings of ``benchmarks/mechanism_settings.py``: larger and faster tables; cosine attention; both, with larger losses."""
TRAINED = ("attention", "table", "gate")
"""Kinds of parts that these settings can change."""


def idle(found: Mapping[str, Any]) -> list[str]:
    """The systems of a result with trained parts of which none acts."""
    states = {
        system: [part["alive"] for part in system_parts(system, parts) if part["kind"] in TRAINED]
        for system, parts in found["liveness"].items()
    }
    return [system for system, alive in states.items() if alive and True not in alive]


def tried(arm: Compared, names: set[str], setting: str, seeds: int) -> dict[str, Any]:
    """Validation AUC and what the named parts change with a setting, means over seeds."""
    spec = with_settings(arm.plan.spec, SETTINGS[setting])
    context = context_of(Repo.open(arm.plan.repo), arm.plan.frames[arm.trials[0].frame], spec)
    context = replace(context, liveness=True, first_epoch=False)
    results = [train_arm(context, arm.arm, arm.plan.arms[arm.arm], seed, f"{arm.arm}-{seed}") for seed in range(seeds)]
    aucs = [result.validation_auc for result in results]
    deviation = float(np.std(aucs, ddof=1)) if seeds > 1 else None
    parts: dict[str, list[PartLiveness]] = {}
    for result in results:
        for part in result.liveness or ():
            if part.name in names:
                parts.setdefault(part.name, []).append(part)
    return {
        "auc": float(np.mean(aucs)),
        "deviation": deviation,
        "parts": [averaged(name, each, deviation) for name, each in parts.items()],
    }


def averaged(name: str, parts: list[PartLiveness], deviation: float | None) -> dict[str, Any]:
    """One part over seeds; it acts if each way to force it off changes the AUC by more than seeds do."""
    delta = [float(np.mean(values)) for values in zip(*(part.delta_auc for part in parts), strict=True)]
    entropies = [part.entropy_over_log_n for part in parts if part.entropy_over_log_n is not None]
    return {
        "name": name,
        "entropy_over_log_n": float(np.mean(entropies)) if entropies else None,
        "delta_auc": delta,
        "alive": None if deviation is None else min(map(abs, delta)) > deviation,
    }


def main() -> None:
    """Try the settings on one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, default=RESULTS.parent.parent.parent / ".work" / "family")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), help="default: those without a part that acts")
    parser.add_argument("--seeds", type=int, default=2)
    with_rows(parser, train=20_000, evaluation=20_000)
    options = parser.parse_args()
    name = data_name(options.data)
    measured = results_of(options.results)[name]["validation"]
    options.systems, options.losses = options.systems or idle(measured), []
    found = dict(results_of(options.results)[name].get("tries", {}))
    arms = planned(options.data, options)
    for system in options.systems:
        arm = arms[SYSTEMS[system].arm]
        names = {part["name"] for part in system_parts(system, measured["liveness"][system])}
        for setting in TRIED:
            if setting not in found.get(system, {}):
                result = tried(arm, names, setting, options.seeds)
                found[system] = {**found.get(system, {}), setting: result}
                record(options.results, name, "tries", found)
                print(f"{name} {system}, {setting}: {result}", flush=True)


if __name__ == "__main__":
    main()
