"""Data sources whose kind changed, such as ``FileSource`` to ``SparkSource`` after a change of the profile.

Feast reads a registered source as the kind of the new one before it replaces it, and fails; the registered one is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidkit.core.repo import Repo
from sidkit.stores.registry_check import registry_file


def forget_other_kinds(repo: Repo, config: Any, sources: Iterable[Any]) -> list[str]:
    """Delete the registered data sources that have the name of one of these and another kind; returns their names.

    Parameters
    ----------
    repo : Repo
        The repository.
    config : RepoConfig
        Its registry is read and changed.
    sources : iterable of DataSource
        The sources of the definitions that are about to be applied.
    """
    from feast import FeatureStore

    file = registry_file(repo)
    if file is not None and not (file.is_file() and file.stat().st_size):
        return []  # the apply creates it
    kinds = {source.name: type(source) for source in sources}
    registry = FeatureStore(config=config).registry
    known = registry.list_data_sources(project=config.project, allow_cache=False)
    other = [source.name for source in known if type(source) is not kinds.get(source.name, type(source))]
    for name in other:
        registry.delete_data_source(name, project=config.project)
    return other
