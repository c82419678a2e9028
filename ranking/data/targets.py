"""What a ranker predicts: a click, or a conversion of the exposure."""

from __future__ import annotations

from typing import Literal

from sidkit.core.config import Settings
from sidkit.core.errors import ConfigError

Target = Literal["clicked", "converted"]
CLICKED: Target = "clicked"
CONVERTED: Target = "converted"


def target_inputs(target: Target) -> list[str]:
    """Inputs of stages that depend on the target; none for clicks, so that stages of earlier releases stay valid."""
    return [] if target == CLICKED else ["target", target]


def check_target(settings: Settings, target: Target) -> None:
    """Check that the log has the labels of a target.

    Raises
    ------
    ConfigError
        When the target is ``converted`` and the log has no conversions.
    """
    if target == CONVERTED and not settings.source.conversions:
        raise ConfigError(
            'expected a log with conversions for ranker.training.target = "converted", got source.conversions = false in '
            "sidkit.toml; add the column converted (0 or 1) to interactions and create a new repository, or set the target to "
            '"clicked"'
        )
