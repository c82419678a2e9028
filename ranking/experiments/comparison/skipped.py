"""Arms of ``all`` that the data do not allow: each is named with the reason, and the comparison runs without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ranking.experiments.comparison.arms import ComparedArm
from ranking.training.arm_members import members_first
from sidkit.core.errors import EvaluationError, FitError
from sidkit.core.progress import Progress


class SkippedArms:
    """Collects the arms whose codebook cannot be fitted on the data, such as one that reads a modality that they lack.

    Parameters
    ----------
    optional : frozenset of str
        The arms that may be skipped; for another one, the error is raised.
    progress : Progress
        Receives a remark per skipped arm.
    """

    def __init__(self, optional: frozenset[str], progress: Progress) -> None:
        self._optional = optional
        self._progress = progress
        self._failed: dict[str, Exception] = {}
        self.reasons: dict[str, str] = {}
        """Arm -> why it is skipped."""

    def made(self, arm: str, codebook: str, make: Callable[[], str]) -> str | None:
        """Return what ``make`` returns for the codebook of an arm, or None if the arm is skipped.

        A codebook that failed is not tried again for other arms.

        Raises
        ------
        FitError, EvaluationError
            When the codebook cannot be fitted, or leaves no training rows, and the arm may not be skipped.
        """
        if arm in self.reasons:
            return None
        error = self._failed.get(codebook)
        if error is None:
            try:
                return make()
            except (FitError, EvaluationError) as failure:
                error = self._failed[codebook] = failure
        if arm not in self._optional:
            raise error
        self._skip(arm, str(error))
        return None

    def possible(self, arms: Mapping[str, ComparedArm]) -> dict[str, ComparedArm]:
        """Return the arms that are not skipped; blends and adapters of skipped arms are skipped too.

        Raises
        ------
        FitError
            When none is left.
        """
        for arm in members_first(arms):
            missing = [member for member in arms[arm].of if member in self.reasons]
            if missing and arm not in self.reasons:
                self._skip(arm, f"it is made from {', '.join(missing)}")
        left = {arm: spec for arm, spec in arms.items() if arm not in self.reasons}
        if not left:
            arm, reason = next(iter(self.reasons.items()))
            raise FitError(f"the data allow none of the {len(arms)} arms; {arm}: {reason}")
        return left

    def _skip(self, arm: str, reason: str) -> None:
        self.reasons[arm] = reason
        self._progress.remark(f"skipped {arm}: {reason}")
