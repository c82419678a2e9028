"""Profiles: the stores, the registry and the engine of a repository, as parts of ``feature_store.yaml`` and ``sidkit.toml``.

A profile is one file here and one line in :data:`PROFILES`.
"""

from __future__ import annotations

from sidkit.core.errors import ConfigError
from sidkit.profiles.base import SECTIONS, Profile
from sidkit.profiles.local import LOCAL
from sidkit.profiles.production import PRODUCTION
from sidkit.profiles.spark import SPARK

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (LOCAL, SPARK, PRODUCTION)}
"""Name -> profile; the first is the default of ``sidkit init``."""


def profile_of(name: str) -> Profile:
    """The profile of a name.

    Raises
    ------
    ConfigError
        When there is none of this name.
    """
    if name not in PROFILES:
        raise ConfigError(f"expected a profile ({', '.join(PROFILES)}), got {name!r}; use one of these names")
    return PROFILES[name]


__all__ = ["PROFILES", "SECTIONS", "Profile", "profile_of"]
