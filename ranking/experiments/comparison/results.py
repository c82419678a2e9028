"""Typed results of a comparison: result rows, metadata of arms and slices, and times."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ranking.data.codebook_window import CodebookWindow
from ranking.data.targets import CLICKED, Target
from ranking.evaluation.evaluator import Difference, MetricValue
from ranking.experiments.comparison.liveness import ArmPart
from ranking.experiments.comparison.probes import Probes
from ranking.pipeline.results import StageTime
from sidkit.core.intervals import Outcome
from sidkit.core.records import record_json, record_of


@dataclass(frozen=True)
class Row:
    """One row of ``arms.json``: a metric of an arm on a slice, and its difference to one baseline."""

    data: str
    arm: str
    seeds: int
    """Number of seeds averaged over."""
    slice: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    baseline: str | None
    """None if no baseline applies."""
    delta: float | None
    """The arm minus the baseline."""
    delta_low: float | None
    delta_high: float | None
    positives: int
    """Positives in the slice."""
    verdict: Outcome | None
    reason: str | None = None
    """Reason of the verdict; None without a baseline, and in files of earlier versions."""
    effective_users: float | None = None
    """Kish's effective number of users in the slice."""

    @classmethod
    def of(
        cls,
        data: str,
        arm: str,
        name: str,
        metric: str,
        value: MetricValue,
        against: tuple[str, Difference] | None,
    ) -> Row:
        """Create a row with values rounded to 6 digits, below which only rounding errors differ."""
        mean = value.interval.as_json(digits=6)
        baseline, difference = against if against is not None else (None, None)
        delta = difference.interval.as_json(digits=6) if difference is not None else dict.fromkeys(mean)
        return cls(
            data,
            arm,
            len(value.by_seed),
            name,
            metric,
            mean["value"],
            mean["low"],
            mean["high"],
            baseline,
            delta["value"],
            delta["low"],
            delta["high"],
            value.support.positives,
            difference.verdict.outcome if difference is not None else None,
            difference.verdict.reason if difference is not None else None,
            round(value.support.effective_users, 1),
        )

    @classmethod
    def of_reference(cls, data: str, arm: str, name: str, auc: float, positives: int) -> Row:
        """Create the row of a reference that is no arm, such as the true probabilities."""
        value = round(auc, 6)
        return cls(data, arm, 1, name, "auc", value, None, None, None, None, None, None, positives, None)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of ``arms.json``."""
        return asdict(self)


@dataclass(frozen=True)
class SliceFacts:
    """Size of a slice of the test rows, over all time origins."""

    rows: int
    positives: int
    users: int
    gauc_kept: float
    """Share of the rows in groups with both classes within the slice."""
    effective_users: float | None = None
    """Kish's effective number of users, by their rows of the rarer class; None in files of earlier versions."""


@dataclass(frozen=True)
class CutFacts:
    """Cut points of the slices, in exposures of the item in the 7 days before the row."""

    theta_80: int
    """Items with fewer exposures are cold; chosen so that about 80 % of the validation rows are cold."""
    head_from: int
    tail_below: int
    hot_share: float
    """Share of the test rows that are hot."""


@dataclass(frozen=True)
class ArmFacts:
    """Description and training results of an arm at the latest time origin; sequences have one entry per seed."""

    title: str
    baseline: str | None
    """Ablation baseline."""
    codebook: str
    parameters: int | None
    """None for gradient boosting, as are the next two."""
    table_parameters: int | None
    dim: int | None
    auc_by_seed: dict[str, tuple[float, ...]]
    """Slice -> AUC per seed."""
    validation_curves: tuple[tuple[float, ...], ...] | None
    """Validation AUC per epoch; None for gradient boosting."""
    best_epoch: tuple[int | None, ...]
    first_epoch_auc: dict[str, float]
    """Slice -> AUC after the first epoch, averaged over seeds."""
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class ComparisonEvaluation:
    """Contents of ``verdict.json`` of a comparison."""

    rows: tuple[Row, ...]
    slices: dict[str, SliceFacts]
    cuts: CutFacts
    arms: dict[str, ArmFacts]
    calibration: dict[str, tuple[tuple[float, float, float], ...]]
    """Arm -> mean prediction, positive rate and rows of ten equal-frequency bins of the prediction."""
    gauc_by: str
    """``request`` or ``user``."""
    train_rows: int
    probes: Probes
    liveness: dict[str, tuple[ArmPart, ...]] = field(default_factory=dict)
    """Arm -> what its parts contribute; empty in files of earlier releases."""
    target: Target = CLICKED
    """What arms predict."""
    sampled_negatives: bool = False
    """Whether log-loss and calibration are those of rows with sampled negatives, and scores are not rates."""


