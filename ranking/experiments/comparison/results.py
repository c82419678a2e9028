"""What a comparison comes to, as typed records: lines of the table, facts of arms and slices, and times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ranking.evaluation.evaluator import Difference, MetricValue
from ranking.experiments.comparison.probes import Probes
from ranking.pipeline.results import StageTime
from sidkit.core.records import record_json, record_of


@dataclass(frozen=True)
class Row:
    """One line of ``arms.json``: a metric of an arm on a slice, and its difference to one baseline."""

    data: str
    arm: str
    seeds: int
    """Averaged."""
    slice: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    baseline: str | None
    """None where there is nothing to compare with."""
    delta: float | None
    """The arm minus the baseline."""
    delta_low: float | None
    delta_high: float | None
    positives: int
    """Of the slice."""
    verdict: Literal["better", "worse", "no evidence"] | None

    @classmethod
    def of(
        cls,
        data: str,
        arm: str,
        name: str,
        metric: str,
        own: MetricValue,
        against: tuple[str, Difference] | None,
        positives: int,
    ) -> Row:
        """A line, with figures to 6 digits: more would only tell rounding apart."""
        mean = own.interval.as_json(digits=6)
        baseline, difference = against if against is not None else (None, None)
        delta = difference.interval.as_json(digits=6) if difference is not None else dict.fromkeys(mean)
        return cls(
            data,
            arm,
            len(own.by_seed),
            name,
            metric,
            mean["value"],
            mean["low"],
            mean["high"],
            baseline,
            delta["value"],
            delta["low"],
            delta["high"],
            positives,
            difference.verdict.outcome if difference is not None else None,
        )

    def as_json(self) -> dict[str, Any]:
        """As it stands in ``arms.json``."""
        return asdict(self)


@dataclass(frozen=True)
class SliceFacts:
    """How many test rows, positives and users a slice has."""

    rows: int
    positives: int
    users: int
    gauc_kept: float
    """Share of the rows in groups that have both classes inside the slice."""


@dataclass(frozen=True)
class CutFacts:
    """Where the slices are cut; exposures are of the item, in the 7 days before the row."""

    theta_80: int
    """Fewer exposures are cold, so that about 80 % of the validation rows are."""
    head_from: int
    tail_below: int
    hot_share: float
    """Of the test rows."""


@dataclass(frozen=True)
class ArmFacts:
    """What an arm is and what its trainings did at the latest time origin; lists hold one entry per seed."""

    title: str
    baseline: str | None
    """Its ablation baseline."""
    codebook: str
    parameters: int | None
    """None for boosting, as are the next two."""
    table_parameters: int | None
    dim: int | None
    auc_by_seed: dict[str, tuple[float, ...]]
    """Slice -> AUC per seed."""
    validation_curves: tuple[tuple[float, ...], ...] | None
    """Validation AUC per epoch; None for boosting."""
    best_epoch: tuple[int | None, ...]
    first_epoch_auc: dict[str, float]
    """Slice -> AUC of the model of the first epoch, a mean over seeds."""
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class ComparisonEvaluation:
    """What ``verdict.json`` of a comparison holds."""

    rows: tuple[Row, ...]
    slices: dict[str, SliceFacts]
    cuts: CutFacts
    arms: dict[str, ArmFacts]
    calibration: dict[str, tuple[tuple[float, float, float], ...]]
    """Arm -> mean prediction, share of positives and rows of ten equally full bins of the prediction."""
    gauc_by: str
    """``request`` or ``user``."""
    train_rows: int
    probes: Probes


@dataclass(frozen=True)
class TrialTime:
    """One training and what it took."""

    arm: str
    seed: int
    origin: int
    """Its time origin; 0 is the latest."""
    frame: str
    mark: str
    """Changes when anything changes that decides the training."""
    budget: int | None
    """Parameters that its model should have."""
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class OriginFacts:
    """The cuts of a time origin (ISO-8601, UTC) and the rows used of each part."""

    train_end: str
    validation_end: str
    end: str
    rows: dict[str, dict[str, int]] | None


@dataclass(frozen=True)
class Seconds:
    """What a comparison took; trainings are sums over all trials, whenever they were done."""

    prepare: float
    trials: float
    trials_cpu: float
    evaluate: float
    this_run: float


@dataclass(frozen=True)
class ComparisonResult:
    """What ``sidkit ranker compare`` comes to."""

    data: str
    evaluation: ComparisonEvaluation
    trials: tuple[TrialTime, ...]
    origins: tuple[OriginFacts, ...]
    stages: tuple[StageTime, ...]
    seconds: Seconds
    peak_rss_mb: float

    def as_json(self) -> dict[str, Any]:
        """The JSON object of ``--json``, which is also what the page is made of."""
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
        }

    @classmethod
    def of_json(cls, values: dict[str, Any], path: Path) -> ComparisonResult:
        """From the values of :meth:`as_json`, read from ``path``.

        Raises
        ------
        ArtifactCorruptError
            When a field is missing or of another type.
        """
        names = {old: name for name, old in _OLD_SECONDS.items()}
        seconds = {names.get(name, name): value for name, value in values["seconds"].items()}
        return record_of(cls, {**values, "evaluation": values, "trials": values["units"], "seconds": seconds}, path)


_OLD_SECONDS = {"trials": "units", "trials_cpu": "units_cpu", "evaluate": "judge"}
"""Field -> its key in the JSON, which results of earlier versions hold too."""
