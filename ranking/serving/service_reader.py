"""Read the online features of one feature service, from the packed store or any other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ranking.data.feature_views import plain_views
from sidkit.core.arrays import Ints
from sidkit.core.clock import present_us
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.on_demand import ServiceViews, required
from sidkit.stores.online.reader import packed_reader

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore


class ServiceReader:
    """Reads the online features of one feature service as arrays.

    sidkit's packed store decodes rows into arrays without a Python object per value. Other online stores are read with
    Feast's ``get_online_features``. The arrays are the same.

    Parameters
    ----------
    store : FeatureStore
        Feature store of the repository.
    service : FeatureService
        Feature service to read; its views are looked up in the registry once (``views``).
    unread : collection of str
        Full names of features of stored views that are not read, except as inputs of on-demand views.
    views : ServiceViews, optional
        The views to read; default: those of the service.
    """

    def __init__(
        self,
        store: FeatureStore,
        service: FeatureService,
        unread: Collection[str] = (),
        views: ServiceViews | None = None,
    ) -> None:
        self._store = store
        self._service = service
        self.views = ServiceViews.of(store, service).without(unread) if views is None else views
        self._whole = not unread and not self.views.on_demand and views is None
        self.packed = packed_reader(store, self.views.stored)

    def narrowed(self, views: ServiceViews) -> ServiceReader:
        """A reader of some of the views."""
        return ServiceReader(self._store, self._service, views=views)

    def stored(self, views: Mapping[str, ViewRows]) -> list[ViewRows]:
        """Those of the views read that are stored; on-demand views have a row for every key."""
        computed = {view.name for view in self.views.on_demand}
        return [view for name, view in views.items() if name not in computed]

    def read(self, keys: Mapping[str, Sequence[Any]], at_us: int | None = None) -> dict[str, ViewRows]:
        """Read the features of rows; on-demand views are computed from them.

        Parameters
        ----------
        keys : mapping
            Join key or request input -> values, all of the same length.
        at_us : int, optional
            Time at which the packed store checks TTLs, and request input ``at_us``, microseconds UTC; default: now. Feast's
            other stores do not check TTLs.

        Returns
        -------
        dict
            View name (or its alias in the service) -> rows; columns have Feast's full names and the types that the view
            declares.

        Raises
        ------
        ServingError
            When a key or request input is missing, or has the wrong type.
        """
        keys = self.views.whole_keys(keys)
        views = self.packed.read(keys, at_us) if self.packed is not None else self._read_with_feast(keys)
        if not self.views.on_demand:
            return views
        count = len(next(iter(keys.values()), ()))
        times_us: Ints = np.full(count, present_us() if at_us is None else at_us, dtype=np.int64)
        return self.views.completed(views, keys, times_us)

    def _read_with_feast(self, keys: Mapping[str, Sequence[Any]]) -> dict[str, ViewRows]:
        """The stored views. On-demand ones are left to sidkit: Feast loses those in Python mode with full names."""
        rows: dict[str, Any] = {name: list(required(keys, name, self.views.names)) for name in self.views.keys}
        rows = rows or {
            name: list(values) for name, values in keys.items()
        }  # how many rows, for views without entities
        projections = [view.projection for view in self.views.stored]
        features: Any = self._service
        if not self._whole:
            features = list(dict.fromkeys(f"{each.name}:{of.name}" for each in projections for of in each.features))
        response = self._store.get_online_features(features=features, entity_rows=rows, full_feature_names=True)
        return plain_views(response.to_arrow(), projections, aliased=self._whole)
