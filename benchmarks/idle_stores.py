"""Online stores that write nothing, to measure Feast's own cost. ``online.py`` refers to them in Feast's configuration."""

from __future__ import annotations

from typing import Any

from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import FeastConfigBaseModel

from sidkit.stores.online.store import freeze_imports


class UnfrozenOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    type: str = "idle_stores.UnfrozenOnlineStore"
    path: str = ""


class NothingOnlineStoreConfig(UnfrozenOnlineStoreConfig):
    type: str = "idle_stores.NothingOnlineStore"


class UnfrozenOnlineStore(OnlineStore):  # type: ignore[misc]
    """Does not change the garbage collector."""

    def online_write_batch(self, config: Any, table: Any, data: Any, progress: Any) -> None:
        pass

    def online_read(self, config: Any, table: Any, entity_keys: Any, requested_features: Any = None) -> Any:
        return [(None, None)] * len(entity_keys)

    def update(self, *_: Any, **__: Any) -> None:
        pass

    def teardown(self, *_: Any) -> None:
        pass


class NothingOnlineStore(UnfrozenOnlineStore):
    """Freezes the objects created by importing Feast (``gc.freeze``), as the kit's store does."""

    def __init__(self) -> None:
        freeze_imports()
