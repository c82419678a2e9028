"""Evaluator: metrics of arms per slice, intervals over users, items and seeds, and paired differences with a verdict.

All arms are evaluated on the same rows, so differences are paired; see :mod:`sidkit.core.intervals`. Influences are computed
lazily, when an interval or a difference is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.evaluation.influence import (
    auc_influence,
    calibration_influence,
    gauc_influence,
    log_loss_influence,
    normalised_entropy_influence,
)
from ranking.evaluation.metrics import auc, calibration, gauc, log_loss, normalised_entropy
from sidkit.core.arrays import Bools, Doubles, Ints
from sidkit.core.clock import iso
from sidkit.core.errors import LeakageError
from sidkit.core.intervals import (
    LEAST_POSITIVES,
    LEAST_USERS,
    Changes,
    Clusters,
    Influence,
    Interval,
    Support,
    Variance,
    Verdict,
    finite,
    verdict_on,
)

METRICS = ("auc", "gauc", "logloss", "normalised_entropy", "calibration")
HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False, "normalised_entropy": False}
"""Calibration is best at 1, so differences in calibration are not compared."""
LEAST_PER_CLASS = 50
"""Minimum rows of each class for a slice to have an AUC."""

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class EvaluationRows:
    """Rows on which arms are evaluated."""

    label: Labels
    """Labels 0 or 1, int8 [rows]."""
    clusters: Clusters
    """User and item of each row."""
    group: Ints
    """GAUC group of each row, int64 [rows]: its request or its user."""
    grouped_by: str
    """``request`` or ``user``."""

    @classmethod
    def of(cls, data: Dataset) -> EvaluationRows:
        """Build from a data set; rows without a request are grouped by user and time, logs without requests by user."""
        clusters = Clusters.of(pd.factorize(data.rows.user_ids)[0], pd.factorize(data.rows.item_ids)[0])
        if data.rows.request_ids is None:
            return cls(data.rows.label, clusters, clusters.user, "user")
        requests = [
            request if request is not None else f"{who}@{at}"
            for request, who, at in zip(data.rows.request_ids, data.rows.user_ids, data.rows.at_us, strict=True)
        ]
        return cls(data.rows.label, clusters, pd.factorize(np.array(requests, object))[0].astype(np.int64), "request")


@dataclass(frozen=True)
class SliceSize:
    """Number of rows, positives and users of a slice."""

    rows: int
    positives: int
    users: int
    effective_users: float = float("nan")
    """Kish's effective number of users, by their rows of the rarer class; NaN in files of earlier versions."""


@dataclass(frozen=True)
class MetricValue:
    """One metric of one arm on one slice."""

    value: float
    """The mean over seeds."""
    by_seed: tuple[float, ...]
    support: Support
    change: Callable[[], Sequence[Changes]] = field(repr=False)
    """Computes the changes of each seed's value if a user, an item or a pair of both is left out."""

    @cached_property
    def by_seed_changes(self) -> Sequence[Changes]:
        """The result of :attr:`change`."""
        return self.change()

    @cached_property
    def changes(self) -> Changes:
        """Changes of the mean over seeds."""
        return Changes.mean(self.by_seed_changes)

    @property
    def training(self) -> Variance | None:
        """Variance of the mean over seeds because of training; None if it is unknown.

        The variance over seeds on these rows, minus the part that comes from the rows: there, seeds differ by chance too, and
        the variance of :attr:`changes` contains it.
        """
        seeds = len(self.by_seed)
        if seeds < 2:
            return None
        over_seeds = Variance.of_mean(self.by_seed)
        if over_seeds.value == 0:
            return over_seeds
        of_rows = [(each - self.changes).variance(self.support).value for each in self.by_seed_changes]
        by_chance = float(np.mean(of_rows)) / (seeds - 1)
        return Variance(max(over_seeds.value - by_chance, 0.0), over_seeds.degrees)

    @property
    def interval(self) -> Interval:
        """The value and its 95 % interval over users and items and, with several seeds, over trainings."""
        return _interval(self.value, self.changes.variance(self.support), [self.training])


@dataclass(frozen=True)
class Difference:
    """Paired difference of a metric between an arm and its baseline."""

    interval: Interval
    support: Support
    verdict: Verdict

    @property
    def positives(self) -> int:
        """Number of positive rows."""
        return self.support.positives


