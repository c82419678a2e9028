"""95 % intervals that cover, and the verdict on a difference.

An estimate varies because other users could have come, because other items could have been in the catalogue, and because a
model could have been trained with another seed. Rows that share a user or an item are not independent, so the variance is
that of a delete-one-cluster jackknife over users plus that over items, minus that over (user, item) pairs, which both
contain (Cameron, Gelbach and Miller 2011; for the AUC, Obuchowski 1997 with one clustering). The variance of training is the
variance over seeds. Intervals use Student's t with the degrees of freedom of Satterthwaite (1946), from the effective number
of clusters (Kish 1965). The coverage of these intervals is measured in ``benchmarks/coverage.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Bools, Doubles, Ints

LEAST_POSITIVES = 500
"""Minimum number of positives for a verdict other than ``no evidence``."""
LEAST_USERS = 200
"""Minimum effective number of users for a verdict other than ``no evidence``."""
Outcome = Literal["better", "worse", "no evidence", "not exercised", "unequal rows"]
"""``no evidence`` if a difference is not significant or cannot be tested; ``not exercised`` if the mechanism that an arm adds
does not act (:mod:`ranking.experiments.comparison.liveness`); ``unequal rows`` if the arm has other training rows than the
baseline (:mod:`ranking.experiments.comparison.baselines`)."""
NO_EVIDENCE = "no evidence"
EVIDENCE = frozenset({"better", "worse"})
"""Outcomes that claim a difference."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; bounds are NaN if the variance is unknown."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, variance: Variance) -> Interval:
        """Return the interval of an estimate with a given variance."""
        margin = variance.margin
        return cls(value, value - margin, value + margin)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0; False if it has no bounds."""
        return self.low > 0 or self.high < 0

    def within(self, low: float, high: float) -> Interval:
        """Return the interval with bounds cut to the range of the estimate."""
        return Interval(self.value, *np.clip([self.low, self.high], low, high).tolist())

    def as_json(self, name: str = "value", digits: int | None = None) -> dict[str, float | None]:
        """Return the value (under ``name``), ``low`` and ``high``, rounded to ``digits``; None for NaN."""
        values = {name: self.value, "low": self.low, "high": self.high}
        return {key: finite(value if digits is None else round(value, digits)) for key, value in values.items()}


@dataclass(frozen=True)
class Variance:
    """A variance and its degrees of freedom; NaN if unknown."""

    value: float
    degrees: float

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval."""
        from scipy.special import stdtrit

        if not self.value > 0:  # exactly equal estimates, or an unknown variance
            return self.value
        return float(stdtrit(max(self.degrees, 1.0), 0.5 + CONFIDENCE / 2) * math.sqrt(self.value))

    @classmethod
    def total(cls, parts: Sequence[Variance]) -> Variance:
        """Return the variance of a sum of independent estimates, with Satterthwaite's degrees of freedom."""
        value = sum(part.value for part in parts)
        spread = sum(part.value**2 / part.degrees for part in parts if part.value > 0)
        return cls(value, value**2 / spread if spread > 0 else math.inf)

    @classmethod
    def of_mean(cls, values: Sequence[float]) -> Variance:
        """Return the variance of the mean of independent values; NaN for a single value."""
        if len(values) < 2:
            return cls(math.nan, math.nan)
        return cls(float(np.var(values, ddof=1)) / len(values), len(values) - 1)


@dataclass(frozen=True)
class Clusters:
    """The user, the item and the (user, item) pair of each row, as dense numbers ``int64 [rows]``, and how many there are."""

    user: Ints
    item: Ints
    pair: Ints
    sizes: tuple[int, int, int]

    @classmethod
    def of(cls, user: npt.ArrayLike, item: npt.ArrayLike) -> Clusters:
        """Number the users and items of the rows; any values that numpy can sort."""
        (users, user_count), (items, item_count) = (_numbered(values) for values in (user, item))
        pairs, pair_count = _numbered(users * max(item_count, 1) + items)
        return cls(users, items, pairs, (user_count, item_count, pair_count))

    def take(self, rows: Bools | Ints) -> Clusters:
        """Return the clusters of some rows, under the same numbers."""
        return Clusters(self.user[rows], self.item[rows], self.pair[rows], self.sizes)


