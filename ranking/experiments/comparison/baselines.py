"""The baselines of each arm, and the pairs whose difference cannot have a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ranking.evaluation.evaluator import Difference, MetricValue, difference
from ranking.experiments.comparison.arms import BOOSTING, CODES_AS_FEATURES, CONTENT, ID_ALONE, SHUFFLED, shipped_arms
from ranking.experiments.comparison.liveness import Liveness, without_verdict
from ranking.experiments.comparison.trials import Plan
from sidkit.core.clock import iso
from sidkit.core.intervals import Verdict

LATER = "_after"
"""End of the names of shipped arms that are trained on the rows after the clicks which codebooks learn from."""
CONTROLS = ("_shuffled", "_random")
"""Ends of the names of controls: the arm of the name before, with its codes, neighbours, counts or rows made meaningless."""

INPUTS, CONTROL = "same inputs without the idea", "control"
"""Roles of the arms that test the idea of another one."""


def is_control(arm: str) -> bool:
    """Whether an arm is the control of another one, by its name."""
    return arm.endswith(CONTROLS)


def of_idea(arm: str, ablation: str | None) -> dict[str, tuple[str, ...]]:
    """Role -> the arms that test the idea of an arm, run or not.

    :data:`INPUTS` are its ablation baseline and the same on later rows; :data:`CONTROL` are its controls.
    """
    same_inputs = () if ablation is None else (ablation, f"{ablation}{LATER}")
    return {INPUTS: same_inputs, CONTROL: tuple(f"{arm}{end}" for end in CONTROLS)}


def tested_by(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Arm -> role -> the arm that tests its idea, in a result of :meth:`ComparisonResult.as_json`.

    An arm on later rows is tested by the same inputs on these, if they were run.
    """
    pairs = {(row["arm"], row["baseline"]) for row in facts["rows"]}
    found: dict[str, dict[str, str]] = {}
    for arm, stated in facts["arms"].items():
        names = of_idea(arm, stated["baseline"])
        there = {role: [name for name in each if (arm, name) in pairs] for role, each in names.items()}
        first = {INPUTS: there[INPUTS][-1:], CONTROL: there[CONTROL][:1]}
        found[arm] = {role: each[0] for role, each in first.items() if each}
    return found


@dataclass(frozen=True)
class Baselines:
    """Which baselines each arm is compared with."""

    ablations: Mapping[str, str] = field(default_factory=dict)
    """Arm -> ablation baseline."""
    not_exercised: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Arm and baseline -> why their difference says nothing of the arm's mechanism."""
    starts_us: Mapping[str, int | None] = field(default_factory=dict)
    """Arm -> time of its first training rows, microseconds UTC; None: those of the log."""
    of_rows: frozenset[str] = frozenset()
    """Arms whose training rows are what their ablation baseline lacks."""

    @classmethod
    def of(cls, plan: Plan, liveness: Liveness) -> Self:
        """The baselines of a plan, with the training rows of its latest time origin."""
        starts = {
            trial.arm: plan.frames[trial.frame].split.train_start_us for trial in plan.trials if trial.origin == 0
        }
        of_rows = frozenset(arm for arm, spec in plan.arms.items() if spec.training_rows == "after_clicks")
        return cls(plan.ablation_baselines, without_verdict(plan, liveness), starts, of_rows)

    def among(self, arm: str, arms: Iterable[str]) -> list[str]:
        """Return the baselines of an arm that were run: the shared ones, its ablation baseline, and its controls.

        The shared baselines are ``id_codes``, ``id_content``, ``id`` and ``gbdt``, and for an arm that is trained on later rows
        also those that are, ``id_codes_after`` and ``id_content_after``. The controls of an arm have its name with one of
        :data:`CONTROLS`.
        """
        candidates = [CODES_AS_FEATURES, CONTENT, ID_ALONE, BOOSTING]
        if arm == CODES_AS_FEATURES:
            candidates = [ID_ALONE, SHUFFLED, CONTENT, BOOSTING]  # for other metrics than the AUC, the first counts
        if self.starts_us.get(arm) is not None:
            candidates += [f"{CODES_AS_FEATURES}{LATER}", f"{CONTENT}{LATER}"]
        candidates += [self.ablations[arm]] if self.ablations.get(arm) else []
        candidates += of_idea(arm, None)[CONTROL]
        present = set(arms)
        return [baseline for baseline in dict.fromkeys(candidates) if baseline in present and baseline != arm]

    def difference(self, arm: str, baseline: str, metric: str, own: MetricValue, other: MetricValue) -> Difference:
        """Return the difference of an arm to a baseline.

        Without a verdict if they have other training rows, or if the arm's mechanism does not act.
        """
        found = difference(own, other, metric)
        rows, idle = self.unequal_rows(arm, baseline), self.not_exercised.get((arm, baseline))
        if rows is not None:
            return replace(found, verdict=Verdict("unequal rows", rows))
        return found if idle is None else replace(found, verdict=Verdict("not exercised", idle))

    def unequal_rows(self, arm: str, baseline: str) -> str | None:
        """Return how the training rows of an arm differ from those of a baseline, or None if they are the same.

        Rankers of a codebook that learned from clicks train on the rows after these, which are later ones. Later rows alone
        can make a ranker better, so that a difference would say nothing of the codes.
        """
        own, other = self.starts_us.get(arm), self.starts_us.get(baseline)
        if own == other or (arm in self.of_rows and self.ablations.get(arm) == baseline):
            return None
        rows = " and ".join(
            f"{name} on {'all' if start is None else f'those from {iso(start)} on'}"
            for name, start in ((arm, own), (baseline, other))
        )
        after, remedy = f"{baseline}{LATER}", ""
        if other is None and after != arm:
            named = f"{after}, or " if after in shipped_arms() else ""
            remedy = f'; add {named}a baseline with training_rows = "after_clicks", to the arms'
        return f"training rows: {rows}; later rows alone can make a difference{remedy}"