@dataclass(frozen=True)
class ArmMetrics:
    """Metrics of one arm on one slice, averaged over seeds; undefined metrics are None."""

    auc: float | None
    """None if a class has fewer than 50 rows."""
    gauc: float | None
    gauc_kept: float
    """Share of rows in groups with both classes."""
    logloss: float | None
    """Nats per row."""
    normalised_entropy: float | None
    calibration: float | None
    auc_by_seed: tuple[float, ...] | None
    auc_interval: tuple[float | None, float | None] | None = None
    """Bounds of the 95 % interval of the AUC; None if not computed."""

    @property
    def shown_gauc(self) -> float | None:
        """GAUC as reports show it: None where the AUC is None, because the rows are too few for either."""
        return None if self.auc is None else self.gauc


class SliceMetrics:
    """Metrics of one arm on one slice.

    Parameters
    ----------
    rows : EvaluationRows
        All evaluation rows.
    scores : sequence of float64 [rows]
        Predicted probabilities of all rows, one array per seed.
    part : bool [rows]
        Mask of the slice.
    support : Support
        Clusters and positives of the slice.
    """

    def __init__(self, rows: EvaluationRows, scores: Sequence[Doubles], part: Bools, support: Support) -> None:
        self._rows, self._scores, self._part = rows, scores, part
        label, group, selected = rows.label[part], rows.group[part], [score[part] for score in scores]
        grouped = [gauc(label, score, group) for score in selected]
        self.gauc_share = float(np.mean([share for _, share in grouped]))
        """Share of the slice's rows in groups with both classes within the slice."""
        exact = {
            "auc": [auc(label, score) for score in selected] if enough(label) else [float("nan")],
            "gauc": [value for value, _ in grouped],
            "logloss": [log_loss(label, score) for score in selected],
            "normalised_entropy": [normalised_entropy(label, score) for score in selected],
            "calibration": [calibration(label, score) for score in selected],
        }
        self.metrics = {
            name: MetricValue(float(np.mean(values)), tuple(values), support, partial(self._changes, name))
            for name, values in exact.items()
            if np.isfinite(values).all()
        }
        """Metric -> value; undefined metrics are omitted."""

    def summary(self, *, interval: bool) -> ArmMetrics:
        """Return the metrics without samples; ``interval`` adds the AUC's interval if it is defined."""
        value = {name: self.metrics[name].value if name in self.metrics else None for name in METRICS}
        ranked = self.metrics.get("auc")
        bounds = ranked.interval.within(0.0, 1.0) if ranked is not None and interval else None
        return ArmMetrics(
            value["auc"],
            value["gauc"],
            self.gauc_share,
            value["logloss"],
            value["normalised_entropy"],
            value["calibration"],
            ranked.by_seed if ranked is not None else None,
            (finite(bounds.low), finite(bounds.high)) if bounds is not None else None,
        )

    def _changes(self, metric: str) -> list[Changes]:
        label, group = self._rows.label[self._part], self._rows.group[self._part]
        clusters = self._rows.clusters.take(self._part)
        influence = _influence(metric)
        return [influence(label, score[self._part], group).changes(clusters) for score in self._scores]


