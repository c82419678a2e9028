"""Minimum quality of codes: a collapsed codebook fails before a ranker is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from sidkit.core.errors import ConfigError, FitError
from sidkit.core.section import Section

Share = Annotated[float, Field(ge=0, le=1)]

_REMEDY = {
    "utilisation": "many codes are unused: give that level fewer codes, or fit on more items",
    "perplexity": "few codes hold most items: give that level fewer codes, check for items with equal content, or use a "
    "quantizer that balances its last level",
}


class Floors(Section):
    """Minimum values for the codes of a fit (``[codebook.floors]``): one value for all levels, or one per level."""

    utilisation: Share | tuple[Share, ...] = 0.5
    """Used codes / codes of a level."""
    perplexity: Share | tuple[Share, ...] = 0.1
    """exp(entropy) / codes of a level; 1 when all codes are equally used."""


def below_floors(quality: Mapping[str, Any], floors: Floors) -> list[str]:
    """One message per measure and level that is below its floor; empty if the codes pass.

    Parameters
    ----------
    quality : mapping
        Of :func:`semantic_ids.quality.code_metrics.code_quality`; ``utilisation`` and ``perplexity`` are read.
    floors : Floors
        Levels are counted from 1 in the messages.

    Raises
    ------
    ConfigError
        When the number of values of a floor differs from the number of levels.
    """
    failures = []
    for measure, remedy in _REMEDY.items():
        values: Sequence[float] = quality[measure]
        floor = getattr(floors, measure)
        least = floor if isinstance(floor, tuple) else (floor,) * len(values)
        if len(least) != len(values):
            raise ConfigError(
                f"the floor of {measure} has {len(least)} values, but the codes have {len(values)} levels; give one value "
                "per level, or a single value for all"
            )
        failures += [
            f"{measure} of level {level} is {value:.3f}, below its floor of {lowest:g} ({remedy})"
            for level, (value, lowest) in enumerate(zip(values, least, strict=True), start=1)
            if not value >= lowest
        ]
    return failures


def check_floors(quality: Mapping[str, Any], floors: Floors) -> None:
    """Raise an error if the codes are below a floor.

    Raises
    ------
    FitError
        When a level is below a floor; the message names each.
    ConfigError
        As :func:`below_floors`.
    """
    failures = below_floors(quality, floors)
    if failures:
        raise FitError(
            f"the codes collapsed: {'; '.join(failures)}. Use fewer codes (`sizes` in the preset's [codebook]), or lower the "
            "floors (`utilisation`, `perplexity` in [codebook.floors]) to accept such codes"
        )
