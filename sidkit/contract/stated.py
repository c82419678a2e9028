"""Settings of a source that belongs to no repository yet: given as values, in a file, or next to the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidkit.core.config import SourceSettings, load_section, resolved_url, validated
from sidkit.core.files import typed_path

FILE = "sidkit.toml"


def stated_settings(url: str, given: Mapping[str, Any] | None = None, file: Path | None = None) -> SourceSettings:
    """The settings that a user states about a source; keys that are not stated keep their defaults.

    Parameters
    ----------
    url : str
        The source, as :func:`sidkit.contract.open_source` takes it.
    given : mapping, optional
        Keys of ``[source]`` as values, such as ``{"columns": {"timestamp": "ts"}}``.
    file : Path, optional
        A TOML file with a table ``[source]``; default: ``sidkit.toml`` in the folder of the data, if there is one.

    Raises
    ------
    ConfigError
        When a key is unknown or has an invalid value, or the file cannot be read.
    """
    if given is not None:
        return validated(SourceSettings, {**given, "url": url}, "source")
    if file is None:
        place = resolved_url(url)
        beside = typed_path(place) / FILE if place and "://" not in place else None
        file = beside if beside is not None and beside.is_file() else None
    if file is None:
        return SourceSettings(url=url)
    stated = load_section(SourceSettings, file, "source")
    return stated_again(stated, {"url": url})


def stated_again(settings: SourceSettings, changed: Mapping[str, Any]) -> SourceSettings:
    """The settings with changed keys; only stated and changed keys count as stated."""
    return SourceSettings(**{**settings.model_dump(include=settings.model_fields_set), **changed})


def further_keys(settings: SourceSettings) -> dict[str, Any]:
    """The stated keys that are not inferred from the data, as JSON values for ``[source]`` of ``sidkit.toml``."""
    inferred = {"url", "modalities", "feedback", "conversions"}
    kept: dict[str, Any] = settings.model_dump(
        mode="json", include=settings.model_fields_set - inferred, exclude_defaults=True, exclude_none=True
    )
    return kept
