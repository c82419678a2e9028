"""Moments: microseconds since the Unix epoch, UTC, as plain integers; text only at the edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sidkit.errors import TimeError

MICROS = 1_000_000
DAY_US = 86_400 * MICROS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware ``datetime``, exact (no float in between)."""
    if moment.tzinfo is None:
        raise TimeError(f"{moment.isoformat()} has no time zone; write it with one, such as {moment.isoformat()}+00:00")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(micros: int) -> datetime:
    """The aware UTC ``datetime`` of a moment in microseconds."""
    return _EPOCH + timedelta(microseconds=int(micros))


def iso(micros: int) -> str:
    """ISO-8601 text in UTC, such as ``2024-01-31T08:00:00+00:00``."""
    return from_us(micros).isoformat()


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
        return to_us(datetime.now(UTC))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TimeError(f"{text!r} is not a time; write ISO-8601 with a zone, such as 2024-01-31T08:00:00Z") from error
    return to_us(moment)
