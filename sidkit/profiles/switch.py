"""Which profile a repository has, and the change to another one.

There is no record of the profile: the values of ``feature_store.yaml`` and ``sidkit.toml`` are compared with those of the
profiles, so that what is shown is what is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidkit.core.artifact_root import ArtifactRoot
from sidkit.core.config import FROM_ENVIRONMENT, Settings
from sidkit.core.errors import ConfigError
from sidkit.core.extras import require
from sidkit.core.files import make_private, typed_path, written_beside
from sidkit.core.repo import FEAST_FILE, SETTINGS_FILE, Repo
from sidkit.core.toml_text import with_value
from sidkit.profiles import PROFILES, SECTIONS, Profile, profile_of
from sidkit.profiles.feast_file import read_values, with_sections

NEXT = ("sidkit apply", "sidkit tables build", "sidkit materialize")
"""Commands that fill the stores of a profile after a change to it."""


ARTIFACTS = "artifacts.url"
"""The setting that no profile states: the user's URL, see :attr:`Profile.shares_artifacts`."""


@dataclass(frozen=True)
class ProfileState:
    """The profile of a repository.

    Parameters
    ----------
    name : str
        The profile with most of the repository's values.
    changed : tuple of str
        What differs from it: sections of ``feature_store.yaml``, and settings of ``sidkit.toml`` as ``table.key``.
    edited : tuple of str
        Those that differ from every profile: they were edited by hand.
    """

    name: str
    changed: tuple[str, ...]
    edited: tuple[str, ...]


def state_of(repo: Repo) -> ProfileState:
    """Compare a repository with the profiles.

    Raises
    ------
    RepoError
        When ``feature_store.yaml`` is not YAML.
    """
    values = _values_of(repo)
    differing = {
        name: tuple(place for place, value in _stated_by(profile).items() if values[place] != value)
        for name, profile in PROFILES.items()
    }
    name = min(differing, key=lambda each: len(differing[each]))
    edited = tuple(place for place in values if all(place in places for places in differing.values()))
    return ProfileState(name, differing[name], edited)


def switch_profile(repo: Repo, name: str, *, replace_edited: bool = False, artifacts: str | None = None) -> list[str]:
    """Write the sections and settings of a profile; the repository's data stay as they are.

    Parameters
    ----------
    repo : Repo
        The repository; its lock is taken.
    name : str
        The profile.
    replace_edited : bool
        Also replace what was edited by hand.
    artifacts : str, optional
        A URL for ``artifacts.url``, where artefacts are shared; default: the present one stays.

    Returns
    -------
    list of str
        What changed; empty if the repository had the profile.

    Raises
    ------
    ConfigError
        When there is no such profile, values that were edited by hand would be lost, or no file system has such a URL.
    MissingExtraError
        When the profile needs a package that is not installed; nothing has been written then.
    """
    profile = profile_of(name)
    if artifacts is not None:
        artifacts = checked_url(artifacts)
    require(*profile.modules, purpose=f"the profile {name}", extra=name)
    with repo.locked_or_held():
        state, values, stated = state_of(repo), _values_of(repo), _stated_by(profile)
        changed = [place for place, value in stated.items() if values[place] != value]
        lost = [place for place in changed if place in state.edited]
        shared_now = repo.settings.artifacts.url
        if artifacts is not None and artifacts != shared_now:
            values[ARTIFACTS], stated[ARTIFACTS] = shared_now, artifacts
            changed.append(ARTIFACTS)
            lost += [ARTIFACTS] if shared_now else []
        if lost and not replace_edited:
            raise ConfigError(
                f"expected the values of a profile in {repo.path}, got others for {', '.join(lost)}; switching to {name!r} "
                "would replace them. Note them down and pass --replace-edited, then edit the files again"
            )
        # feature_store.yaml comes first: after a kill between both files, the same command changes the rest.
        sections = {place: profile.sections[place] for place in changed if place in SECTIONS}
        if sections:
            path = repo.path / FEAST_FILE
            with written_beside(path) as temporary:
                temporary.write_text(with_sections(path.read_text(encoding="utf-8"), sections), encoding="utf-8")
        settings = [place for place in changed if place not in SECTIONS]
        if settings:
            _write_settings(repo, {place: stated[place] for place in settings})
    return [*(f"{FEAST_FILE}: {place}" for place in sections), *(f"{SETTINGS_FILE}: {place}" for place in settings)]


def checked_url(url: str) -> str:
    """A URL for artefacts as it is stored: a path becomes an absolute one. ``env:NAME`` is checked where it is used.

    Raises
    ------
    ConfigError
        When it is empty, or its file system is not installed.
    """
    if not url.strip():
        raise ConfigError(
            "expected a URL for the artefacts, such as s3://bucket/prefix, file:///mnt/shared or env:NAME, got an empty text"
        )
    if url.startswith(FROM_ENVIRONMENT):
        return url
    stored = url if ":" in url else f"file://{typed_path(url)}"
    ArtifactRoot(stored)
    return stored


def unshared(repo: Repo) -> str | None:
    """What to do if the profile of a repository shares artefacts, but no URL is set; None otherwise."""
    profile = PROFILES[state_of(repo).name]
    if not profile.shares_artifacts or repo.settings.artifacts.url:
        return None
    return (
        f"artefacts stay in {repo.path / 'artifacts'}, where other machines cannot read them; to share them, run "
        f"`sidkit profile switch {profile.name} --artifacts URL` with a URL such as s3://bucket/prefix or file:///mnt/shared"
    )


def _write_settings(repo: Repo, values: Mapping[str, Any]) -> None:
    path = repo.path / SETTINGS_FILE
    text = path.read_text(encoding="utf-8-sig")
    for place, value in values.items():
        table, key = place.split(".")
        text = with_value(text, table, key, value)
    with written_beside(path) as temporary:
        make_private(temporary)  # a URL may hold a password
        temporary.write_text(text, encoding="utf-8")
    Settings.load(path)
    vars(repo).pop("settings", None)  # cached from the former text


def _values_of(repo: Repo) -> dict[str, Any]:
    """Each section and setting that profiles state -> its value in the repository."""
    path = repo.path / FEAST_FILE
    sections = read_values(path.read_text(encoding="utf-8"), path)
    settings = Settings.load(repo.path / SETTINGS_FILE)
    return {
        **{name: sections.get(name) for name in SECTIONS},
        **{place: _setting(settings, place) for place in _settings_stated()},
    }


def _stated_by(profile: Profile) -> dict[str, Any]:
    """Each section and setting that profiles state -> its value under a profile."""
    defaults = Settings()
    values = {name: read_values(text, Path(FEAST_FILE)).get(name) for name, text in profile.sections.items()}
    for place in _settings_stated():
        table, key = place.split(".")
        values[place] = profile.settings.get(table, {}).get(key, _setting(defaults, place))
    return values


def _settings_stated() -> list[str]:
    return sorted(
        {f"{table}.{key}" for profile in PROFILES.values() for table, keys in profile.settings.items() for key in keys}
    )


def _setting(settings: Settings, place: str) -> Any:
    table, key = place.split(".")
    return getattr(getattr(settings, table), key)