class Evaluator:
    """Evaluates arms on the same rows and slices.

    Parameters
    ----------
    rows : EvaluationRows
        Labels, users, items and requests.
    slices : mapping
        Slice name -> ``bool [rows]``.
    least_positives, least_users : int
        Minimum number of positives and effective number of users for a verdict other than ``no evidence``.

    Examples
    --------
    >>> evaluator = Evaluator(EvaluationRows.of(test), slices(test))  # doctest: +SKIP
    >>> ours, base = evaluator.evaluate(scores), evaluator.evaluate(others)  # doctest: +SKIP
    >>> evaluator.compare(ours, base)["cold"].verdict  # doctest: +SKIP
    """

    def __init__(
        self,
        rows: EvaluationRows,
        slices: Mapping[str, Bools],
        *,
        least_positives: int = LEAST_POSITIVES,
        least_users: int = LEAST_USERS,
    ) -> None:
        self.rows = rows
        self.slices = slices
        self.least_positives, self.least_users = least_positives, least_users

    @cached_property
    def support(self) -> dict[str, Support]:
        """Slice -> its clusters and positives."""
        return {
            name: Support.of(self.rows.label[part], self.rows.clusters.take(part)) for name, part in self.slices.items()
        }

    @cached_property
    def sizes(self) -> dict[str, SliceSize]:
        """Slice -> number of rows, positives and users."""
        return {
            name: SliceSize(int(self.slices[name].sum()), of.positives, of.users, of.effective_users)
            for name, of in self.support.items()
        }

    @property
    def without_auc(self) -> dict[str, str]:
        """Slice -> reason why it has no AUC."""
        return {
            name: f"{size.positives} positives and {size.rows - size.positives} negatives; an AUC requires at "
            f"least {LEAST_PER_CLASS} of each"
            for name, size in self.sizes.items()
            if not enough(self.rows.label[self.slices[name]])
        }

    def evaluate(self, predictions: Sequence[Doubles]) -> dict[str, SliceMetrics]:
        """Evaluate one arm: slice -> metrics.

        Parameters
        ----------
        predictions : sequence of float64 [rows]
            Click probabilities, one array per seed; any scores if only AUC and GAUC are used.
        """
        return {
            name: SliceMetrics(self.rows, predictions, part, self.support[name]) for name, part in self.slices.items()
        }

    def compare(
        self,
        arm: Mapping[str, SliceMetrics],
        baseline: Mapping[str, SliceMetrics],
        metric: str = "auc",
        slices: Iterable[str] | None = None,
    ) -> dict[str, Difference]:
        """Compare an arm with a baseline: slice -> paired difference, on the slices where both have the metric.

        Parameters
        ----------
        arm, baseline : mapping
            Results of :meth:`evaluate`.
        metric : str
            One of :data:`HIGHER_IS_BETTER`.
        slices : iterable of str, optional
            Slices to compare; default: all.
        """
        return {
            name: difference(
                arm[name].metrics[metric],
                baseline[name].metrics[metric],
                metric,
                least_positives=self.least_positives,
                least_users=self.least_users,
            )
            for name in (self.slices if slices is None else slices)
            if name in self.slices and metric in arm[name].metrics and metric in baseline[name].metrics
        }

    def reference_auc(self, probability: Doubles) -> dict[str, float | None]:
        """Slice -> AUC of known probabilities ``float64 [rows]``, on the rows where they are not NaN."""
        reference: dict[str, float | None] = {}
        for name, part in self.slices.items():
            known = part & np.isfinite(probability)
            label = self.rows.label[known]
            reference[name] = auc(label, probability[known]) if enough(label) else None
        return reference


def difference(
    arm: MetricValue,
    baseline: MetricValue,
    metric: str = "auc",
    *,
    least_positives: int = LEAST_POSITIVES,
    least_users: int = LEAST_USERS,
) -> Difference:
    """Difference of a metric between an arm and its baseline on the same rows; their trainings are independent."""
    trainings = [arm.training, baseline.training]
    variance = (arm.changes - baseline.changes).variance(arm.support)
    interval = _interval(arm.value - baseline.value, variance, trainings)
    verdict = verdict_on(
        interval,
        arm.support.positives,
        arm.support.effective_users,
        seeds_known=None not in trainings,
        higher_is_better=HIGHER_IS_BETTER[metric],
        least_positives=least_positives,
        least_users=least_users,
    )
    return Difference(interval, arm.support, verdict)


def _interval(value: float, variance: Variance, trainings: Iterable[Variance | None]) -> Interval:
    return Interval.of(value, Variance.total([variance, *(training for training in trainings if training is not None)]))


def enough(label: Labels) -> bool:
    """Whether both classes have enough rows for an AUC."""
    positives = int((label == 1).sum())
    return min(positives, len(label) - positives) >= LEAST_PER_CLASS


def refuse_leakage(evaluation_start_us: int, fit_ends_us: Mapping[str, int]) -> None:
    """Raise if an evaluation starts before the fit end of one of its artefacts.

    Raises
    ------
    LeakageError
        Names the artefacts, their fit ends and the evaluation start.
    """
    late = {name: iso(end) for name, end in fit_ends_us.items() if evaluation_start_us < end}
    if late:
        raise LeakageError(iso(evaluation_start_us), late)


def _influence(metric: str) -> Callable[[Labels, Doubles, Ints], Influence]:
    if metric == "gauc":
        return gauc_influence
    ungrouped = {
        "auc": auc_influence,
        "logloss": log_loss_influence,
        "normalised_entropy": normalised_entropy_influence,
        "calibration": calibration_influence,
    }[metric]
    return lambda label, score, group: ungrouped(label, score)
