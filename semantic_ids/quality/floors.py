"""Floors that codes must not fall below: a codebook that collapsed is refused before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from sidkit.core.config import Section
from sidkit.core.errors import ConfigError, FitError

Share = Annotated[float, Field(ge=0, le=1)]

_REMEDY = {
    "utilisation": "codes that no item uses are dead: give that level fewer codes, or fit on more items",
    "perplexity": "few codes hold most items: give that level fewer codes, look for items of equal content, or take a "
    "quantizer that balances its last level",
}


class Floors(Section):
    """The least that the codes of a fit must reach (``[codebook.floors]``): one figure for all levels, or one per level."""

    utilisation: Share | tuple[Share, ...] = 0.5
    """Used codes / codes of a level."""
    perplexity: Share | tuple[Share, ...] = 0.1
    """exp(entropy) / codes of a level; 1 when all codes are equally used."""


def below_floors(quality: Mapping[str, Any], floors: Floors) -> list[str]:
    """What fell below which floor, one sentence per measure and level; empty when the codes pass.

    Parameters
    ----------
    quality : mapping
        Of :func:`semantic_ids.quality.code_metrics.code_quality`; ``utilisation`` and ``perplexity`` are read.
    floors : Floors
        Levels are counted from 1 in the sentences.

    Raises
    ------
    ConfigError
        When a floor lists another number of levels than the codes have.
    """
    found = []
    for measure, remedy in _REMEDY.items():
        values: Sequence[float] = quality[measure]
        floor = getattr(floors, measure)
        least = floor if isinstance(floor, tuple) else (floor,) * len(values)
        if len(least) != len(values):
            raise ConfigError(
                f"the floor of {measure} lists {len(least)} levels; the codes have {len(values)}. Give one figure per "
                "level, or a single one for all"
            )
        found += [
            f"{measure} of level {level} is {value:.3f}, below its floor of {lowest:g} ({remedy})"
            for level, (value, lowest) in enumerate(zip(values, least, strict=True), start=1)
            if not value >= lowest
        ]
    return found


def check_floors(quality: Mapping[str, Any], floors: Floors) -> None:
    """Refuse codes that fell below a floor.

    Raises
    ------
    FitError
        When a level is below a floor; the message names each.
    ConfigError
        As :func:`below_floors`.
    """
    found = below_floors(quality, floors)
    if found:
        raise FitError(
            f"the codes collapsed: {'; '.join(found)}. Fit fewer codes "
            "(`sizes` in the preset's [codebook]), or lower the floors (`utilisation`, `perplexity` in [codebook.floors]) to "
            "keep such codes"
        )
