"""Judge arms on the test window: figures per slice, intervals over users, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.evaluation.bootstrap import Interval
from ranking.evaluation.metrics import auc, calibration, gauc, log_loss, normalised_entropy
from ranking.evaluation.resamples import Resamples, interval, mean_auc
from ranking.evaluation.slices import slices
from sidkit.core.clock import iso
from sidkit.core.errors import LeakageError

LEAST_PER_CLASS = 50
"""Below so many rows of either class a slice has no AUC."""
LEAST_POSITIVES = 500
"""A difference on fewer positives is no evidence, whatever its interval."""
COMPARED = ("all", "cold", "warm")
RESAMPLES = 400

Predictions = Mapping[str, Sequence[npt.NDArray[np.float64]]]


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


def judge(
    data: Dataset, predictions: Predictions, baselines: Sequence[str], oracle: npt.NDArray[np.float64] | None
) -> dict[str, Any]:
    """Judge arms.

    Parameters
    ----------
    data : Dataset
        The test rows.
    predictions : mapping
        Arm -> one ``float64 [rows]`` per seed.
    baselines : sequence of str
        Arms against which the others are compared.
    oracle : float64 [rows], optional
        True click probabilities, NaN where unknown.

    Returns
    -------
    dict
        ``arms`` (arm -> slice -> figures, means over seeds), ``differences`` (rows of arm, baseline, slice, interval,
        verdict), ``rows`` per slice, ``reasons`` (slice -> why it has no AUC), ``gauc_by``.
    """
    label = data.rows.label
    user = pd.factorize(data.rows.user_ids)[0].astype(np.int64)
    group, by = user, "user"
    if data.rows.request_ids is not None:
        # Rows that name no request are grouped by user and moment.
        requests = [
            request if request is not None else f"{who}@{at}"
            for request, who, at in zip(data.rows.request_ids, data.rows.user_ids, data.rows.at_us, strict=True)
        ]
        group, by = pd.factorize(np.array(requests, dtype=object))[0].astype(np.int64), "request"
    parts = slices(data)
    compared = {name: parts[name] for name in COMPARED if name in parts and enough(label[parts[name]])}
    arms: dict[str, Any] = {}
    samples: dict[tuple[str, str], tuple[float, npt.NDArray[np.float64]]] = {}
    drawn = {name: Resamples.draw(user[rows], RESAMPLES) for name, rows in compared.items()}
    for arm, scores in predictions.items():
        arms[arm] = {
            name: _figures(label[rows], [score[rows] for score in scores], group[rows]) for name, rows in parts.items()
        }
        for name, rows in compared.items():
            samples[arm, name] = mean_auc(label[rows], [score[rows] for score in scores], drawn[name])
            arms[arm][name]["auc_interval"] = [_finite(bound) for bound in interval(samples[arm, name][1])]
    differences = []
    for baseline in baselines:
        for arm in predictions:
            if arm == baseline or baseline not in predictions:
                continue
            for name, rows in compared.items():
                (value, one), (other, others) = samples[arm, name], samples[baseline, name]
                found = Interval(value - other, *interval(one - others))
                positives = int(label[rows].sum())
                differences.append(
                    {
                        "arm": arm,
                        "baseline": baseline,
                        "slice": name,
                        "value": _finite(found.value),
                        "low": _finite(found.low),
                        "high": _finite(found.high),
                        "positives": positives,
                        "verdict": found.verdict if positives >= LEAST_POSITIVES else "no evidence",
                    }
                )
    return {
        "arms": arms,
        "differences": differences,
        "rows": {
            name: {"rows": int(rows.sum()), "positives": int(label[rows].sum()), "users": len(np.unique(user[rows]))}
            for name, rows in parts.items()
        },
        "reasons": {
            name: f"{int(label[rows].sum())} positives and {int((label[rows] == 0).sum())} negatives; an AUC needs "
            f"{LEAST_PER_CLASS} of each"
            for name, rows in parts.items()
            if not enough(label[rows])
        },
        "oracle": {name: _oracle_auc(label[rows], oracle[rows]) for name, rows in parts.items()}
        if oracle is not None
        else None,
        "gauc_by": by,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def enough(label: npt.NDArray[np.int8]) -> bool:
    """Whether both classes have rows enough for an AUC."""
    positives = int((label == 1).sum())
    return min(positives, len(label) - positives) >= LEAST_PER_CLASS


def _figures(
    label: npt.NDArray[np.int8], scores: Sequence[npt.NDArray[np.float64]], group: npt.NDArray[np.int64]
) -> dict[str, Any]:
    grouped = [gauc(label, score, group) for score in scores]
    return {
        "auc": _mean([auc(label, score) for score in scores]) if enough(label) else None,
        "gauc": _mean([value for value, _ in grouped]),
        "gauc_kept": _mean([kept for _, kept in grouped]),
        "logloss": _mean([log_loss(label, score) for score in scores]),
        "normalised_entropy": _mean([normalised_entropy(label, score) for score in scores]),
        "calibration": _mean([calibration(label, score) for score in scores]),
        "auc_by_seed": [auc(label, score) for score in scores] if enough(label) else None,
    }


def _oracle_auc(label: npt.NDArray[np.int8], truth: npt.NDArray[np.float64]) -> float | None:
    known = np.isfinite(truth)
    return auc(label[known], truth[known]) if enough(label[known]) else None


def _mean(values: Sequence[float]) -> float | None:
    mean = float(np.mean(values)) if len(values) else float("nan")
    return mean if np.isfinite(mean) else None
