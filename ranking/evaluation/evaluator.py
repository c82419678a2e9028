"""The evaluator: metrics of arms per slice, intervals over users, and paired differences with a verdict.

Every arm is measured on the same rows and resampled by the same draws of users, so differences are paired. Samples are
computed when an interval or a difference is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import (
    auc,
    calibration,
    gauc,
    group_aucs,
    log_loss,
    mean_auc,
    normalised_entropy,
)
from sidkit.core.arrays import Bools, Doubles, Ints
from sidkit.core.bootstrap import LEAST_POSITIVES, Interval, Resamples, Verdict, finite, verdict_on
from sidkit.core.clock import iso
from sidkit.core.errors import LeakageError

METRICS = ("auc", "gauc", "logloss", "normalised_entropy", "calibration")
HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False, "normalised_entropy": False}
"""Calibration is best at 1: a difference of it says nothing, so none is given."""
LEAST_PER_CLASS = 50
"""Below so many rows of either class a slice has no AUC."""
RESAMPLES = 1000

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class EvaluationRows:
    """The rows on which arms are measured."""

    label: Labels
    """0 or 1, int8 [rows]."""
    user: Ints
    """Whose row it is, int64 [rows]; users are resampled."""
    group: Ints
    """Within which group GAUC ranks, int64 [rows]: the row's request, or its user."""
    grouped_by: str
    """``request`` or ``user``."""

    @classmethod
    def of(cls, data: Dataset) -> EvaluationRows:
        """Rows that name no request are grouped by user and moment; logs without requests by user."""
        user = pd.factorize(data.rows.user_ids)[0].astype(np.int64)
        if data.rows.request_ids is None:
            return cls(data.rows.label, user, user, "user")
        requests = [
            request if request is not None else f"{who}@{at}"
            for request, who, at in zip(data.rows.request_ids, data.rows.user_ids, data.rows.at_us, strict=True)
        ]
        return cls(data.rows.label, user, pd.factorize(np.array(requests, object))[0].astype(np.int64), "request")


@dataclass(frozen=True)
class SliceSize:
    """How many rows, positives and users a slice has."""

    rows: int
    positives: int
    users: int


@dataclass(frozen=True)
class MetricValue:
    """One metric of one arm on one slice."""

    value: float
    """The mean over seeds."""
    by_seed: tuple[float, ...]
    draw: Callable[[], Doubles] = field(repr=False)
    """Computes :attr:`samples`."""

    @cached_property
    def samples(self) -> Doubles:
        """Bootstrap samples of the mean over seeds, ``float64 [samples]``."""
        return self.draw()

    @property
    def interval(self) -> Interval:
        """The value and its 95 % interval over users."""
        return Interval.of(self.value, self.samples)


@dataclass(frozen=True)
class Difference:
    """A metric of one arm minus that of its baseline, paired by row."""

    interval: Interval
    positives: int
    verdict: Verdict


@dataclass(frozen=True)
class ArmMetrics:
    """Metrics of one arm on one slice, means over seeds; None where a metric is undefined."""

    auc: float | None
    """None where a class has fewer than 50 rows."""
    gauc: float | None
    gauc_kept: float
    """Share of rows in groups that have both classes."""
    logloss: float | None
    """Nats per row."""
    normalised_entropy: float | None
    calibration: float | None
    auc_by_seed: tuple[float, ...] | None
    auc_interval: tuple[float | None, float | None] | None = None
    """Bounds of the 95 % interval of the AUC; None where it was not computed."""


