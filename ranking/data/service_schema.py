"""The extra features of a feature service, from its registry entry and ``[features]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ranking.data.schema import FeatureSchema, ServiceFeatures, schema_of
from sidkit.core.feature_settings import FeatureSettings, affinity_view

if TYPE_CHECKING:
    from feast import FeatureStore


def service_schema(store: FeatureStore, service_name: str, settings: FeatureSettings) -> FeatureSchema:
    """The features of a service besides the built-in ones, and those that derive from them.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service_name : str
        ``ctr_<codebook>``; features of ``<service_name>_content`` belong to items, so that the items of a history have them.
    settings : FeatureSettings
        ``[features]``.

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
    return schema_of(settings, ServiceFeatures(service_features(store, service_name), of_item, view_of))


def pinned_features(store: FeatureStore, service_name: str) -> dict[str, str]:
    """Full name -> Feast type of the features that rankers on a service may read, those by user and value included.

    Raises
    ------
    UnknownVersionError
        When the registry has no such service.
    """
    from sidkit.stores.feast_repo import service_features

    features = service_features(store, service_name)
    prefix = f"{service_name}_by_"
    for service in store.list_feature_services():
        view = affinity_view(service.name.removeprefix(prefix))
        if service.name.startswith(prefix) and [each.name for each in service.feature_view_projections] == [view]:
            features |= service_features(store, service.name)
    return features
