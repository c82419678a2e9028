"""Liveness of the parts of each arm: means over seeds, and whether a part changes the AUC by more than seeds vary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ranking.experiments.comparison.arms import CODES_AS_FEATURES, ID_ALONE
from ranking.experiments.comparison.trials import Plan, TrialDetails
from ranking.training.liveness import GateByCount, PartKind, PartLiveness

_OFF: dict[PartKind, tuple[str, ...]] = {
    "attention": ("mean pooling",),
    "table": ("zeros",),
    "gate": ("0", "1"),
    "weights": ("constant weights",),
    "adapter": ("the frozen score",),
    "context": ("zeros", "the mean"),
    "loss": ("removed",),
}


@dataclass(frozen=True)
class ArmPart:
    """Liveness of one part of an arm at the latest time origin, averaged over seeds.

    A part is alive if forcing it off changes the validation AUC by more than the standard deviation of the arm's validation
    AUC over seeds. A gate is alive only if both constants do: a gate that equals one of them does nothing.
    """

    name: str
    kind: PartKind
    own: bool | None
    """Whether the arm's ablation baseline lacks the part; None if the baseline is not in the comparison."""
    seeds: int
    entropy_over_log_n: float | None
    """1 for uniform attention; see :class:`ranking.training.liveness.PartLiveness`, also for the next four."""
    size: float | None
    start: float | None
    size_over_start: float | None
    moved: float | None
    auc: float | None
    auc_off: tuple[float, ...]
    """Validation AUC with the part forced off, see :attr:`off`."""
    delta_auc: tuple[float, ...]
    """``auc_off`` minus ``auc``: negative if the part helps."""
    deviation: float | None
    """Standard deviation of the arm's validation AUC over seeds; None with one seed."""
    alive: bool | None
    """None if unknown: it takes two seeds."""
    by_count: tuple[GateByCount, ...] = ()
    """Of a gate with a value per row, and of weights by counts: the mean by the candidate's interactions as of the row."""

    @property
    def off(self) -> tuple[str, ...]:
        """What the part is replaced by, one entry per ``auc_off``."""
        return _OFF[self.kind]


Liveness = Mapping[str, Sequence[ArmPart]]
"""Arm -> its parts."""


def arm_liveness(plan: Plan) -> dict[str, tuple[ArmPart, ...]]:
    """Collect the liveness of all neural arms from the finished trials of a plan; arms that were not measured are missing."""
    seeds: dict[str, list[TrialDetails]] = {}
    for trial in plan.trials:
        details = plan.details(trial) if trial.origin == 0 else None
        if details is not None and (details.liveness is not None or plan.arms[trial.arm].kind != "neural"):
            seeds.setdefault(trial.arm, []).append(details)
    losses = _losses(plan)
    measured = {arm: [*_by_part(each), *losses.get(arm, ())] for arm, each in seeds.items()}
    roles = {arm: {parts[0].role for parts in by_part} for arm, by_part in measured.items()}
    return {
        arm: tuple(
            _averaged(parts, roles.get(mechanism_baseline(plan, arm)), _deviation(seeds[arm])) for parts in by_part
        )
        for arm, by_part in measured.items()
        if by_part
    }


def exercised(liveness: Liveness, arm: str) -> bool | None:
    """Whether any of the parts that the arm's ablation baseline lacks is alive; None if it has none, or if that is unknown."""
    return any_alive([part.alive for part in liveness.get(arm, ()) if part.own])


def any_alive(states: Sequence[bool | None]) -> bool | None:
    """Whether any of some parts is alive; None if there are none, or if that is unknown."""
    if True in states:
        return True
    return None if None in states or not states else False


def without_verdict(plan: Plan, liveness: Liveness) -> dict[tuple[str, str], str]:
    """Pairs of an arm and the baseline that lacks its mechanism -> why their difference gets no verdict."""
    reasons = {arm: not_exercised(liveness, arm) for arm in liveness}
    return {(arm, mechanism_baseline(plan, arm)): reason for arm, reason in reasons.items() if reason is not None}


