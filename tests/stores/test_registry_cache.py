"""Feast's registry caches: a look-up never returns objects of a registry that is gone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sidkit.stores.quiet_import import quiet_feast
from sidkit.stores.registry_cache import hold_cached_registries


def test_a_registry_at_the_address_of_a_freed_one_has_its_own_views(tmp_path: Path) -> None:
    quiet_feast()
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.infra.registry import proto_registry_utils
    from feast.protos.feast.core.Registry_pb2 import Registry
    from feast.types import Int64

    hold_cached_registries()

    def registry_of(name: str) -> Registry:
        view = FeatureView(
            name=name,
            entities=[Entity(name="k", value_type=ValueType.INT64)],
            ttl=timedelta(0),
            schema=[Field(name="k", dtype=Int64), Field(name="f", dtype=Int64)],
            source=FileSource(name="s", path=str(tmp_path / "t.parquet"), timestamp_field="event_timestamp"),
        ).to_proto()
        view.spec.project = "p"
        return Registry(feature_views=[view])

    # Addresses are reused at once in CPython, so without the wrapper the second round already has stale names.
    for number in range(50):
        registry = registry_of(f"view_{number}")
        assert [view.name for view in proto_registry_utils.list_feature_views(registry, "p", None)] == [
            f"view_{number}"
        ]
        assert proto_registry_utils.get_feature_view(registry, f"view_{number}", "p").name == f"view_{number}"
        del registry


def test_wrapping_twice_changes_nothing() -> None:
    from feast.infra.registry import proto_registry_utils

    hold_cached_registries()
    before = proto_registry_utils.list_feature_views
    hold_cached_registries()
    assert proto_registry_utils.list_feature_views is before
