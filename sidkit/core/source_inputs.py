"""Tables below ``[source]`` of ``sidkit.toml`` that say how to read data of another form than the contract's."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import field_validator, model_validator

from sidkit.core.section import Section


class LabelSettings(Section):
    """The rule that gives ``label`` from another column (``[source.label]``); rows whose value is missing are rejected.

    Without it the log needs a column ``label``.
    """

    positive: str = ""
    """A comparison of one column with a number or a quoted text, such as ``rating >= 4`` or ``event == 'purchase'``; rows for
    which it holds have label 1, the others 0. ``true`` for a log of positives only: every row has label 1."""
    column: str = ""
    """Instead of ``positive``: the column whose ``values`` are positive."""
    values: tuple[str | int | float | bool, ...] = ()
    """The values of ``column`` that are positive, such as ``["purchase", "cart"]``."""

    @model_validator(mode="after")
    def _one_rule(self) -> LabelSettings:
        if (self.positive and self.column) or bool(self.column) != bool(self.values):
            raise ValueError(
                'expected either positive, or column and values; write positive = "rating >= 4", or column = "event" '
                'and values = ["purchase"]'
            )
        return self


class TimesSettings(Section):
    """How times without a zone or a unit are read (``[source.times]``)."""

    unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of times that are numbers since 1970; by default it follows from their size."""
    assume_timezone: str | None = None
    """Time zone of times and dates without one, such as ``Europe/Berlin`` or ``UTC``; without it they are refused. A time that
    the zone skips or repeats is rejected."""

    @field_validator("assume_timezone")
    @classmethod
    def _is_a_zone(cls, name: str | None) -> str | None:
        try:
            ZoneInfo(name or "UTC")
        except (OSError, ValueError, LookupError) as error:
            raise ValueError(
                f'expected a time zone of the IANA database, got {str(name)[:80]!r}; write "UTC" or "Europe/Berlin"'
            ) from error
        return name


class VectorSettings(Section):
    """How vectors in bytes are read (``[source.vectors]``)."""

    dtype: Literal["float16", "float32", "float64"] | None = None
    """Type of the numbers in columns of bytes, little-endian. By default they are float32 if all values of a column have one
    length and plausible numbers; values that are whole ``.npy`` files need no setting."""