def not_exercised(liveness: Liveness, arm: str) -> str | None:
    """Return why an arm gets no verdict, or None if it may get one."""
    if exercised(liveness, arm) is not False:
        return None
    own = [part for part in liveness[arm] if part.own]
    changes = ", ".join(f"{part.name} {' and '.join(f'{delta:+.4f}' for delta in part.delta_auc)}" for part in own)
    return f"no part of its own changes the validation AUC by more than seeds do ({own[0].deviation:.4f}): {changes}"


def mechanism_baseline(plan: Plan, arm: str) -> str:
    """Return the arm whose parts are not an arm's own: its ablation baseline, or else the plain baseline."""
    return plan.arms[arm].baseline or (ID_ALONE if arm == CODES_AS_FEATURES else CODES_AS_FEATURES)


def _by_part(seeds: Sequence[TrialDetails]) -> list[list[PartLiveness]]:
    """Group the parts of several seeds by name."""
    parts: dict[str, list[PartLiveness]] = {}
    for details in seeds:
        for part in details.liveness or ():
            parts.setdefault(part.name, []).append(part)
    return list(parts.values())


def _losses(plan: Plan) -> dict[str, list[list[PartLiveness]]]:
    """Return the auxiliary losses of each arm: one entry per loss, with the seeds that were trained with and without it."""
    trained = {(trial.arm, trial.seed): trial for trial in plan.trials if trial.origin == 0}
    found: dict[str, dict[str, list[PartLiveness]]] = {}
    for trial in plan.loss_trials:
        whole, without = plan.details(trained[trial.arm, trial.seed]), plan.details(trial)
        if trial.without is None or whole is None or without is None:
            continue
        if whole.validation is None or without.validation is None:
            continue
        part = PartLiveness(
            trial.without,
            "loss",
            trial.without,
            auc=whole.validation,
            auc_off=(without.validation,),
            delta_auc=(without.validation - whole.validation,),
        )
        found.setdefault(trial.arm, {}).setdefault(trial.without, []).append(part)
    return {arm: list(by_loss.values()) for arm, by_loss in found.items()}


def _deviation(seeds: Sequence[TrialDetails]) -> float | None:
    aucs = [details.validation for details in seeds if details.validation is not None]
    return float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None


def _averaged(parts: Sequence[PartLiveness], baseline: set[str] | None, deviation: float | None) -> ArmPart:
    """Average one part over seeds; ``baseline`` has the roles of the parts of the ablation baseline, None if unknown."""
    deltas = tuple(float(np.mean(values)) for values in zip(*(part.delta_auc for part in parts), strict=True))
    known = deviation is not None and deltas
    return ArmPart(
        name=parts[0].name,
        kind=parts[0].kind,
        own=None if baseline is None else parts[0].role not in baseline,
        seeds=len(parts),
        entropy_over_log_n=_mean(part.entropy_over_log_n for part in parts),
        size=_mean(part.size for part in parts),
        start=_mean(part.start for part in parts),
        size_over_start=_mean(part.size_over_start for part in parts),
        moved=_mean(part.moved for part in parts),
        auc=_mean(part.auc for part in parts),
        auc_off=tuple(float(np.mean(values)) for values in zip(*(part.auc_off for part in parts), strict=True)),
        delta_auc=deltas,
        deviation=deviation,
        alive=min(map(abs, deltas)) > deviation if known and deviation is not None else None,
        by_count=_by_count(parts),
    )


def _by_count(parts: Sequence[PartLiveness]) -> tuple[GateByCount, ...]:
    """Mean gates over seeds; all seeds have the same rows, and so the same bins."""
    return tuple(
        replace(bins[0], mean=float(np.mean([each.mean for each in bins])))
        for bins in zip(*(part.by_count for part in parts), strict=False)
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
