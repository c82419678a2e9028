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

    def switch_profile(self, name: str, *, replace_edited: bool = False, artifacts: str | None = None) -> list[str]:
        """Change the stores, the registry and the engine; :data:`sidkit.profiles.switch.NEXT` fills them afterwards.

        Parameters
        ----------
        name : str
            A key of :data:`sidkit.profiles.PROFILES`.
        replace_edited : bool
            Also replace values that were edited by hand.
        artifacts : str, optional
            A URL at which artefacts are shared with other machines, such as ``s3://bucket/prefix``, or ``env:NAME``; it becomes
            ``artifacts.url`` of ``sidkit.toml``. Default: the present value stays.

        Returns
        -------
        list of str
            What changed in ``feature_store.yaml`` and ``sidkit.toml``; empty if nothing did.

        Raises
        ------
        ConfigError
            When there is no such profile, values that were edited by hand would be lost, or no file system has such a URL.
        MissingExtraError
            When the profile needs a package that is not installed; nothing has been written then.
        """
        from sidkit.profiles.switch import switch_profile

        return switch_profile(self.repo, name, replace_edited=replace_edited, artifacts=artifacts)

    def unshared_artifacts(self) -> str | None:
        """What to do if the profile shares artefacts between machines, but ``artifacts.url`` is empty; None otherwise."""
        from sidkit.profiles.switch import unshared

        return unshared(self.repo)


def refuse_unusable_profile(name: str, artifacts: str | None = None) -> None:
    """Raise before a repository is created if the profile is unknown or lacks a package, or the URL cannot be used."""
    from sidkit.core.extras import require
    from sidkit.profiles import profile_of
    from sidkit.profiles.switch import checked_url

    if artifacts is not None:
        checked_url(artifacts)
    require(*profile_of(name).modules, purpose=f"the profile {name}", extra=name)