@dataclass(frozen=True)
class Influence:
    """How an estimate depends on its rows.

    ``psi`` is ``float64 [rows, parts]``: removing a row changes the estimate by about minus the sum of its row. ``mass`` is
    ``float64 [rows, parts]``: the share of the row in the denominator of each part; its columns sum to 1. A mean has one part,
    the AUC two (positives and negatives).
    """

    psi: Doubles
    mass: Doubles

    def changes(self, clusters: Clusters) -> Changes:
        """Return the change of the estimate for each cluster that is left out."""
        numbers = (clusters.user, clusters.item, clusters.pair)
        user, item, pair = (
            self._left_out(cluster, size) for cluster, size in zip(numbers, clusters.sizes, strict=True)
        )
        return Changes(user, item, pair)

    def _left_out(self, cluster: Ints, size: int) -> Doubles:
        # Exact for a ratio of sums. For the AUC, the pairs within a cluster are the only approximation.
        change = np.zeros(size)
        for part in range(self.psi.shape[1]):
            mass = np.bincount(cluster, self.mass[:, part], size)
            change += np.bincount(cluster, self.psi[:, part], size) / np.maximum(1 - mass, 1e-12)
        return change


@dataclass(frozen=True)
class Changes:
    """Minus the change of an estimate for each cluster that is left out: ``float64 [users]``, ``[items]``, ``[pairs]``.

    Changes of estimates on the same clusters may be subtracted, scaled and added, so differences are paired.
    """

    user: Doubles
    item: Doubles
    pair: Doubles

    def __sub__(self, other: Changes) -> Changes:
        """Return the changes of the difference of two estimates."""
        return Changes(self.user - other.user, self.item - other.item, self.pair - other.pair)

    @classmethod
    def mean(cls, changes: Sequence[Changes]) -> Changes:
        """Return the changes of the mean of several estimates."""
        user, item, pair = (
            np.mean([getattr(each, kind) for each in changes], axis=0) for kind in ("user", "item", "pair")
        )
        return cls(user, item, pair)

    def variance(self, support: Support) -> Variance:
        """Return the variance over users and items; NaN with fewer than two users."""
        if support.users < 2:
            return Variance(math.nan, math.nan)
        user, item, pair = (
            float(change @ change) * (count - 1) / count
            for change, count in zip((self.user, self.item, self.pair), support.counts, strict=True)
        )
        both = Variance.total(
            [
                Variance(variance, max(number - 1, 1.0))
                for variance, number in zip((user, item), support.effective, strict=True)
            ]
        )
        # The difference of the three can be below either by chance; neither source alone is overstated.
        return Variance(max(user + item - pair, user, item), both.degrees)


@dataclass(frozen=True, eq=False)
class Support:
    """The positives and clusters that support an estimate."""

    positives: int
    rows: tuple[Ints, Ints, Ints] = field(repr=False)
    """Number of rows per user, item and pair, under the numbers of :class:`Clusters`."""
    shares: tuple[Doubles, Doubles] = field(repr=False)
    """Share of each user, and of each item, in the rows of the rarer class."""

    @classmethod
    def of(cls, label: npt.NDArray[np.integer], clusters: Clusters) -> Support:
        """Count the clusters of rows with labels 0 or 1, ``[rows]``."""
        positive = label == 1
        rarer = positive if 2 * positive.sum() <= len(label) else ~positive
        rarer = rarer if rarer.any() else np.ones(len(label), bool)
        numbers = (clusters.user, clusters.item, clusters.pair)
        user, item, pair = (
            np.bincount(number, minlength=size) for number, size in zip(numbers, clusters.sizes, strict=True)
        )
        users, items = (
            np.bincount(number[rarer], minlength=size) / max(int(rarer.sum()), 1)
            for number, size in zip(numbers[:2], clusters.sizes[:2], strict=True)
        )
        return cls(int(positive.sum()), (user, item, pair), (users, items))

    @classmethod
    def pooled(cls, parts: Sequence[Support]) -> Support:
        """Return the support of a mean of estimates on different rows of the same clusters."""
        user, item, pair = (np.sum([part.rows[kind] for part in parts], axis=0) for kind in range(3))
        users, items = (np.mean([part.shares[kind] for part in parts], axis=0) for kind in range(2))
        return cls(sum(part.positives for part in parts), (user, item, pair), (users, items))

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of users, items and pairs."""
        user, item, pair = (int(np.count_nonzero(rows)) for rows in self.rows)
        return user, item, pair

    @property
    def users(self) -> int:
        """Number of users."""
        return self.counts[0]

    @cached_property
    def effective(self) -> tuple[float, float]:
        """Kish's effective number of users and of items: 1 / sum of squared shares; 0 without rows."""
        users, items = map(_kish, self.shares)
        return users, items

    @property
    def effective_users(self) -> float:
        """Kish's effective number of users, by their rows of the rarer class."""
        return self.effective[0]


