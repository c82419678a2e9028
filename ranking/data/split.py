"""Global temporal split into a codebook window, training, validation and test rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

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

    A codebook that learns from clicks is fitted on data before ``codebook_end_us``, and its rankers train on rows from
    ``train_start_us`` on: earlier rows belong to no part. None: training starts with the first row.
    """

    train_end_us: int
    validation_end_us: int
    codebook_end_us: int
    train_start_us: int | None = None

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
        return cls(int(at_us[first]), int(at_us[second]), codebook_end(at_us, settings.codebook_share))

    def fit_end_us(self, *, learns_from_clicks: bool) -> int:
        """Where the data that a codebook is fitted on ends, microseconds UTC."""
        return self.codebook_end_us if learns_from_clicks else self.train_end_us

    def training_from(self, start_us: int) -> TimeSplit:
        """The split for rankers of a codebook that learned from clicks before ``start_us``, microseconds UTC."""
        return replace(self, train_start_us=start_us)

    def parts(self, at_us: Ints) -> dict[str, npt.NDArray[np.int64]]:
        """Row indices of ``train``, ``validation`` and ``test``."""
        train = at_us < self.train_end_us
        if self.train_start_us is not None:
            train &= at_us >= self.train_start_us
        return {
            "train": np.flatnonzero(train),
            "validation": np.flatnonzero((at_us >= self.train_end_us) & (at_us < self.validation_end_us)),
            "test": np.flatnonzero(at_us >= self.validation_end_us),
        }

    def inputs(self) -> dict[str, Any]:
        """What determines the parts, as an input of stages."""
        cuts = asdict(self)
        del cuts["codebook_end_us"]  # an input of the codebook, not of the parts
        return {name: value for name, value in cuts.items() if value is not None}

    def describe(self) -> dict[str, str]:
        """The split times as ISO-8601 text."""
        return {
            "codebook_end": iso(self.codebook_end_us),
            "train_end": iso(self.train_end_us),
            "validation_end": iso(self.validation_end_us),
        }


def codebook_end(at_us: Ints, share: float) -> int:
    """The first of sorted row times after the earliest ``share`` of the rows, microseconds UTC."""
    return int(at_us[int(len(at_us) * share)])


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
