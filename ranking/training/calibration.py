"""Whether scores are rates, and the correction of scores that were trained on sampled negatives.

With sampled negatives the share of positives in training is a choice, and so is the level of the scores. If positives are kept
and negatives are sampled independently of the features, the logits are off by a constant (prior correction of case-control
sampling; King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9(2), 2001, section 4.1):

    logit + log(b / (1 - b)) - log(r / (1 - r))

where b is the base rate among exposures, which the user states, and r the share of positives in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranking.data.targets import CLICKED, Target
from sidkit.core.arrays import Doubles
from sidkit.core.config import Settings

_LEAST = 1e-12
"""Scores are clipped to this distance from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True)
class Calibration:
    """Whether the scores of a ranker are rates, with the reason, and the shift of their logits."""

    calibrated: bool
    reason: str
    shift: float = 0.0

    @classmethod
    def of(cls, settings: Settings, target: Target, trained_rate: float) -> Calibration:
        """Calibration of a ranker.

        Parameters
        ----------
        settings : Settings
            Settings of the repository.
        target : str
            What the ranker predicts.
        trained_rate : float
            Share of positives among the training rows.
        """
        if settings.source.feedback == "impressions":
            return cls(True, "trained on exposures, without sampled negatives")
        if target != CLICKED:
            return cls(False, "negatives were sampled, and a base rate corrects the target clicked only")
        base = settings.negatives.base_rate
        if base is None:
            return cls(
                False,
                "negatives were sampled; state the share of positives among real exposures as base_rate under [negatives] in "
                "sidkit.toml",
            )
        shift = _logit(base) - _logit(trained_rate)
        return cls(
            True, f"shifted from {trained_rate:.4g} positives in training to the stated base rate {base:.4g}", shift
        )

    @property
    def sentence(self) -> str:
        """One sentence for reports."""
        kind = "are rates" if self.calibrated else "rank rows but are not rates"
        return f"Scores {kind}: {self.reason}."

    def apply(self, scores: Doubles) -> Doubles:
        """Shift the logits of probabilities ``float64 [rows]``; their order does not change."""
        if not self.shift:
            return scores
        inner = np.clip(scores, _LEAST, 1 - _LEAST)
        shifted: Doubles = 1 / (1 + (1 - inner) / inner * np.exp(-self.shift))
        return shifted


SAMPLED_ROWS = Calibration(
    False, "negatives of the evaluated rows are sampled, so that log-loss and calibration are those of the sample"
)
"""Calibration on rows with sampled negatives, whatever the base rate: the rows do not have it."""
SAMPLED_METRICS = "Log-loss and calibration in this report are those of rows with sampled negatives."


def _logit(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))