@dataclass(frozen=True)
class Verdict:
    """Verdict on a difference to a baseline."""

    outcome: Outcome
    reason: str
    """Reason, such as ``interval contains 0`` or ``312 positives (500 needed)``."""

    def __str__(self) -> str:
        """Return the outcome, with the reason if it is neither ``better`` nor ``worse``."""
        return self.outcome if self.outcome in EVIDENCE else f"{self.outcome} ({self.reason})"


def verdict_on(
    difference: Interval,
    positives: int,
    users: float,
    *,
    seeds_known: bool = True,
    higher_is_better: bool = True,
    least_positives: int = LEAST_POSITIVES,
    least_users: int = LEAST_USERS,
) -> Verdict:
    """Decide whether a metric is better than its baseline.

    Parameters
    ----------
    difference : Interval
        The metric minus that of the baseline.
    positives : int
        Number of positive rows on which both were evaluated.
    users : float
        Effective number of users of these rows; see :attr:`Support.effective_users`.
    seeds_known : bool
        Whether the interval contains the variance of training. With one seed it does not, and there is no verdict.
    higher_is_better : bool
        Whether higher values of the metric are better.
    least_positives, least_users : int
        Minimum number of positives and effective number of users for a verdict other than ``no evidence``.
    """
    small = too_small(positives, users, least_positives, least_users)
    if small is not None:
        return Verdict("no evidence", small)
    if np.isnan(difference.low) or np.isnan(difference.high):
        return Verdict("no evidence", "no interval: one user, or one class")
    if not seeds_known:
        return Verdict("no evidence", ONE_SEED)
    if not difference.excludes_zero:
        return Verdict("no evidence", "interval contains 0")
    return Verdict("better" if (difference.low > 0) == higher_is_better else "worse", "interval excludes 0")


ONE_SEED = "one seed, so the variance of training is unknown"


def too_small(
    positives: int, users: float, least_positives: int = LEAST_POSITIVES, least_users: int = LEAST_USERS
) -> str | None:
    """Say what a slice lacks for a verdict; None if it lacks nothing. ``users`` is the effective number."""
    lacks = []
    if positives < least_positives:
        lacks.append(f"{positives:,} positives ({least_positives} needed)")
    if users < least_users:
        lacks.append(f"{users:,.0f} effective users ({least_users} needed)")
    return " and ".join(lacks) or None


def effective_number(cluster: Ints) -> float:
    """Return Kish's effective number of clusters of rows ``int64 [rows]``; 0 without rows."""
    counts = np.unique(cluster, return_counts=True)[1].astype(np.float64)
    return _kish(counts / counts.sum())


def mean_interval(values: Doubles, cluster: Ints) -> Interval:
    """Compute the mean of values ``float64 [rows]`` and its interval over clusters.

    Parameters
    ----------
    values : float64 [rows]
        At least one value.
    cluster : int64 [rows]
        The cluster of each row, any integers. A single cluster has no interval.
    """
    number, count = _numbered(cluster)
    mean, share = float(values.mean()), np.bincount(number) / len(values)
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    change = np.bincount(number, (values - mean) / len(values)) / (1 - share)
    variance = Variance(float(change @ change) * (count - 1) / count, max(effective_number(number) - 1, 1.0))
    return Interval.of(mean, variance)


def finite(value: float | None) -> float | None:
    """Return the value for JSON: None for NaN and infinity."""
    return value if value is not None and np.isfinite(value) else None


def _kish(share: Doubles) -> float:
    total = float(share @ share)
    return 1 / total if total else 0.0


def _numbered(values: npt.ArrayLike) -> tuple[Ints, int]:
    names, number = np.unique(np.asarray(values), return_inverse=True)
    return number.ravel().astype(np.int64), len(names)
