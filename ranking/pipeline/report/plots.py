"""Geometry of the report's charts: bars of arms and a forest of differences, in percent of the width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ranking.pipeline.evaluation import ArmDifference, RunEvaluation
from sidkit.core.intervals import NO_EVIDENCE

_CHANCE = 0.5
_MARGIN = 0.04
_TICKS = 4
"""About how many ticks an axis has."""


@dataclass(frozen=True)
class Mark:
    """One row of a chart: a value with its interval on a common axis."""

    label: str
    note: str
    """The values as text."""
    start: float
    """Where the bar starts: chance, or no difference."""
    value: float
    low: float | None
    high: float | None
    kind: str
    """``arm``, ``ceiling``, ``better``, ``worse`` or ``none``; selects the colour."""
    outcome: str = ""


@dataclass(frozen=True)
class Tick:
    """A round number on an axis."""

    at: float
    """In percent of the width."""
    text: str


@dataclass(frozen=True)
class Chart:
    """Rows on one axis with round ticks."""

    title: str
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    zero: float | None = None
    """Where 0 is on the axis, in percent; None for bars that start at chance."""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float | None]) -> _Axis:
        known = [value for value in values if value is not None]
        low, high = min(known), max(known)
        margin = max(high - low, 1e-6) * _MARGIN
        return cls(low - margin, high + margin)

    def at(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self, *, signed: bool = False) -> tuple[Tick, ...]:
        """Multiples of 1, 2 or 5 times a power of 10; their texts have the decimals of the step, so that none is rounded."""
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
        digits = max(0, -math.floor(math.log10(1.001 * step)))
        values = [place * step for place in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        sign = "+" if signed else ""
        return tuple(Tick(self.at(value), f"{value:{sign if value else ''}.{digits}f}") for value in values)

    def at_bound(self, value: float | None) -> float | None:
        return None if value is None else self.at(value)


def arm_charts(evaluation: RunEvaluation, names: Sequence[str]) -> list[Chart]:
    """Return one chart of AUCs per slice that has any, as bars from 0.5."""
    charts = []
    for name in names:
        known = {arm: slices[name] for arm, slices in evaluation.arms.items() if name in slices}
        values = {arm: metrics for arm, metrics in known.items() if metrics.auc is not None}
        if not values:
            continue
        ceilings = _ceilings(evaluation, name)
        bounds = [bound for metrics in values.values() for bound in (metrics.auc, *(metrics.auc_interval or ()))]
        axis = _Axis.over([*bounds, *ceilings.values(), _CHANCE])
        marks = []
        for arm, metrics in values.items():
            low, high = metrics.auc_interval or (None, None)
            auc = metrics.auc or 0.0
            note = f"{auc:.4f}{bounds_text(low, high, signed=False)}"
            marks.append(
                Mark(arm, note, axis.at(_CHANCE), axis.at(auc), axis.at_bound(low), axis.at_bound(high), "arm")
            )
        for label, value in ceilings.items():
            marks.append(Mark(label, f"{value:.4f}", axis.at(_CHANCE), axis.at(value), None, None, "ceiling"))
        size = evaluation.rows[name]
        title = f"{name} rows: {size.rows:,} with {size.positives:,} positives"
        charts.append(Chart(title, tuple(marks), axis.ticks()))
    return charts


def _ceilings(evaluation: RunEvaluation, name: str) -> dict[str, float]:
    """Label -> AUC on a slice of the world's own probabilities, where they are known."""
    labelled = {
        "fair ceiling (what can be known)": evaluation.ceiling,
        "oracle (true probabilities)": evaluation.oracle,
    }
    values = {label: by_slice.get(name) if by_slice else None for label, by_slice in labelled.items()}
    return {label: value for label, value in values.items() if value is not None}


def forest(title: str, differences: Sequence[ArmDifference]) -> Chart | None:
    """Return a forest plot of AUC differences; None without any."""
    if not differences:
        return None
    axis = _Axis.over([0.0, *(bound for each in differences for bound in (each.value, each.low, each.high))])
    marks = []
    for each in differences:
        verdict = each.reasoned
        kind = "none" if verdict.outcome == NO_EVIDENCE else verdict.outcome
        marks.append(
            Mark(
                f"{each.arm} against {each.baseline}, {each.slice} rows",
                f"{each.value:+.4f}{bounds_text(each.low, each.high)}",
                axis.at(0.0),
                axis.at(each.value),
                axis.at_bound(each.low),
                axis.at_bound(each.high),
                kind,
                str(verdict),
            )
        )
    return Chart(title, tuple(marks), axis.ticks(signed=True), axis.at(0.0))


def bounds_text(low: float | None, high: float | None, *, signed: bool = True) -> str:
    """Return an interval as text, with a leading space; empty without bounds."""
    if low is None or high is None:
        return ""
    return f" [{low:+.4f}, {high:+.4f}]" if signed else f" [{low:.4f}, {high:.4f}]"
