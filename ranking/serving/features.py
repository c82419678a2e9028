"""Features of one request from the online store, as the same views that training reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset, LabelledRows, assemble
from ranking.data.feature_views import plain_views
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Ints
from sidkit.stores.feast_repo import feature_service
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.online.reader import packed_reader

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore


class ServiceReader:
    """Keys in, arrays out, for one feature service.

    On the kit's packed store rows of bytes become arrays without a Python object per value; on any other online store
    Feast's ``get_online_features`` is used. The arrays are the same.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service : FeatureService
        What to read; its views are looked up in the registry once.
    """

    def __init__(self, store: FeatureStore, service: FeatureService) -> None:
        self._store = store
        self._service = service
        self._packed = packed_reader(store, service)

    def read(self, keys: Mapping[str, Sequence[Any]], at_us: int | None = None) -> dict[str, ViewRows]:
        """The features of some rows.

        Parameters
        ----------
        keys : mapping
            Join key -> its values, all of one length.
        at_us : int, optional
            The moment at which the packed store checks TTLs, microseconds UTC; by default now. Feast's other stores do
            not check them.

        Returns
        -------
        dict
            View name (the alias where the service gives one) -> rows; columns have Feast's full names and the types that
            the view declares.
        """
        if self._packed is not None:
            return self._packed.read(keys, at_us)
        rows = {name: list(values) for name, values in keys.items()}
        response = self._store.get_online_features(features=self._service, entity_rows=rows, full_feature_names=True)
        return plain_views(response.to_arrow(), self._service)


@dataclass(frozen=True)
class Request:
    """One request as arrays, and which of its keys the online store knows.

    ``known`` is ``bool [items]``: whether any view has a row of the item. One without vectors is known; one that is in no
    view was never in the catalogue, nor in the log. ``user_known`` says the same of the user.
    """

    data: Dataset
    known: npt.NDArray[np.bool_]
    user_known: bool


class OnlineFeatures:
    """Reads a request's features through the parts of a feature service.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service_name : str
        ``ctr_<codebook>``.
    codebook : Codebook
        The service's codebook.
    """

    def __init__(self, store: FeatureStore, service_name: str, codebook: Codebook) -> None:
        self._codebook = codebook
        self._user, self._item, self._content = (
            ServiceReader(store, feature_service(store, f"{service_name}_{part}"))
            for part in ("user", "item", "content")
        )

    def request(
        self, user_id: str, item_ids: Sequence[str], at_us: int, *, rate: float, history_length: int
    ) -> Request:
        """The rows (user, item) of one request at one moment, as arrays.

        Reads the user once, the candidates, then the items of the user's history.
        """
        items = np.array(item_ids, dtype=object)
        moments = np.full(len(items), at_us, dtype=np.int64)
        views = self._item.read({"item_id": item_ids}, at_us)
        known = known_in(views.values(), len(items))
        user = self._user.read({"user_id": [user_id]}, at_us)
        for name, view in user.items():
            views[name] = ViewRows(name, np.repeat(view.index, len(items)), view.table)
        rows = LabelledRows(np.full(len(items), user_id, dtype=object), items, moments, np.zeros(len(items), np.int8))

        def look_up(history: npt.NDArray[np.object_], _: Ints) -> Mapping[str, ViewRows]:
            return self._content.read({"item_id": history.tolist()}, at_us)

        data = assemble(views, rows, self._codebook, look_up, rate=rate, history_length=history_length)
        return Request(data, known, bool(known_in(user.values(), 1)[0]))


def known_in(views: Iterable[ViewRows], rows: int) -> npt.NDArray[np.bool_]:
    """Whether any of the views has something, per row."""
    found = np.zeros(rows, dtype=np.bool_)
    for view in views:
        found |= np.asarray(view.index) >= 0
    return found
