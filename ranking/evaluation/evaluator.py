"""Evaluator: metrics of arms per slice, bootstrap intervals over users, and paired differences with a verdict.

All arms are evaluated on the same rows and the same bootstrap samples of users, so differences are paired. Samples are
computed lazily, when an interval or a difference is first needed.
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
"""Calibration is best at 1, so differences in calibration are not compared."""
LEAST_PER_CLASS = 50
"""Minimum rows of each class for a slice to have an AUC."""
RESAMPLES = 1000

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class EvaluationRows:
    """Rows on which arms are evaluated."""

    label: Labels
    """Labels 0 or 1, int8 [rows]."""
    user: Ints
    """User of each row, int64 [rows]; users are resampled."""
    group: Ints
    """GAUC group of each row, int64 [rows]: its request or its user."""
    grouped_by: str
    """``request`` or ``user``."""

    @classmethod
    def of(cls, data: Dataset) -> EvaluationRows:
        """Build from a data set; rows without a request are grouped by user and time, logs without requests by user."""
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
    """Number of rows, positives and users of a slice."""

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
    """Paired difference of a metric between an arm and its baseline."""

    interval: Interval
    positives: int
    verdict: Verdict


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
    """Metrics of one arm on one slice, with bootstrap samples.

    Parameters
    ----------
    rows : EvaluationRows
        All evaluation rows.
    scores : sequence of float64 [rows]
        Predicted probabilities of all rows, one array per seed.
    part : bool [rows]
        Mask of the slice.
    resamples : callable
        Returns the bootstrap samples for the slice's rows; called lazily.
    """

    def __init__(
        self, rows: EvaluationRows, scores: Sequence[Doubles], part: Bools, resamples: Callable[[], Resamples]
    ) -> None:
        self._rows, self._scores, self._part, self._resamples = rows, scores, part, resamples
        label, group, selected = rows.label[part], rows.group[part], [score[part] for score in scores]
        grouped = [gauc(label, score, group) for score in selected]
        self.positives = int(label.sum())
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
            name: MetricValue(float(np.mean(values)), tuple(values), partial(self._samples, name))
            for name, values in exact.items()
            if np.isfinite(values).all()
        }
        """Metric -> value; undefined metrics are omitted."""

    def summary(self, *, interval: bool) -> ArmMetrics:
        """Return the metrics without samples; ``interval`` adds the AUC's interval if it is defined."""
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
        selected = [score[self._part] for score in self._scores]
        return mean_auc(self._rows.label[self._part], selected, self._resamples())[1]

    @cached_property
    def _ratios(self) -> dict[str, Doubles]:
        """Samples of the metrics that are ratios of sums over rows, averaged over seeds."""
        label, group = self._rows.label[self._part], self._rows.group[self._part]
        sums = [_ratio_samples(label, score[self._part], group, self._resamples()) for score in self._scores]
        return {name: np.mean([samples[name] for samples in sums], axis=0) for name in sums[0]}


class Evaluator:
    """Evaluates arms on the same rows, slices and bootstrap samples of users.

    Parameters
    ----------
    rows : EvaluationRows
        Labels, users and requests.
    slices : mapping
        Slice name -> ``bool [rows]``.
    resamples : int or Resamples
        Number of bootstrap samples, or samples shared with other rows.
    redraw : bool
        Resample the users of each slice separately, instead of resampling all users once for all slices.
    least_positives : int
        Minimum number of positives for a verdict other than ``no evidence``.

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
        """Return the bootstrap samples for the rows of a slice."""
        if name not in self._of_slice:
            part = self.slices[name]
            if self._redraw and not isinstance(self._given, Resamples):
                self._of_slice[name] = Resamples.draw(self.rows.user[part], self._given)
            else:
                self._of_slice[name] = self._of_all.take(part)
        return self._of_slice[name]

    @cached_property
    def sizes(self) -> dict[str, SliceSize]:
        """Slice -> number of rows, positives and users."""
        label, user = self.rows.label, self.rows.user
        return {
            name: SliceSize(int(part.sum()), int(label[part].sum()), len(np.unique(user[part])))
            for name, part in self.slices.items()
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
            name: SliceMetrics(self.rows, predictions, part, partial(self.resamples, name))
            for name, part in self.slices.items()
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
                arm[name].positives,
                metric,
                self.least_positives,
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
    arm: MetricValue, baseline: MetricValue, positives: int, metric: str = "auc", least_positives: int = LEAST_POSITIVES
) -> Difference:
    """Difference of a metric between an arm and its baseline, whose bootstrap samples must be paired."""
    interval = Interval.of(arm.value - baseline.value, arm.samples - baseline.samples)
    verdict = verdict_on(
        interval, positives, higher_is_better=HIGHER_IS_BETTER[metric], least_positives=least_positives
    )
    return Difference(interval, positives, verdict)


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


def _ratio_samples(label: Labels, score: Doubles, group: Ints, resamples: Resamples) -> dict[str, Doubles]:
    p = np.clip(score, 1e-7, 1 - 1e-7)
    groups = group_aucs(label, score, group)
    # A group's AUC is weighted by its rows; each group belongs to one user.
    per_row = groups.auc[np.searchsorted(groups.group, group)]
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
