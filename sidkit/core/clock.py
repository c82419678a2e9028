"""Moments: microseconds since the Unix epoch, UTC, as plain integers; text only at the edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sidkit.core.errors import TimeError

MICROS = 1_000_000
DAY_US = 86_400 * MICROS
END_US = 7_258_118_400 * MICROS
"""2200-01-01: the contract has no later time."""
FIRST_EVENT_US = 365 * DAY_US
"""1971-01-01: an event before it comes from a clock that was never set, or was read in a wrong unit."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware ``datetime``, exact (no float in between)."""
    if moment.tzinfo is None:
        raise TimeError(f"{moment.isoformat()} has no time zone; write it with one, such as {moment.isoformat()}+00:00")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(micros: int) -> datetime:
    """The aware UTC ``datetime`` of a moment in microseconds.

    Raises
    ------
    TimeError
        When the moment lies outside the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(microseconds=int(micros))
    except OverflowError as error:
        raise TimeError(f"expected a moment of the years 1 to 9999, got {micros} microseconds since 1970") from error


def iso(micros: int) -> str:
    """ISO-8601 text in UTC, such as ``2024-01-31T08:00:00+00:00``."""
    return from_us(micros).isoformat()


def present_us() -> int:
    """The present, microseconds since the Unix epoch."""
    return to_us(datetime.now(UTC))


def parse_time(text: str | None) -> int:
    """Read a moment that a user typed.

    Parameters
    ----------
    text : str or None
        ISO-8601 with a time zone (``2024-01-31T08:00:00Z``), or None for now.

    Returns
    -------
    int
        Microseconds since the Unix epoch, UTC.

    Raises
    ------
    TimeError
        When the text is no time or names no zone.
    """
    if text is None:
        return present_us()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TimeError(f"{text!r} is not a time; write ISO-8601 with a zone, such as 2024-01-31T08:00:00Z") from error
    return to_us(moment)


def check_as_of(as_of_us: int, *, allow_future: bool = False, now_us: int | None = None) -> None:
    """Refuse to make features as of a moment at which no log has events, or that has not come yet.

    Parameters
    ----------
    as_of_us, now_us : int
        Microseconds UTC; ``now_us`` is the present by default.
    allow_future : bool
        Accept a moment after now.

    Raises
    ------
    TimeError
        Naming both moments and the option.
    """
    if not FIRST_EVENT_US <= as_of_us < END_US:
        raise TimeError(
            f"expected --as-of within {iso(FIRST_EVENT_US)} and {iso(END_US)}, where the contract has its events, got "
            f"{iso(as_of_us)}; correct the year"
        )
    now_us = present_us() if now_us is None else now_us
    if as_of_us > now_us and not allow_future:
        raise TimeError(
            f"expected --as-of up to now ({iso(now_us)}), got {iso(as_of_us)}: counts of trailing windows would decay as if "
            "nothing happened until then, and the tables cannot go back afterwards. Give an earlier moment, or --allow-future "
            "where the log is a simulation"
        )
