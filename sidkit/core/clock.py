"""Timestamps as integers: microseconds since the Unix epoch, UTC. Text is used only for input and output."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sidkit.core.errors import TimeError

Moment = str | datetime
"""A time as users pass it: ISO 8601 text, or a ``datetime`` (also ``pandas.Timestamp``); both with a time zone."""

MICROS = 1_000_000
DAY_US = 86_400 * MICROS
END_US = 7_258_118_400 * MICROS
"""2200-01-01: the upper bound of valid timestamps."""
FIRST_EVENT_US = 365 * DAY_US
"""1971-01-01: earlier events come from an unset clock or a wrong time unit."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Convert an aware ``datetime`` to microseconds since the epoch, exactly (without floats)."""
    if moment.tzinfo is None:
        raise TimeError(
            f"expected a time with a zone, got {moment.isoformat()}; write it as {moment.isoformat()}+00:00"
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(micros: int) -> datetime:
    """Convert microseconds since the epoch to an aware UTC ``datetime``.

    Raises
    ------
    TimeError
        When the time is outside the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(microseconds=int(micros))
    except OverflowError as error:
        raise TimeError(f"expected a time in the years 1 to 9999, got {micros} microseconds since 1970") from error


def iso(micros: int) -> str:
    """Format as ISO 8601 in UTC, such as ``2024-01-31T08:00:00+00:00``."""
    return from_us(micros).isoformat()


def present_us() -> int:
    """Current time in microseconds since the Unix epoch."""
    return to_us(datetime.now(UTC))


def parse_time(text: str | None) -> int:
    """Parse a time typed by a user.

    Parameters
    ----------
    text : str or None
        ISO 8601 with a time zone (``2024-01-31T08:00:00Z``), or None for now.

    Returns
    -------
    int
        Microseconds since the Unix epoch, UTC.

    Raises
    ------
    TimeError
        When the text is not a time or has no time zone.
    """
    if text is None:
        return present_us()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TimeError(f"expected an ISO 8601 time with a zone, such as 2024-01-31T08:00:00Z, got {text!r}") from error
    return to_us(moment)


def moment_us(moment: Moment | None) -> int:
    """Convert a time passed to the Python API to microseconds since the epoch, UTC.

    Parameters
    ----------
    moment : str, datetime or None
        ISO 8601 text, or a ``datetime`` (``pandas.Timestamp`` is one), with a time zone; None for now.

    Raises
    ------
    TimeError
        When it is of another type, is missing (``NaT``), or has no time zone.
    """
    if moment is None or isinstance(moment, str):
        return parse_time(moment)
    if not isinstance(moment, datetime):
        raise TimeError(
            f"expected a datetime or ISO 8601 text, both with a time zone, got {moment!r} ({type(moment).__name__}); write "
            "datetime(2024, 1, 31, tzinfo=UTC) or '2024-01-31T00:00:00Z'"
        )
    if str(moment) == "NaT":
        raise TimeError("expected a time, got NaT; drop the missing value, or pass None for now")
    return int(to_us(moment))


def check_as_of(as_of_us: int, *, allow_future: bool = False, now_us: int | None = None) -> None:
    """Reject an as-of time that lies outside the valid range of events or in the future.

    Parameters
    ----------
    as_of_us, now_us : int
        Microseconds UTC; ``now_us`` defaults to the current time.
    allow_future : bool
        Accept a time after ``now_us``.

    Raises
    ------
    TimeError
        Names both times and the option.
    """
    if not FIRST_EVENT_US <= as_of_us < END_US:
        raise TimeError(
            f"expected --as-of between {iso(FIRST_EVENT_US)} and {iso(END_US)}, the range of valid events, got "
            f"{iso(as_of_us)}; correct the year"
        )
    now_us = present_us() if now_us is None else now_us
    if as_of_us > now_us and not allow_future:
        raise TimeError(
            f"expected --as-of no later than now ({iso(now_us)}), got {iso(as_of_us)}: counts of trailing windows would decay "
            "as if nothing happened until then, and the tables cannot go back afterwards. Use an earlier time, or "
            "--allow-future if the log is a simulation"
        )
