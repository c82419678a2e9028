"""Blends: the weighted mean of the logits of other arms, with weights chosen on validation rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking.evaluation.metrics import auc, log_loss
from ranking.training.arms import ArmDetails, ArmResult, read_predictions
from sidkit.core.arrays import Doubles
from sidkit.core.progress import SILENT, Progress

STEPS = 10
"""Weights are multiples of 1 / STEPS."""
_LEAST = 1e-7
"""Probabilities are clipped to ``[_LEAST, 1 - _LEAST]``, so that every logit is finite."""


def blend_arm(
    arm: str, seed: int, label: npt.NDArray[np.int8], members: Mapping[str, Path], progress: Progress = SILENT
) -> ArmResult:
    """Blend the saved predictions of trained arms, as :func:`ranking.training.arms.train_arm` trains an arm.

    Parameters
    ----------
    arm, seed : str, int
        Name and seed of the blend.
    label : int8 [rows]
        Labels of the validation rows.
    members : mapping
        Arm -> predictions of the same seed, written by :func:`ranking.training.arms.write_predictions`.
    progress : Progress
        Receives the weights as a remark.
    """
    names = sorted(members)  # the order in a preset must not matter
    validation, test = (
        np.stack([logits(read_predictions(members[name], part)) for name in names]) for part in ("validation", "test")
    )
    weights = best_weights(label, validation)
    blended, of_test = probabilities(weights @ validation), probabilities(weights @ test)
    reached = auc(label, blended)
    shares = dict(zip(names, weights.tolist(), strict=True))
    listed = " + ".join(f"{weight:.1f} {name}" for name, weight in shares.items())
    progress.remark(f"{arm} seed {seed}: {listed}, validation AUC {reached:.4f}")
    return ArmResult(reached, blended, of_test, None, ArmDetails(weights=shares))


def best_weights(label: npt.NDArray[np.int8], member_logits: Doubles) -> Doubles:
    """Choose the weights with the best validation AUC; ties are decided by log-loss.

    Parameters
    ----------
    label : int8 [rows]
        Validation labels.
    member_logits : float64 [members, rows]
        Logit of each member.

    Returns
    -------
    float64 [members]
        Multiples of 1 / :data:`STEPS` with sum 1.
    """

    def quality(weights: Doubles) -> tuple[float, float]:
        blended = weights @ member_logits
        return auc(label, blended), -log_loss(label, probabilities(blended))

    return max(_grid(len(member_logits)), key=quality)


def logits(probability: Doubles) -> Doubles:
    """Return the log-odds of probabilities."""
    clipped = np.clip(probability, _LEAST, 1 - _LEAST)
    odds: Doubles = np.log(clipped / (1 - clipped))
    return odds


def probabilities(logit: Doubles) -> Doubles:
    """Return the probabilities of log-odds."""
    probability: Doubles = 1 / (1 + np.exp(-logit))
    return probability


def _grid(members: int) -> Iterator[Doubles]:
    """Yield all weights that are multiples of 1 / STEPS and sum to 1."""
    yield from (np.array(parts) / STEPS for parts in _shares(members, STEPS))


def _shares(members: int, total: int) -> Iterator[Sequence[int]]:
    if members == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in _shares(members - 1, total - first))
