"""Other settings for the systems of the family whose parts do not act with the shipped ones.

    python benchmarks/family_tries.py --data DATA [--work .work/family] [--systems NAME...] [--seeds 2]

Reads which systems have no part that acts from ``--results`` (``benchmarks/results/family.json``), trains their arms with each
of :func:`settings_for` on the frames of ``benchmarks/family.py``, and forces their parts off on validation rows again. Its
result is the entry ``tries`` of the data set, one per system and setting; those with as many seeds are not repeated.
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
import planning
from arms import with_settings
from family import RESULTS, Compared, planned
from family_page import system_parts
from family_systems import SYSTEMS
from mechanism_settings import SETTINGS, of_arm, of_ranker
from planning import record, results_of, with_rows

from ranking.experiments.comparison.arms import shipped_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.trials import Plan, Trial, context_of, train_trial
from ranking.models.rerank_spec import RerankSpec
from ranking.training.arm_spec import DERIVED
from ranking.training.arms import ArmResult, TrainingContext
from ranking.training.liveness import PartLiveness
from sidkit.core.repo import Repo

TRIED = ("learnt", "gentle", "all at once")
"""Settings of ``benchmarks/mechanism_settings.py``: larger and faster tables; cosine attention; both, with larger losses."""
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "CCFRec": {
        "as published": {
            "training.learning_rate": 1e-3,
            "training.table_learning_rate": 1e-3,
            "training.code_table_learning_rate": 1e-3,
            "model.masked_codes_weight": 0.6,
            "model.masked_users_weight": 0.4,
        }
    },
    **{
        f"Reindex-Then-Adapt, {kind}": {f"{days} days": {"arm.days": float(days)} for days in (7, 28, 365)}
        for kind in ("bias", "gate")
    },
    "CROSS-JEM": {
        "faster": {"arm.rerank": RerankSpec(learning_rate=5e-3)},
        "list-wise": {"arm.rerank": RerankSpec(pointwise=0.0)},
        "larger": {"arm.rerank": RerankSpec(dim=64, heads=4, dropout=0.3, patience=4)},
    },
}
"""Settings of one system alone."""


def settings_for(system: str) -> dict[str, Mapping[str, Any]]:
    """The settings that are tried for a system, by name; those of :data:`TRIED` change no part that a frozen ranker gets."""
    arm = shipped_arms()[SYSTEMS[system].arm]
    common = {} if arm.kind in DERIVED or arm.reranker else {name: SETTINGS[name] for name in TRIED}
    return {**common, **OWN.get(system, {})}


def idle(found: Mapping[str, Any]) -> list[str]:
    """The systems of a result with trained parts of which none acts, and with settings to try."""
    states = {
        system: [part["alive"] for part in system_parts(system, parts)]
        for system, parts in found["liveness"].items()
        if settings_for(system)
    }
    return [system for system, alive in states.items() if alive and True not in alive]


def tried(arm: Compared, names: set[str], settings: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    """Validation AUC and what the named parts change with some settings, means over seeds."""
    spec = with_settings(arm.plan.spec, of_ranker(settings))
    own = arm.plan.arms[arm.arm].model_copy(update=of_arm(settings))
    plan = replace(arm.plan, spec=spec, arms={**arm.plan.arms, arm.arm: own})
    context = context_of(Repo.open(plan.repo), plan.frames[arm.trials[0].frame], spec)
    context = replace(context, liveness=True, first_epoch=False)
    results = [trained(arm, plan, context, trial) for trial in arm.trials[:seeds]]
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
        "seeds": seeds,
        "parts": [averaged(name, each, deviation) for name, each in parts.items()],
    }


def trained(arm: Compared, plan: Plan, context: TrainingContext, trial: Trial) -> ArmResult:
    """The arm with the settings of a plan; what it is made of, such as a frozen arm, has its own."""
    planning.work(replace(arm.plan, trials=tuple(plan.members(trial).values()), loss_trials=()), 1)
    return train_trial(plan, trial, context)


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
        for setting, settings in settings_for(system).items():
            if found.get(system, {}).get(setting, {}).get("seeds", 0) < options.seeds:
                result = tried(arm, names, settings, options.seeds)
                found[system] = {**found.get(system, {}), setting: result}
                record(options.results, name, "tries", found)
                print(f"{name} {system}, {setting}: {result}", flush=True)


if __name__ == "__main__":
    main()
