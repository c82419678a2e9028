"""How codes age: per calendar period in which items arrived, how well their codes fit and how first codes are spread."""

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
    """Items that arrived in one calendar period, on one side of the end of the fit."""

    label: str
    after_fit: bool
    items: int
    residual_norm: float
    stability: float
    """Population stability index of their first codes against the fit, by :func:`semantic_ids.quality.drift.stability`."""
    chance: float
    """What 19 of 20 periods without any drift stay below."""


def by_period(arrivals: Arrivals, fit_codes: Ints, size: int, fit_end_us: int) -> tuple[str, list[Period]]:
    """The calendar unit and the periods in which any item arrived, oldest first.

    The unit is the finest of day, week, month, quarter, year and decade with at most ``MOST_PERIODS`` periods from
    the first arrival to the last; the period in which the fit ended is told twice, before and after.
    """
    if len(arrivals.moment_us) == 0:
        return "day", []
    unit, numbers = _unit(arrivals.moment_us)
    after = arrivals.moment_us > fit_end_us
    expected = np.bincount(fit_codes, minlength=size)
    found = []
    for number, late in sorted(set(zip(numbers.tolist(), after.tolist(), strict=True))):
        there = (numbers == number) & (after == late)
        spread = stability(expected, np.bincount(arrivals.code[there], minlength=size))
        norm = float(arrivals.residual_norm[there].mean())
        found.append(Period(_label(unit, number), late, int(there.sum()), norm, spread.psi, spread.noise))
    return unit, found


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
