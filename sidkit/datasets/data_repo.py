"""Repositories created for given data: their ``[source]`` matches it, and a plug-in that writes it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidkit.contract import (
    SourceFacts,
    features_section,
    inspect_source,
    located,
    open_source,
    same_source,
    stated_settings,
)
from sidkit.core.errors import ConfigError, PluginChangedError
from sidkit.core.files import typed_path
from sidkit.core.integrity import read_sealed, write_sealed
from sidkit.core.redact import redacted
from sidkit.core.repo import Repo, init_repo
from sidkit.datasets import NamedDataset, named_dataset

DATASET_FILE = "dataset.json"
"""File in ``data/`` that records the plug-in that wrote the repo's source, with its hash."""


def create_repo(
    path: Path | str, data: str, source: Mapping[str, Any] | None = None, settings_file: Path | None = None
) -> Repo:
    """Create a repository whose ``[source]`` matches the data, and whose ``[features]`` lists its attributes.

    The tables of a generated data set (:func:`sidkit.datasets.named_dataset`) are not written yet; they belong in
    ``data/source``. A user-defined data set is recorded in ``data/dataset.json`` by its hash. Its code is not copied, since its
    rows are saved in ``data/source``; that folder can be passed as the data instead.

    Parameters
    ----------
    path : Path or str
        A new or empty folder, or that of a killed creation.
    data : str
        A folder of files, a SQLAlchemy URL, or a generated data set.
    source, settings_file : optional
        What the user states about the data; see :func:`sidkit.contract.stated_settings`.

    Raises
    ------
    RepoError
        When the folder is not empty.
    ContractError
        When the data cannot be read.
    """
    folder = typed_path(path)
    dataset, features = named_dataset(data), ""
    if dataset:
        writer = dataset.make()
        facts = SourceFacts(writer.modalities, writer.feedback, writer.conversions)
    else:
        opened = open_source(data, stated_settings(data, source, settings_file))
        facts, features = inspect_source(opened), features_section(opened)
    repo = init_repo(folder, source_url=_source_url(folder, data, dataset), features=features, **facts.settings())
    facts.warn()
    _record_dataset(repo, dataset)
    return repo


def refuse_other_data(repo: Repo, data: str, settings_file: Path | None = None) -> None:
    """Raise unless the repository was created for the data.

    Raises
    ------
    ConfigError
        When it was created for other data, or a settings file is given: the repository has settings already.
    PluginChangedError
        When another version of the data set's code wrote the repository's source.
    """
    if settings_file is not None:
        raise ConfigError(
            f"expected no --settings, because {repo.path} exists and its sidkit.toml has the settings; edit that file, or use "
            "another --repo"
        )
    dataset = named_dataset(data)
    expected, url = repo.settings.source.url, _source_url(repo.path, data, dataset)
    if not same_source(expected, url):
        shown, given = redacted(expected), redacted(url)
        why = " (they differ in redacted parts)" if shown == given else ""
        raise ConfigError(
            f"{repo.path} was created for {shown!r}, got {given!r}{why}; use another --repo, or change source.url in its "
            "sidkit.toml"
        )
    _record_dataset(repo, dataset)


def _source_url(folder: Path, data: str, dataset: NamedDataset | None) -> str:
    """What settings store; relative paths are those of the current directory, not of the repository."""
    return str(folder / "data" / "source") if dataset else located(open_source(data, required=()).url)


def _record_dataset(repo: Repo, dataset: NamedDataset | None) -> None:
    """Record the plug-in before it writes the repo's source; raise if another one was recorded."""
    path, source = repo.data / DATASET_FILE, repo.data / "source"
    plugin = dataset.plugin if dataset else None
    if path.is_file() and dataset:
        stated = read_sealed(path)["plugin"]
        if plugin is None or plugin.sha256 != stated["sha256"] or plugin.version != stated.get("version"):
            raise PluginChangedError(
                path,
                stated["reference"],
                stated["sha256"],
                plugin.sha256 if plugin else dataset.name,
                f"restore the code that wrote {source}, pass that folder as --data to use its rows, or use another --repo",
            )
    elif plugin is not None:
        if source.exists():
            raise ConfigError(f"{repo.path} was created for other data than {plugin.reference}; use another --repo")
        write_sealed(path, {"plugin": plugin.describe(copied=False)})
