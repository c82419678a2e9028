"""Steps on the profile of a repository: its stores, registry and engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.api.base import ProjectBase

if TYPE_CHECKING:
    from sidkit.profiles.switch import ProfileState


class ProfileSteps(ProjectBase):
    """The profile: shown, and changed."""

    def profile(self) -> ProfileState:
        """Compare ``feature_store.yaml`` and ``sidkit.toml`` with the profiles.

        Returns
        -------
        ProfileState
            ``name`` of the closest profile, and what differs from it.
        """
        from sidkit.profiles.switch import state_of

        return state_of(self.repo)

    def switch_profile(self, name: str, *, replace_edited: bool = False) -> list[str]:
        """Change the stores, the registry and the engine; :data:`sidkit.profiles.switch.NEXT` fills them afterwards.

        Parameters
        ----------
        name : str
            A key of :data:`sidkit.profiles.PROFILES`.
        replace_edited : bool
            Also replace values that were edited by hand.

        Returns
        -------
        list of str
            What changed in ``feature_store.yaml`` and ``sidkit.toml``; empty if nothing did.

        Raises
        ------
        ConfigError
            When there is no such profile, or values that were edited by hand would be lost.
        MissingExtraError
            When the profile needs a package that is not installed; nothing has been written then.
        """
        from sidkit.profiles.switch import switch_profile

        return switch_profile(self.repo, name, replace_edited=replace_edited)


def refuse_unusable_profile(name: str) -> None:
    """Raise before a repository is created if the profile is unknown or lacks a package."""
    from sidkit.core.extras import require
    from sidkit.profiles import profile_of

    require(*profile_of(name).modules, purpose=f"the profile {name}", extra=name)