class SliceMetrics:
    """What one arm's scores come to on one slice.

    Parameters
    ----------
    rows : EvaluationRows
        All rows.
    scores : sequence of float64 [rows]
        Probabilities of all rows, one array per seed.
    part : bool [rows]
        The slice.
    resamples : callable
        Gives the draws of users for the slice's rows, when they are needed.
    """

    def __init__(
        self, rows: EvaluationRows, scores: Sequence[Doubles], part: Bools, resamples: Callable[[], Resamples]
    ) -> None:
        self._rows, self._scores, self._part, self._resamples = rows, scores, part, resamples
        label, group, taken = rows.label[part], rows.group[part], [score[part] for score in scores]
        grouped = [gauc(label, score, group) for score in taken]
        self.positives = int(label.sum())
        self.gauc_share = float(np.mean([share for _, share in grouped]))
        """Share of the slice's rows in groups that have both classes inside it."""
        exact = {
            "auc": [auc(label, score) for score in taken] if enough(label) else [float("nan")],
            "gauc": [value for value, _ in grouped],
            "logloss": [log_loss(label, score) for score in taken],
            "normalised_entropy": [normalised_entropy(label, score) for score in taken],
            "calibration": [calibration(label, score) for score in taken],
        }
        self.metrics = {
            name: MetricValue(float(np.mean(values)), tuple(values), partial(self._samples, name))
            for name, values in exact.items()
            if np.isfinite(values).all()
        }
        """Metric -> its value; undefined metrics are left out."""

    def summary(self, *, interval: bool) -> ArmMetrics:
        """The figures without their samples; ``interval`` adds that of the AUC, where there is one."""
        value = {name: self.metrics[name].value if name in self.metrics else None for name in METRICS}
        ranked = self.metrics.get("auc")
        bounds = ranked.interval if ranked is not None and interval else None
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

    def _samples(self, metric: str) -> Doubles:
        if metric != "auc":
            return self._ratios[metric]
        taken = [score[self._part] for score in self._scores]
        return mean_auc(self._rows.label[self._part], taken, self._resamples())[1]

    @cached_property
    def _ratios(self) -> dict[str, Doubles]:
        """The samples of the metrics that are ratios of sums over rows, means over seeds."""
        label, group = self._rows.label[self._part], self._rows.group[self._part]
        sums = [_ratio_samples(label, score[self._part], group, self._resamples()) for score in self._scores]
        return {name: np.mean([each[name] for each in sums], axis=0) for name in sums[0]}


