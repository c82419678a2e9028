"""Rolling time origins: the same split, each moved back by one test window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranking.data.split import TimeSplit, codebook_end
from sidkit.core.arrays import Ints
from sidkit.core.clock import iso
from sidkit.core.config import SplitSettings
from sidkit.core.errors import EvaluationError


@dataclass(frozen=True)
class TimeOrigin:
    """One time origin; 0 is the latest. Rows at or after ``end_us`` are in its future and excluded; None excludes none."""

    number: int
    split: TimeSplit
    end_us: int | None

    def rows(self, at_us: Ints) -> Ints:
        """Return the indices of the rows before the end of the time origin."""
        return np.arange(len(at_us)) if self.end_us is None else np.flatnonzero(at_us < self.end_us)

    def describe(self) -> dict[str, str]:
        """Return the cuts as text."""
        return {**self.split.describe(), "end": iso(self.end_us) if self.end_us is not None else "end of the log"}


def time_origins(at_us: Ints, settings: SplitSettings, count: int) -> list[TimeOrigin]:
    """Return the latest time origin and the preceding ones; their test windows are adjacent and do not overlap.

    Parameters
    ----------
    at_us : int64 [rows]
        Sorted row times, microseconds UTC.
    settings : SplitSettings
        Training and validation shares; the rest is the test window, which is also the step between time origins.
    count : int
        Number of time origins.

    Raises
    ------
    EvaluationError
        If a part of a time origin would be empty.
    """
    origins = [TimeOrigin(0, TimeSplit.of(at_us, settings), None)]
    for number in range(1, count):
        window = len(at_us) - int(len(at_us) * (settings.train + settings.validation))
        back = number * window
        first, second, end = (
            int(len(at_us) * settings.train) - back,
            int(len(at_us) * (settings.train + settings.validation)) - back,
            len(at_us) - back,
        )
        if not 0 < first < second < end or not at_us[0] < at_us[first] < at_us[second] < at_us[end]:
            raise EvaluationError(
                f"{len(at_us):,} rows have no room for time origin {number}: its training, validation or test part "
                "would be empty. Use fewer time origins, or shorten the test window (split.train and split.validation in "
                "sidkit.toml)"
            )
        # The same share of the rows before the validation rows as at origin 0.
        codebook_us = codebook_end(at_us[:first], settings.codebook_share / settings.train)
        split = TimeSplit(int(at_us[first]), int(at_us[second]), codebook_us)
        origins.append(TimeOrigin(number, split, int(at_us[end])))
    return origins
