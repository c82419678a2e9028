"""Count gates: mix the logits of two scorers by the candidate's interactions and age as of the row.

``logit = c a + (1 - c) b`` with ``c = sigmoid(w . [log1p exposures, log1p clicks, log1p age in days] + bias)``: four numbers,
fitted on validation rows with a prior towards the constant blend of the same scorers. The gate with one number is that of
Reindex-Then-Adapt (arXiv 2405.12119); reading counts is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_column
from ranking.evaluation.metrics import auc
from sidkit.core.arrays import Doubles, Ints

COLUMNS = ("item_exposures_all", "item_clicks_all", "item_age_days")
"""Numeric columns that a gate reads, as ``log1p``."""
BIAS = "bias"
PRIORS = (3.0, 30.0, 300.0)
"""Precisions of the normal prior of the weights, in units of standardised features; cross-validation chooses one, or the
constant blend."""
_FOLDS = 5
_LEAST_SHARE = 0.02
"""The constant share is cut to [_LEAST_SHARE, 1 - _LEAST_SHARE], so that its logit is finite."""


@dataclass(frozen=True)
class CountGate:
    """A fitted gate.

    Attributes
    ----------
    weights : tuple of float
        One per column of :data:`COLUMNS`.
    bias : float
        The share of the first member, as a logit, at zero counts and age.
    """

    weights: tuple[float, ...]
    bias: float

    def shares(self, features: Doubles) -> Doubles:
        """Share ``c`` of the first member, ``float64 [rows]``, from :func:`gate_features`."""
        return _sigmoid(features @ np.asarray(self.weights) + self.bias)

    def blended(self, features: Doubles, member_logits: Doubles) -> Doubles:
        """Logits ``float64 [rows]`` of ``member_logits`` float64 [2, rows]."""
        share = self.shares(features)
        blended: Doubles = share * member_logits[0] + (1 - share) * member_logits[1]
        return blended

    def as_json(self) -> dict[str, float]:
        """The four numbers by name."""
        return {**dict(zip(COLUMNS, self.weights, strict=True)), BIAS: self.bias}

    @classmethod
    def of_json(cls, values: Mapping[str, float]) -> Self:
        """Read the values of :meth:`as_json`; a missing one raises KeyError."""
        return cls(tuple(float(values[name]) for name in COLUMNS), float(values[BIAS]))

    @classmethod
    def constant(cls, share: float) -> Self:
        """The gate with the same share for all rows."""
        return cls((0.0,) * len(COLUMNS), _logit_of(share))

    @classmethod
    def fit(
        cls,
        label: npt.NDArray[np.int8],
        features: Doubles,
        member_logits: Doubles,
        users: npt.NDArray[np.object_],
        share: float,
    ) -> Self:
        """Fit a gate on validation rows.

        The weights minimise the log-loss of ``sigmoid(s logit + o)`` plus a normal prior around the constant gate; ``s`` and
        ``o`` correct the calibration of the members and are discarded. The precision of the prior, or the constant gate
        itself, is chosen by the AUC of a cross-validation in five parts by user; of equal ones, the tighter.

        Parameters
        ----------
        label : int8 [rows]
            Labels.
        features : float64 [rows, 3]
            See :func:`gate_features`.
        member_logits : float64 [2, rows]
            Logit of each member.
        users : object [rows]
            User of each row; a user's rows are in one part.
        share : float
            Share of the first member in the constant blend.
        """
        fold = _folds(users)
        held: dict[float | None, Doubles] = {None: cls.constant(share).blended(features, member_logits)}
        held |= {precision: np.zeros(len(label)) for precision in reversed(PRIORS)}
        for precision in PRIORS:
            for part in range(_FOLDS):
                own = fold == part
                fitted = cls._fit(label[~own], features[~own], member_logits[:, ~own], share, precision)
                held[precision][own] = fitted.blended(features[own], member_logits[:, own])
        reached = {precision: _mean_auc(label, logit, fold) for precision, logit in held.items()}
        best = max(reached, key=lambda precision: reached[precision])
        return cls.constant(share) if best is None else cls._fit(label, features, member_logits, share, best)

    @classmethod
    def _fit(
        cls, label: npt.NDArray[np.int8], features: Doubles, member_logits: Doubles, share: float, precision: float
    ) -> Self:
        from scipy.optimize import minimize

        mean, deviation = features.mean(axis=0), features.std(axis=0)
        scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
        scaled, first, second = (features - mean) * scale, member_logits[0], member_logits[1]
        start = np.array([*np.zeros(len(COLUMNS)), _logit_of(share), 1.0, 0.0])

        def loss(values: Doubles) -> tuple[float, Doubles]:
            weights, bias, slope, offset = values[:-3], values[-3], values[-2], values[-1]
            own = _sigmoid(scaled @ weights + bias)
            blended = own * first + (1 - own) * second
            logit = slope * blended + offset
            missed = _sigmoid(logit) - label
            through = missed * slope * (first - second) * own * (1 - own)
            away = values[:-2] - start[:-2]
            total = np.sum(np.logaddexp(0, logit) - label * logit) + 0.5 * precision * float(away @ away)
            gradient = [*(scaled.T @ through), through.sum(), missed @ blended, missed.sum()]
            return float(total), np.asarray(gradient) + precision * np.array([*away, 0.0, 0.0])

        found = minimize(loss, start, jac=True, method="L-BFGS-B").x
        weights = found[:-3] * scale
        return cls(tuple(weights.tolist()), float(found[-3] - weights @ mean))


def gate_features(data: Dataset) -> Doubles:
    """``log1p`` of :data:`COLUMNS` as of each row, ``float64 [rows, 3]``."""
    columns = [numeric_column(data.numeric, name).astype(np.float64) for name in COLUMNS]
    features: Doubles = np.log1p(np.stack(columns, axis=1))
    return features


def shuffled(features: Doubles, seed: int) -> Doubles:
    """Control: the features of random rows."""
    return features[np.random.default_rng([seed, 17]).permutation(len(features))]


def _folds(users: npt.NDArray[np.object_]) -> Ints:
    """Part of each row, ``int64 [rows]``; all rows of a user are in one."""
    number = np.unique(users.astype(str), return_inverse=True)[1].ravel()
    parts: Ints = np.random.default_rng(0).integers(0, _FOLDS, number.max(initial=0) + 1)[number]
    return parts


def _mean_auc(label: npt.NDArray[np.int8], logit: Doubles, fold: Ints) -> float:
    """Mean AUC over the parts with both classes: scores of different fits are not compared."""
    own = [fold == part for part in range(_FOLDS)]
    values = [auc(label[rows], logit[rows]) for rows in own if 0 < label[rows].sum() < rows.sum()]
    return float(np.mean(values)) if values else 0.0


def _sigmoid(logit: Doubles) -> Doubles:
    value: Doubles = 0.5 * (1 + np.tanh(0.5 * logit))
    return value


def _logit_of(share: float) -> float:
    cut = float(np.clip(share, _LEAST_SHARE, 1 - _LEAST_SHARE))
    return float(np.log(cut / (1 - cut)))
