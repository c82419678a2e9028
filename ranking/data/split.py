"""Global temporal split into training, validation and test rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Ints
from sidkit.core.clock import iso
from sidkit.core.config import SplitSettings
from sidkit.core.errors import EvaluationError


@dataclass(frozen=True)
class TimeSplit:
    """Training rows are before ``train_end_us``, validation rows before ``validation_end_us``, test rows from then on
    (microseconds UTC).
    """

    train_end_us: int
    validation_end_us: int

    @classmethod
    def of(cls, at_us: Ints, settings: SplitSettings) -> TimeSplit:
        """Split sorted row times by the shares of the settings; rows of the same time stay together.

        Raises
        ------
        EvaluationError
            When a part would be empty.
        """
        first, second = (int(len(at_us) * share) for share in (settings.train, settings.train + settings.validation))
        if not 0 < first < second < len(at_us) or not at_us[0] < at_us[first] < at_us[second]:
            raise EvaluationError(
                f"{len(at_us):,} rows cannot be split in time into training, validation and test: a part would be empty. "
                "Use more rows, or rows with more distinct times"
            )
        return cls(int(at_us[first]), int(at_us[second]))

    def parts(self, at_us: Ints) -> dict[str, npt.NDArray[np.int64]]:
        """Row indices of ``train``, ``validation`` and ``test``."""
        return {
            "train": np.flatnonzero(at_us < self.train_end_us),
            "validation": np.flatnonzero((at_us >= self.train_end_us) & (at_us < self.validation_end_us)),
            "test": np.flatnonzero(at_us >= self.validation_end_us),
        }

    def describe(self) -> dict[str, str]:
        """The split times as ISO-8601 text."""
        return {"train_end": iso(self.train_end_us), "validation_end": iso(self.validation_end_us)}


def check_both_classes(label: npt.NDArray[np.number], what: str) -> None:
    """Check that a part has both classes; see :func:`check_classes`."""
    check_classes(int((label == 1).sum()), len(label), what)


def check_classes(positives: int, rows: int, what: str) -> None:
    """Check that a part has both classes.

    Raises
    ------
    EvaluationError
        When all rows have the same label.
    """
    if positives in {0, rows}:
        raise EvaluationError(
            f"the {what} rows ({rows:,}) all have label {int(bool(positives))}, but both labels are needed. Change the "
            "split (split.train, split.validation in sidkit.toml), or use a log with both labels in this window"
        )
