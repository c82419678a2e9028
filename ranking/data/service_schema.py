"""The extra features of a feature service, from its registry entry and ``[features]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ranking.data.code_counts import has_code_counts
from ranking.data.code_schema import code_features, codebook_of, stats_depths
from ranking.data.schema import BUILT_IN_VIEWS, FeatureSchema, ServiceFeatures, schema_of
from sidkit.core.code_stats import codes_service
from sidkit.core.feature_settings import FeatureSettings, affinity_view

if TYPE_CHECKING:
    from feast import FeatureStore


def service_schema(
    store: FeatureStore, service_name: str, settings: FeatureSettings, *, conversions: bool = False
) -> FeatureSchema:
    """The features of a service besides the built-in ones, and those that derive from them.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service_name : str
        ``ctr_<codebook>``; features of ``<service_name>_content`` belong to items, so that the items of a history have them.
    settings : FeatureSettings
        ``[features]``.
    conversions : bool
        Whether the log has conversions, so that those per prefix are features.

    Raises
    ------
    UnknownVersionError
        When the registry has no such service.
    ConfigError
        When a feature has a type that no ranker reads.
    """
    from sidkit.stores.feast_repo import feature_service, service_features

    view_of = {
        f"{projection.name_to_use()}__{feature.name}": projection.name_to_use()
        for projection in feature_service(store, service_name).feature_view_projections
        for feature in projection.features
    }
    of_item = service_features(store, f"{service_name}_content")
    schema = schema_of(settings, ServiceFeatures(service_features(store, service_name), of_item, view_of))
    depths = stats_depths(name.partition("__")[0] for name in _code_features(store, service_name))
    return FeatureSchema((*schema.features, *code_features(depths, conversions=conversions).features))


def pinned_features(store: FeatureStore, service_name: str, *, allow_cache: bool = False) -> dict[str, str]:
    """Full name -> Feast type of the features that rankers on a service may read, with those by value and by prefix.

    ``allow_cache``: see :func:`sidkit.stores.feast_repo.feature_service`.

    Raises
    ------
    UnknownVersionError
        When the registry has no such service.
    """
    from sidkit.stores.feast_repo import service_features

    features = service_features(store, service_name, allow_cache=allow_cache)
    prefix = f"{service_name}_by_"
    services = store.registry.list_feature_services(store.project, allow_cache=allow_cache)
    for service in services:
        view = affinity_view(service.name.removeprefix(prefix))
        if service.name.startswith(prefix) and [each.name for each in service.feature_view_projections] == [view]:
            features |= service_features(store, service.name, allow_cache=allow_cache)
    return features | _code_features(store, service_name, allow_cache=allow_cache)


def features_read(schema: FeatureSchema, features: Mapping[str, str]) -> dict[str, str]:
    """Those of the features of a service that a ranker with a schema reads: the built-in ones, and what the schema needs.

    Parameters
    ----------
    schema : FeatureSchema
        The ranker's features besides the built-in ones.
    features : mapping
        Full name -> Feast type; see :func:`pinned_features`.
    """
    names = {name for each in schema.features for name in (each.name, each.of)}

    def is_read(name: str) -> bool:
        view = name.partition("__")[0]
        by_code = view.startswith(("code_stats_d", "user_code_stats_d"))
        return (
            view in BUILT_IN_VIEWS or name in names or view in schema.by_value or (by_code and schema.reads_code_stats)
        )

    return {name: kind for name, kind in features.items() if is_read(name)}


def _code_features(store: FeatureStore, service_name: str, *, allow_cache: bool = False) -> dict[str, str]:
    """Full name -> Feast type of the counts per prefix; none for a codebook without."""
    from sidkit.stores.feast_repo import service_features

    if not has_code_counts(store, service_name, allow_cache=allow_cache):
        return {}
    return service_features(store, codes_service(codebook_of(service_name)), allow_cache=allow_cache)