@dataclass(frozen=True)
class TrialTime:
    """One trial and its cost."""

    arm: str
    seed: int
    origin: int
    """Number of the time origin; 0 is the latest."""
    frame: str
    mark: str
    """Hash of everything that determines the result."""
    budget: int | None
    """Target parameter count."""
    seconds: float
    cpu_seconds: float
    without: str | None = None
    """Auxiliary loss that the arm was trained without."""


@dataclass(frozen=True)
class OriginFacts:
    """The cuts of a time origin (ISO-8601, UTC) and the number of rows used per part."""

    train_end: str
    validation_end: str
    end: str
    rows: dict[str, dict[str, int]] | None
    codebook_end: str | None = None
    """Where the data of codebooks that learn from clicks ends; None in results of earlier versions."""
    codebooks: tuple[CodebookWindow, ...] | None = None
    """The training rows of each codebook; None in results of earlier versions."""


@dataclass(frozen=True)
class Seconds:
    """Durations of a comparison; ``trials`` and ``trials_cpu`` are sums over all trials, including those of earlier runs."""

    prepare: float
    trials: float
    trials_cpu: float
    evaluate: float
    this_run: float


@dataclass(frozen=True)
class ComparisonResult:
    """Result of ``sidkit ranker compare``."""

    data: str
    evaluation: ComparisonEvaluation
    trials: tuple[TrialTime, ...]
    origins: tuple[OriginFacts, ...]
    stages: tuple[StageTime, ...]
    seconds: Seconds
    peak_rss_mb: float
    skipped: dict[str, str] = field(default_factory=dict)
    """Arm that ``all`` selected -> why the data do not allow it; empty in results of earlier versions."""

    @property
    def liveness(self) -> pd.DataFrame:
        """What the parts of each arm contribute: one row per arm, part and replacement; undefined values are NaN.

        ``own`` is whether the arm's ablation baseline lacks the part. ``off`` is what it was replaced by: mean pooling,
        zeros, a gate of 0 or 1, or training without the loss. A part is ``alive`` if the change ``delta_auc`` of the
        validation AUC exceeds ``deviation``, the standard deviation of the arm's AUC over seeds; None if unknown.
        """
        numbers = ["entropy_over_log_n", "size", "start", "size_over_start", "moved", "auc"]
        off = ["auc_off", "delta_auc"]
        columns = ["arm", "part", "kind", "own", "off", "seeds", *numbers, *off, "deviation", "alive"]
        rows = [
            (
                *(arm, part.name, part.kind, part.own, replacement, part.seeds),
                *(getattr(part, name) for name in numbers),
                *(auc_off, delta, part.deviation, part.alive),
            )
            for arm, parts in self.evaluation.liveness.items()
            for part in parts
            for replacement, auc_off, delta in zip(part.off, part.auc_off, part.delta_auc, strict=True)
        ]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({**dict.fromkeys([*numbers, *off, "deviation"], float), "own": object, "alive": object})

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of ``--json``, which is also the input of the HTML page."""
        values = record_json(self)
        seconds = {_OLD_SECONDS.get(name, name): value for name, value in values["seconds"].items()}
        return {
            "data": self.data,
            **values["evaluation"],
            "units": values["trials"],
            "origins": values["origins"],
            "stages": values["stages"],
            "seconds": seconds,
            "peak_rss_mb": self.peak_rss_mb,
            **({"skipped": self.skipped} if self.skipped else {}),
        }

    @classmethod
    def of_json(cls, values: dict[str, Any], path: Path) -> ComparisonResult:
        """Create from the values of :meth:`as_json`, read from ``path``.

        Raises
        ------
        ArtifactCorruptError
            If a field is missing or has the wrong type.
        """
        names = {old: name for name, old in _OLD_SECONDS.items()}
        seconds = {names.get(name, name): value for name, value in values["seconds"].items()}
        return record_of(cls, {**values, "evaluation": values, "trials": values["units"], "seconds": seconds}, path)


_OLD_SECONDS = {"trials": "units", "trials_cpu": "units_cpu", "evaluate": "judge"}
"""Field -> JSON key, as in results of earlier versions."""
