"""Logits of probabilities, and back."""

from __future__ import annotations

import numpy as np

from sidkit.core.arrays import Doubles

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
