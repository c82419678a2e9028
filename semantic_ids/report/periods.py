"""Drift over time: residual norms and first-code distribution of the items that arrived in each calendar period."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semantic_ids.quality.drift import stability
from semantic_ids.report.facts import Arrivals
from sidkit.core.arrays import Ints
from sidkit.core.clock import DAY_US

MOST_PERIODS = 36


@dataclass(frozen=True)
class Period:
    """Items that arrived in one calendar period, before or after the end of the fit."""

    label: str
    after_fit: bool
    items: int
    residual_norm: float
    stability: float
    """Population stability index of their first codes against the fit, by :func:`semantic_ids.quality.drift.stability`."""
    chance: float
    """95 % point of ``stability`` without drift."""


def by_period(arrivals: Arrivals, fit_codes: Ints, size: int, fit_end_us: int) -> tuple[str, list[Period]]:
    """The calendar unit and the periods with at least one arrival, oldest first.

    The unit is the finest of day, week, month, quarter, year and decade with at most ``MOST_PERIODS`` periods between
    the first and the last arrival; the period in which the fit ended is split into before and after.
    """
    if len(arrivals.moment_us) == 0:
        return "day", []
    unit, numbers = _unit(arrivals.moment_us)
    after = arrivals.moment_us > fit_end_us
    expected = np.bincount(fit_codes, minlength=size)
    periods = []
    for number, late in sorted(set(zip(numbers.tolist(), after.tolist(), strict=True))):
        inside = (numbers == number) & (after == late)
        spread = stability(expected, np.bincount(arrivals.code[inside], minlength=size))
        norm = float(arrivals.residual_norm[inside].mean())
        periods.append(Period(_label(unit, number), late, int(inside.sum()), norm, spread.psi, spread.noise))
    return unit, periods


def _unit(moment_us: Ints) -> tuple[str, Ints]:
    numbers = {unit: number(moment_us) for unit, number in _UNITS.items()}
    unit = next((unit for unit, held in numbers.items() if held.max() - held.min() < MOST_PERIODS), "decade")
    return unit, numbers[unit]


def _months(moment_us: Ints) -> Ints:
    return moment_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


_UNITS: dict[str, Callable[[Ints], Ints]] = {
    "day": lambda moment_us: moment_us // DAY_US,
    # The epoch began on a Thursday; weeks begin on Mondays.
    "week": lambda moment_us: (moment_us // DAY_US + 3) // 7,
    "month": _months,
    "quarter": lambda moment_us: _months(moment_us) // 3,
    "year": lambda moment_us: _months(moment_us) // 12,
    "decade": lambda moment_us: (_months(moment_us) // 12 + 1970) // 10,
}


def _label(unit: str, number: int) -> str:
    if unit in {"day", "week"}:
        return str(np.datetime64(number if unit == "day" else number * 7 - 3, "D"))
    if unit == "month":
        return str(np.datetime64(number, "M"))
    if unit == "quarter":
        return f"{1970 + number // 4} Q{number % 4 + 1}"
    return str(1970 + number) if unit == "year" else f"{number}0s"
