"""Times of events by kind, and their number in a trailing window; plain Python with bisection."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from sidkit.core.clock import DAY_US

WINDOWS_US: dict[str, int | None] = {"1d": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US, "all": None}
"""Length of each window in microseconds; None has no beginning."""
WEIGHT = 10.0
"""Weight of the prior rate in a smoothed rate, in exposures."""
_BEGINNING_US = -(2**62)


class EventTimes:
    """Times of the events of one key, microseconds UTC; add them in ascending order."""

    def __init__(self) -> None:
        self._times_us = {kind: array("q") for kind in ("exposures", "clicks", "conversions")}

    def add(self, us: int, clicked: int, converted: int) -> None:
        """Add an event that is at least as late as those before it."""
        self._times_us["exposures"].append(us)
        if clicked:
            self._times_us["clicks"].append(us)
        if converted:
            self._times_us["conversions"].append(us)

    def count(self, kind: str, window: str, end_us: int) -> int:
        """Number of events in ``(end - window, end]``."""
        length = WINDOWS_US[window]
        start_us = _BEGINNING_US if length is None else end_us - length
        times_us = self._times_us[kind]
        return bisect_right(times_us, end_us) - bisect_right(times_us, start_us)

    def began(self, end_us: int) -> bool:
        """Whether there is an event at or before a time."""
        return bool(self._times_us["exposures"]) and self._times_us["exposures"][0] <= end_us

    def window_ends(self, window: str, cadence_us: int) -> list[int]:
        """Multiples of the cadence at which an event enters or leaves a window, ascending."""
        gone = {0, WINDOWS_US[window] or 0}
        return sorted(
            {-(-(us + after) // cadence_us) * cadence_us for us in self._times_us["exposures"] for after in gone}
        )


NO_EVENTS = EventTimes()
"""Of a key without events."""


def smoothed(clicks: int, exposures: int | None, prior: float) -> float:
    """A rate smoothed towards a prior rate; the prior where exposures are unknown (None)."""
    return prior if exposures is None else (clicks + WEIGHT * prior) / (max(exposures, clicks) + WEIGHT)


def window_end(at_us: int, delay_us: int, cadence_us: int) -> int:
    """The newest window end whose counts serving could read at a time, microseconds UTC."""
    return (at_us - delay_us) // cadence_us * cadence_us