class Evaluator:
    """Measures arms on the same rows, slices and draws of users.

    Parameters
    ----------
    rows : EvaluationRows
        Labels, users and requests.
    slices : mapping
        Name -> ``bool [rows]``.
    resamples : int or Resamples
        Bootstrap samples, or draws of users that other rows share.
    redraw : bool
        Draw each slice's own users, as many as it has, instead of taking one set of draws of all users for all slices.
    least_positives : int
        A difference on fewer positives is no evidence.

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
        resamples: int | Resamples = RESAMPLES,
        *,
        redraw: bool = False,
        least_positives: int = LEAST_POSITIVES,
    ) -> None:
        self.rows = rows
        self.slices = slices
        self.least_positives = least_positives
        self._given, self._redraw = resamples, redraw
        self._of_slice: dict[str, Resamples] = {}

    @cached_property
    def _of_all(self) -> Resamples:
        given = self._given
        return given if isinstance(given, Resamples) else Resamples.draw(self.rows.user, given)

    def resamples(self, name: str) -> Resamples:
        """The draws of users for the rows of a slice."""
        if name not in self._of_slice:
            part = self.slices[name]
            if self._redraw and not isinstance(self._given, Resamples):
                self._of_slice[name] = Resamples.draw(self.rows.user[part], self._given)
            else:
                self._of_slice[name] = self._of_all.take(part)
        return self._of_slice[name]

    @cached_property
    def sizes(self) -> dict[str, SliceSize]:
        """Slice -> its rows, positives and users."""
        label, user = self.rows.label, self.rows.user
        return {
            name: SliceSize(int(part.sum()), int(label[part].sum()), len(np.unique(user[part])))
            for name, part in self.slices.items()
        }

    @property
    def without_auc(self) -> dict[str, str]:
        """Slice -> why it has no AUC."""
        return {
            name: f"{size.positives} positives and {size.rows - size.positives} negatives; an AUC needs "
            f"{LEAST_PER_CLASS} of each"
            for name, size in self.sizes.items()
            if not enough(self.rows.label[self.slices[name]])
        }

    def evaluate(self, predictions: Sequence[Doubles]) -> dict[str, SliceMetrics]:
        """Measure one arm: slice -> metrics.

        Parameters
        ----------
        predictions : sequence of float64 [rows]
            Click probabilities (or scores of any kind, for AUC and GAUC alone), one array per seed.
        """
        return {
            name: SliceMetrics(self.rows, predictions, part, partial(self.resamples, name))
            for name, part in self.slices.items()
        }

    def compare(
        self,
        own: Mapping[str, SliceMetrics],
        baseline: Mapping[str, SliceMetrics],
        metric: str = "auc",
        slices: Iterable[str] | None = None,
    ) -> dict[str, Difference]:
        """Slice -> the paired difference of one arm to a baseline, on the slices where both have the metric.

        Parameters
        ----------
        own, baseline : mapping
            What :meth:`evaluate` gave.
        metric : str
            One of :data:`HIGHER_IS_BETTER`.
        slices : iterable of str, optional
            Only these; by default all.
        """
        return {
            name: difference(
                own[name].metrics[metric],
                baseline[name].metrics[metric],
                own[name].positives,
                metric,
                self.least_positives,
            )
            for name in (self.slices if slices is None else slices)
            if name in self.slices and metric in own[name].metrics and metric in baseline[name].metrics
        }

    def reference_auc(self, probability: Doubles) -> dict[str, float | None]:
        """Slice -> the AUC of true probabilities ``float64 [rows]``, on the rows where they are not NaN."""
        found: dict[str, float | None] = {}
        for name, part in self.slices.items():
            known = part & np.isfinite(probability)
            label = self.rows.label[known]
            found[name] = auc(label, probability[known]) if enough(label) else None
        return found


def difference(
    own: MetricValue, baseline: MetricValue, positives: int, metric: str = "auc", least_positives: int = LEAST_POSITIVES
) -> Difference:
    """One metric of an arm minus its baseline's; both have samples by the same draws."""
    interval = Interval.of(own.value - baseline.value, own.samples - baseline.samples)
    verdict = verdict_on(
        interval, positives, higher_is_better=HIGHER_IS_BETTER[metric], least_positives=least_positives
    )
    return Difference(interval, positives, verdict)


def enough(label: Labels) -> bool:
    """Whether both classes have rows enough for an AUC."""
    positives = int((label == 1).sum())
    return min(positives, len(label) - positives) >= LEAST_PER_CLASS


def refuse_leakage(evaluation_start_us: int, fit_ends_us: Mapping[str, int]) -> None:
    """Refuse an evaluation that starts before one of its artefacts was fitted.

    Raises
    ------
    LeakageError
        Naming the artefacts and both dates.
    """
    late = {name: iso(end) for name, end in fit_ends_us.items() if evaluation_start_us < end}
    if late:
        raise LeakageError(iso(evaluation_start_us), late)


def _ratio_samples(label: Labels, score: Doubles, group: Ints, resamples: Resamples) -> dict[str, Doubles]:
    p = np.clip(score, 1e-7, 1 - 1e-7)
    each = group_aucs(label, score, group)
    # A group's AUC counts once per row of it; a group belongs to one user.
    per_row = each.auc[np.searchsorted(each.group, group)]
    both = np.isfinite(per_row)
    columns = [
        np.ones(len(label)),
        label == 1,
        score,
        -np.where(label == 1, np.log(p), np.log1p(-p)),
        both,
        np.where(both, per_row, 0.0),
    ]
    rows, positives, predicted, loss, grouped, ranked = resamples.sums(np.stack(columns, axis=1).astype(np.float64)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = positives / rows
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return {
            "gauc": ranked / grouped,
            "logloss": loss / rows,
            "normalised_entropy": loss / rows / entropy,
            "calibration": predicted / positives,
        }
