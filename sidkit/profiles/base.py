"""What a profile is: sections of ``feature_store.yaml`` and settings of ``sidkit.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SECTIONS = ("registry", "offline_store", "online_store", "batch_engine", "materialization")
"""The top-level keys of ``feature_store.yaml`` that every profile states; all others are the user's."""


@dataclass(frozen=True)
class Profile:
    """Stores, registry and engine of a repository.

    Parameters
    ----------
    name : str
        Argument of ``sidkit profile switch``.
    summary : str
        One line on what runs where.
    sections : mapping
        Each of :data:`SECTIONS` -> its YAML text, key and comments included. Secrets are environment variables, which Feast
        reads (``${NAME}``).
    settings : mapping
        Table of ``sidkit.toml`` -> key -> value. A setting that another profile states and this one does not has its default.
    modules : tuple of str
        Optional modules that it needs, keys of :data:`sidkit.core.extras.EXTRAS_OF`.
    variables : tuple of str
        Environment variables that its texts read.
    shares_artifacts : bool
        Whether several machines use its catalogue, so that they need ``artifacts.url`` of ``sidkit.toml`` too. The URL is the
        user's; no profile states one.
    """

    name: str
    summary: str
    sections: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    shares_artifacts: bool = False
