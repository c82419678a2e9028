"""Logits of probabilities, and back; the weights of a mean of logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ranking.evaluation.metrics import auc, log_loss
from sidkit.core.arrays import Doubles

STEPS = 10
"""Weights are multiples of 1 / STEPS."""

_LEAST = 1e-7
"""Probabilities are clipped to ``[_LEAST, 1 - _LEAST]``, so that every logit is finite."""


def logits(probability: Doubles) -> Doubles:
    """Return the log-odds of probabilities."""
    clipped = np.clip(probability, _LEAST, 1 - _LEAST)
    odds: Doubles = np.log(clipped / (1 - clipped))
    return odds


def probabilities(logit: Doubles) -> Doubles:
    """Return the probabilities of log-odds."""
    probability: Doubles = 1 / (1 + np.exp(-logit))
    return probability


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


def _grid(members: int) -> Iterator[Doubles]:
    """Yield all weights that are multiples of 1 / STEPS and sum to 1."""
    yield from (np.array(parts) / STEPS for parts in _shares(members, STEPS))


def _shares(members: int, total: int) -> Iterator[Sequence[int]]:
    if members == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in _shares(members - 1, total - first))
