"""What the contract checks of all kinds of plug-ins share."""

from __future__ import annotations

from sidkit.core.errors import PluginError


def require(condition: bool, name: str, requirement: str) -> None:
    """Raise unless a class satisfies a requirement of its contract.

    Raises
    ------
    PluginError
        When ``condition`` is False; names the class and the requirement.
    """
    if not condition:
        raise PluginError(f"{name} violates its contract: {requirement}")
