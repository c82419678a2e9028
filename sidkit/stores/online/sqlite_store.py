"""The packed online store in a SQLite file.

Select it in ``feature_store.yaml``::

    online_store:
      type: sidkit.stores.online.PackedSqliteOnlineStore
      path: data/online.sqlite

See :mod:`sidkit.stores.online.store` for its behaviour. Readers and one writer do not block each other. Feast's own SQLite
store can use the same file, since its tables have different names.

sidkit's own reader (:mod:`sidkit.stores.online.reader`) caches rows until the next commit to the file, at most
``row_cache_mb`` per reading thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from feast import Entity
from feast.feature_view import FeatureView
from feast.infra.infra_object import InfraObject
from feast.labeling.label_view import LabelView
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.stream_feature_view import StreamFeatureView
from pydantic import Field, StrictFloat, StrictInt, StrictStr

from sidkit.stores.online.connection import REBUILD
from sidkit.stores.online.infra import PackedTable
from sidkit.stores.online.protobuf import view_layout
from sidkit.stores.online.sqlite_file import PackedFile
from sidkit.stores.online.store import PackedOnlineStore, ViewFeature, now_us, rebuild_remedy, view_id


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Settings under ``online_store`` in ``feature_store.yaml``."""

    type: StrictStr = "sidkit.stores.online.PackedSqliteOnlineStore"
    path: StrictStr = "data/online.sqlite"  # relative to the repository
    patience_seconds: StrictFloat = 60.0  # how long a writer waits for another one
    row_cache_mb: Annotated[StrictInt, Field(ge=0)] = 128  # size of the row cache per reading thread
    offline_only: tuple[ViewFeature, ...] = ()  # view:feature, written as nulls


class PackedSqliteOnlineStore(PackedOnlineStore):
    """See the module's docstring.

    Parameters
    ----------
    clock : callable, optional
        Returns the current time in microseconds UTC, used for TTLs.
    """

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        super().__init__(clock)
        self._files: dict[Path, PackedFile] = {}
        self._named: dict[tuple[Path | None, str], PackedFile] = {}

    def file(self, config: RepoConfig) -> PackedFile:
        """The store's file."""
        named = config.repo_path, config.online_store.path
        if named in self._named:  # paths would take a tenth of the read of one entity
            return self._named[named]
        path = Path(config.repo_path or "") / config.online_store.path
        if path.absolute() not in self._files:
            options = config.online_store
            file = PackedFile(
                path.absolute(), options.patience_seconds, options.row_cache_mb << 20, rebuild_remedy(config, REBUILD)
            )
            self._files[path.absolute()] = file
        if path.is_absolute():
            self._named[named] = self._files[path]
        return self._files[path.absolute()]

    def database(self, config: RepoConfig) -> PackedFile:
        """See :meth:`file`."""
        return self.file(config)

    def plan(self, config: RepoConfig, desired_registry_proto: RegistryProto) -> list[InfraObject]:
        """List the tables that a registry needs."""
        views = [FeatureView.from_proto(view) for view in desired_registry_proto.feature_views]
        views += [StreamFeatureView.from_proto(view) for view in desired_registry_proto.stream_feature_views]
        views += [LabelView.from_proto(view) for view in desired_registry_proto.label_views if view.spec.online]
        file = self.file(config)
        return [PackedTable(str(file.path), view_id(config, view), view_layout(view)) for view in views]

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the file."""
        self.file(config).delete()

    async def close(self) -> None:
        """Close the connections of all threads."""
        for file in self._files.values():
            file.close()
