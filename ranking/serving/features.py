"""Features of one request from the online store, as the same views that training reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.training_set import LabelledRows, TrainingSet, assemble
from ranking.views import Ints, plain_views
from semantic_ids.codebook import Codebook
from sidkit.stores.asof import ViewRows

if TYPE_CHECKING:
    from feast import FeatureStore


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
        self._store = store
        self._codebook = codebook
        self._user = store.get_feature_service(f"{service_name}_user")
        self._item = store.get_feature_service(f"{service_name}_item")
        self._content = store.get_feature_service(f"{service_name}_content")

    def request(
        self, user_id: str, item_ids: Sequence[str], at_us: int, *, rate: float, history_length: int
    ) -> TrainingSet:
        """The rows (user, item) of one request at one moment, as arrays.

        Reads the user once, the candidates, then the items of the user's history.
        """
        items = np.array(item_ids, dtype=object)
        moments = np.full(len(items), at_us, dtype=np.int64)
        views = self._read(self._item, "item_id", items)
        for name, view in self._read(self._user, "user_id", np.array([user_id], dtype=object)).items():
            views[name] = ViewRows(name, np.repeat(view.index, len(items)), view.table)
        rows = LabelledRows(np.full(len(items), user_id, dtype=object), items, moments, np.zeros(len(items), np.int8))

        def look_up(history: npt.NDArray[np.object_], _: Ints) -> Mapping[str, ViewRows]:
            return self._read(self._content, "item_id", history)

        return assemble(views, rows, self._codebook, look_up, rate=rate, history_length=history_length)

    def _read(self, service: object, key: str, values: npt.NDArray[np.object_]) -> dict[str, ViewRows]:
        response = self._store.get_online_features(
            features=service, entity_rows={key: values.tolist()}, full_feature_names=True
        )
        return plain_views(response.to_arrow(), service)
